"""dedup: finds duplicates in an image set, or what it shares with another, and writes the rest as a view.

Comes between prepare and training. hashes.py makes the codes, matching.py groups them; the groups become groups.csv,
largest.png, an estimate of the false positives and the view.
"""

import csv
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import binomtest

from evalkit.artifacts import Manifest, already_built, write_artifact, write_atomically
from evalkit.errors import EvalkitError
from evalkit.images.datasets import as_image_set
from evalkit.images.dedup.hashes import (
    AutoencoderOptions,
    autoencoder_codes,
    encode_in_chunks,
    exact,
    perceptual,
    train_autoencoder,
)
from evalkit.images.dedup.matching import groups, similar_colors, similar_edges
from evalkit.images.imageset import KIND, ROWS, ImageSet, load_images, splits_of_rows, view_manifest
from evalkit.images.options import DedupOptions
from evalkit.runtime import resolve_device
from evalkit.workspace import Workspace

# Bits in which neighbors may differ, of 128, 128 and 64: enough for the changes by encoding, brightness and a shift by
# one pixel (benchmarks/results/dedup-recall.csv).
# differs from the paper: its hash is compared for equality (distance 0, confirm off), which finds half as much.
MODES = {"autoencoder": 8, "exact": 0, "perceptual": 4}
GROUPS, LARGEST = "groups.csv", "largest.png"
COLUMNS = ("group", "set", "row", "label", "class")
_JUDGED = 200  # pairs; none unlike among 200 bounds the rate at 1.9 % (Wilson, 95 %)
_SHOWN = 12  # groups, and images of each
ReadImage = Callable[[int], np.ndarray]
logger = logging.getLogger(__name__)


def dedup(
    images: Any,
    *,
    against: Any = None,
    home: Workspace | Path | str | None = None,
    name: str | None = None,
    options: DedupOptions | None = None,
    autoencoder: AutoencoderOptions | None = None,
    device: str = "auto",
    **settings: Any,
) -> ImageSet:
    """Makes a view of an image set without its duplicates, or without what another image set also holds.

    The first image of a group of duplicates stays; of images that `against` also holds, none stays. The folder of the
    view has groups.csv, largest.png and, in the manifest under "dedup", the counts and the estimated false positives.

    Args:
        images: anything that `as_image_set` takes.
        against: another image set, of images of the same size; the split `against_split` of it counts.
        home: the workspace to write to; by default the files go with the returned object.
        name: the name of the view; by default IMAGES-dedup, or IMAGES-without-AGAINST.
        options, settings: what counts as a duplicate; `settings` are fields of DedupOptions by keyword.
        autoencoder: how to train the autoencoder.
        device: where to train the autoencoder; "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        EvalkitError: no such mode, images of two sizes, or the workspace holds something else by this name.
    """
    options = replace(options or DedupOptions(), **settings)
    workspace = Workspace.of(home)
    source = as_image_set(images, home=home)
    pair = Pair(source, None if against is None else as_image_set(against, home=home), options.against_split)
    suffix = f"without-{pair.other.name}" if pair.other else "dedup"
    target = workspace.path_of(KIND, name or f"{source.name}-{suffix}")
    _check(pair, options.mode, target)
    view = _write_view(target, pair, options, autoencoder or AutoencoderOptions(), device)
    for line in dedup_summary(view):
        logger.info(line)
    return view.keeping(workspace, source)


def _write_view(
    target: Path, pair: "Pair", options: DedupOptions, autoencoder: AutoencoderOptions, device: str
) -> ImageSet:
    """Makes the view in `target`, or returns the finished one."""
    bits = MODES[options.mode] if options.distance is None else options.distance
    settings: dict[str, Any] = {
        "mode": options.mode,
        "distance": bits,
        "confirm": options.confirm,
        "seed": options.seed,
    }
    if options.mode == "autoencoder":
        settings["autoencoder"] = asdict(autoencoder)
    if pair.other:
        settings["against"] = {"name": pair.other.name, "split": pair.split, "sha256": pair.other.sha256}
    manifest = view_manifest(pair.images, target, settings)
    inputs = {"settings": manifest["settings"], "made_from": manifest["made_from"]}
    if already_built(target, KIND, **inputs, replace=options.replace):
        return load_images(target)
    with write_artifact(target, **inputs) as work:
        codes, error = _codes(pair, options, autoencoder, device, shifted=bits > 0)
        confirm = Confirmation(pair) if options.confirm and options.mode != "exact" else None
        matches = groups(codes, bits, same=confirm)
        rows, report = _write(work.path, pair, matches, options.seed)
        report |= {"reconstruction_error": error} if error is not None else {}
        report |= confirm.counts if confirm else {}
        splits = splits_of_rows(pair.images.splits, rows)
        body = {"class_names": list(pair.images.class_names), "splits": {k: list(v) for k, v in splits.items()}}
        work.finish(manifest | body | {"dedup": asdict(DedupReport(**report))})
    return load_images(target)


@dataclass(frozen=True)
class DedupReport:
    """The counts of a view, in its manifest under "dedup".

    Attributes:
        images, dropped, kept: numbers of images of the set; groups, largest: number of groups, size of the largest.
        pairs_judged, unlike: pairs in the sample, and those whose edges or colors differ: the false positives.
        false_positive_percent, low_percent, high_percent: their share and its 95 % bounds.
        pairs_proposed, pairs_confirmed: pairs with similar codes, and those whose images agree; None if not compared.
        reconstruction_error: squared error of the autoencoder; None in other modes.
    """

    images: int
    groups: int
    largest: int
    dropped: int
    kept: int
    pairs_judged: int
    unlike: int
    false_positive_percent: float
    low_percent: float
    high_percent: float
    pairs_proposed: int | None = None
    pairs_confirmed: int | None = None
    reconstruction_error: float | None = None

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "DedupReport":
        """The report of a view."""
        return cls(**manifest["dedup"])


def dedup_summary(view: ImageSet) -> list[str]:
    """What dedup found, as lines for the terminal."""
    report, settings = DedupReport.from_manifest(view.manifest), view.manifest["settings"]
    other = settings.get("against")
    dropped = f"also in {other['name']} ({other['split']})" if other else "duplicates"
    lines = [
        f"{view.name}: {report.kept:,} of {report.images:,} images kept, {report.dropped:,} {dropped} in "
        f"{report.groups:,} groups, the largest of {report.largest:,} ({settings['mode']}, "
        f"{settings['distance']} bits)"
    ]
    if report.pairs_proposed is not None:
        lines.append(
            f"the codes proposed {report.pairs_proposed:,} pairs, the images themselves confirmed "
            f"{report.pairs_confirmed:,}"
        )
    if report.pairs_judged:
        lines.append(
            f"false positives: {report.unlike} of {report.pairs_judged} pairs judged unlike, "
            f"{report.false_positive_percent} % (95 %: {report.low_percent} to {report.high_percent} %)"
        )
    return lines + [f"groups in {GROUPS}, the largest ones in {LARGEST}"]


@dataclass(frozen=True)
class Pair:
    """The images of a set, followed by those of a split of another one, if any, as one sequence of rows."""

    images: ImageSet
    other: ImageSet | None
    split: str

    @property
    def others(self) -> Any:
        """The images of the other set, or None."""
        return self.other.split(self.split) if self.other else None

    def image(self, row: int) -> np.ndarray:
        """One image, uint8 (H, W, 3)."""
        inside = row < len(self.images)
        return np.asarray(self.images.images[row] if inside else self.others[row - len(self.images)])

    def describe(self, row: int) -> tuple[str, int, int, str]:
        """(set, row in that set, label, class)."""
        source = self.images
        if row >= len(source):
            assert self.other is not None
            source, row = self.other, row - len(source) + self.other.splits[self.split][0]
        label = int(source.labels[row])
        return source.name, row, label, source.class_names[label] if label >= 0 else ""


def _check(pair: Pair, mode: str, target: Path) -> None:
    if mode not in MODES:
        raise EvalkitError(f"no mode {mode!r}; choose from {', '.join(MODES)}")
    if pair.images.directory is None:
        raise EvalkitError(f"{pair.images.name}: these images have no folder; a view needs one: ImageSet.from_arrays")
    if target.resolve() == pair.images.directory.resolve():
        raise EvalkitError(f"{target}: is the image set itself; give the view another name")
    if pair.other and pair.split not in pair.other.splits:
        names = ", ".join(pair.other.splits)
        raise EvalkitError(f"{pair.other.name}: no split {pair.split!r}; it has {names}: choose with --against-split")
    if pair.other and pair.others.shape[1:] != pair.images.images.shape[1:]:
        sizes = " and ".join(f"{a.shape[1]} x {a.shape[2]}" for a in (pair.images.images, pair.others))
        raise EvalkitError(f"{pair.images.name} and {pair.other.name}: images of {sizes}; prepare them in one size")


def _codes(
    pair: Pair, options: DedupOptions, autoencoder: AutoencoderOptions, device: str, *, shifted: bool
) -> tuple[np.ndarray, float | None]:
    """The codes of all images of the pair, and the reconstruction error of the autoencoder if there is one."""
    parts = [pair.images.images] + ([pair.others] if pair.other else [])
    if options.mode != "autoencoder":
        encode = {"exact": exact, "perceptual": perceptual}[options.mode]
        return np.concatenate([encode_in_chunks(part, encode) for part in parts]), None
    torch_device = resolve_device(device)
    model, error = train_autoencoder(pair.images.images, autoencoder, seed=options.seed, device=torch_device)
    codes = np.concatenate([autoencoder_codes(model, part, torch_device, shifted=shifted) for part in parts])
    return codes, round(error, 5)


def _write(folder: Path, pair: Pair, matches: list[np.ndarray], seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Writes rows.npy, groups.csv and largest.png; returns the rows that stay and the counts."""
    own = len(pair.images)
    if pair.other:
        matches = [group for group in matches if group[0] < own <= group[-1]]  # ascending: images of both sets
        dropped = [group[group < own] for group in matches]
    else:
        dropped = [group[1:] for group in matches]
    gone = np.concatenate([np.empty(0, np.int64), *dropped])
    rows = np.setdiff1d(np.arange(own), gone)
    np.save(folder / ROWS, rows)
    write_groups(folder / GROUPS, matches, pair.describe)
    write_largest(folder / LARGEST, matches, pair.image)
    largest = max(map(len, matches), default=0)
    counts = {"images": own, "groups": len(matches), "largest": largest, "dropped": len(gone), "kept": len(rows)}
    return rows, counts | false_positives(matches, pair.image, seed=seed)


class Confirmation:
    """Compares the edges of images with similar codes, and counts."""

    def __init__(self, pair: Pair):
        self._pair = pair
        self.counts = {"pairs_proposed": 0, "pairs_confirmed": 0}

    def __call__(self, a: int, b: int) -> bool:
        same = similar_edges(self._pair.image(a), self._pair.image(b))
        self.counts["pairs_proposed"] += 1
        self.counts["pairs_confirmed"] += same
        return same


def write_groups(
    path: Path, groups: Sequence[np.ndarray], describe: Callable[[int], tuple[str, int, int, str]]
) -> None:
    """Writes one line per image: its group, set, row in the set, label and class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((number, *describe(int(row))) for number, group in enumerate(groups) for row in group)
    write_atomically(path, text.getvalue())


def write_largest(path: Path, groups: Sequence[np.ndarray], image: ReadImage) -> None:
    """Writes a PNG with one line of images per group, the largest group first."""
    chosen = sorted(groups, key=len, reverse=True)[:_SHOWN]
    if not chosen:
        return
    height, width, _ = image(int(chosen[0][0])).shape
    sheet = np.full((len(chosen) * (height + 2), _SHOWN * (width + 2), 3), 255, np.uint8)
    for line, group in enumerate(chosen):
        for column, row in enumerate(group[:_SHOWN]):
            y, x = line * (height + 2), column * (width + 2)
            sheet[y : y + height, x : x + width] = image(int(row))
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def false_positives(groups: Sequence[np.ndarray], image: ReadImage, *, seed: int) -> dict[str, Any]:
    """How many of up to 200 random pairs within groups differ in edges or colors; 95 % bounds of their share."""
    generator = np.random.default_rng(seed)
    pairs = [generator.permutation(group)[:2] for group in groups for _ in range(len(group) - 1)]
    chosen = [pairs[k] for k in generator.permutation(len(pairs))[:_JUDGED]]
    judged = [(image(int(a)), image(int(b))) for a, b in chosen]
    unlike = sum(not (similar_edges(a, b) and similar_colors(a, b)) for a, b in judged)
    low, high = _wilson_interval(unlike, len(chosen))
    share = 100 * unlike / len(chosen) if chosen else 0.0
    bounds = {"low_percent": round(low, 2), "high_percent": round(high, 2)}
    return {"pairs_judged": len(chosen), "unlike": unlike, "false_positive_percent": round(share, 2), **bounds}


def _wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent."""
    if not n:
        return 0.0, 100.0
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return 100 * interval.low, 100 * interval.high
