"""dedup: finds duplicates in an image set, or what it shares with another, and writes the rest as a view.

Comes between prepare and training. Codes (codes.py, autoencoder.py) -> groups (grouping.py) -> report and view.

The images that dedup compares, of one set or of two, by row; and the comparison of two of them.

What dedup found, for people: groups.csv, an image of the largest groups, an estimate of the false positives.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evalkit.artifacts import already_built, write_artifact, write_atomically
from evalkit.errors import EvalkitError
from evalkit.images.dedup import dedup as report
from evalkit.images.dedup import hashes as codes
from evalkit.images.dedup.hashes import AutoencoderOptions, autoencoder_codes, train_autoencoder
from evalkit.images.dedup.matching import groups, like_colours, like_edges
from evalkit.images.imageset import KIND, ROWS, ImageSet, load_images, splits_of_rows, view_manifest
from evalkit.runtime import resolve_device

# Bits in which neighbours may differ, of 128, 128 and 64: enough for what encoding, brightness and a pixel's shift
# change (benchmarks/results/dedup-recall.csv).
# differs from the paper: its hash is compared for equality (distance 0, confirm off), which finds half as much.
MODES = {"autoencoder": 8, "exact": 0, "perceptual": 4}
_DEFAULT = AutoencoderOptions()


def dedup(
    directory: Path,
    target: Path,
    *,
    mode: str = "autoencoder",
    distance: int | None = None,
    confirm: bool = True,
    against: Path | None = None,
    against_split: str = "test",
    options: AutoencoderOptions = _DEFAULT,
    seed: int = 0,
    device: str = "auto",
    replace: bool = False,
) -> ImageSet:
    """Writes a view of the image set in `directory` without its duplicates, or without what `against` holds, too.

    Of a group of duplicates the first image stays; of images that `against` holds none stays. The view's folder has
    groups.csv, largest.png and, in the manifest under "dedup", the counts and the estimated false positives.

    Args:
        directory: the image set.
        target: the view's folder; its name is the view's.
        mode: "autoencoder" (the paper's), "exact" (equal pixels) or "perceptual" (cosine hash, shifts by a pixel).
        distance: bits in which two codes may differ; the mode's own if not given.
        confirm: compare the images' edges, too, before two of like codes count as one.
        against: another image set, of images of the same size.
        against_split: the split of it that counts.
        options: how to train the autoencoder.
        seed: of its initialisation, order and noise, and of the pairs that are judged.
        device: of the autoencoder; "auto", "cpu", "cuda" or "cuda:N".
        replace: overwrite an image set of another origin in `target`.

    Raises:
        EvalkitError: no such mode, images of two sizes, or `target` is something else.
    """
    pair = Pair(load_images(directory), load_images(against) if against else None, against_split)
    _check(pair, mode, directory, target)
    bits = MODES[mode] if distance is None else distance
    settings: dict[str, Any] = {"mode": mode, "distance": bits, "confirm": confirm, "seed": seed}
    if mode == "autoencoder":
        settings["autoencoder"] = asdict(options)
    if pair.other:
        settings["against"] = {"name": pair.other.name, "split": against_split, "sha256": pair.other.sha256}
    manifest = view_manifest(directory, pair.images.sha256, pair.images.class_names, target, settings)
    inputs = {"settings": manifest["settings"], "made_from": manifest["made_from"]}
    if not already_built(target, KIND, **inputs, replace=replace):
        with write_artifact(target, **inputs) as work:
            keys, about = _codes(pair, mode, options, seed, device, shifted=bits > 0)
            confirming = Confirming(pair) if confirm and mode != "exact" else None
            found = groups(keys, bits, alike=confirming)
            rows, counts = _write(work.path, pair, found, seed)
            about |= confirming.counts if confirming else {}
            splits = splits_of_rows(pair.images.splits, rows)
            work.finish(manifest | {"splits": {k: list(v) for k, v in splits.items()}, "dedup": counts | about})
    return load_images(target)


def dedup_summary(view: ImageSet) -> list[str]:
    """What dedup found, as lines for the terminal."""
    about, settings = view.manifest["dedup"], view.manifest["settings"]
    other = settings.get("against")
    shared = f"also in {other['name']} ({other['split']})" if other else "duplicates"
    lines = [
        f"{view.name}: {about['kept']:,} of {about['images']:,} images kept, {about['dropped']:,} {shared} in "
        f"{about['groups']:,} groups, the largest of {about['largest']:,} ({settings['mode']}, "
        f"{settings['distance']} bits)"
    ]
    if "pairs_proposed" in about:
        lines.append(
            f"the codes proposed {about['pairs_proposed']:,} pairs, the images themselves confirmed "
            f"{about['pairs_confirmed']:,}"
        )
    if about["pairs_judged"]:
        lines.append(
            f"false positives: {about['unlike']} of {about['pairs_judged']} pairs judged unlike, "
            f"{about['false_positive_percent']} % (95 %: {about['low_percent']} to {about['high_percent']} %)"
        )
    return lines + [f"groups in {report.GROUPS}, the largest ones in {report.LARGEST}"]


@dataclass(frozen=True)
class Pair:
    """The images of a set, followed by those of a split of another one, if any, as one run of rows."""

    images: ImageSet
    other: ImageSet | None
    split: str

    @property
    def others(self) -> Any:
        """The other set's images, or None."""
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


def _check(pair: Pair, mode: str, directory: Path, target: Path) -> None:
    if mode not in MODES:
        raise EvalkitError(f"no mode {mode!r}; choose from {', '.join(MODES)}")
    if target.resolve() == Path(directory).resolve():
        raise EvalkitError(f"{target}: is the image set itself; give the view another name")
    if pair.other and pair.split not in pair.other.splits:
        there = ", ".join(pair.other.splits)
        raise EvalkitError(f"{pair.other.name}: no split {pair.split!r}; it has {there}: choose with --against-split")
    if pair.other and pair.others.shape[1:] != pair.images.images.shape[1:]:
        sizes = " and ".join(f"{a.shape[1]} x {a.shape[2]}" for a in (pair.images.images, pair.others))
        raise EvalkitError(f"{pair.images.name} and {pair.other.name}: images of {sizes}; prepare them in one size")


def _codes(
    pair: Pair, mode: str, options: AutoencoderOptions, seed: int, device: str, *, shifted: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """The codes of all images of the pair, and what there is to tell about them."""
    parts = [pair.images.images] + ([pair.others] if pair.other else [])
    if mode != "autoencoder":
        code = {"exact": codes.exact, "perceptual": codes.perceptual}[mode]
        return np.concatenate([codes.coded(part, code) for part in parts]), {}
    on = resolve_device(device)
    model, error = train_autoencoder(pair.images.images, options, seed=seed, device=on)
    keys = np.concatenate([autoencoder_codes(model, part, on, shifted=shifted) for part in parts])
    return keys, {"reconstruction_error": round(error, 5)}


def _write(folder: Path, pair: Pair, found: list[np.ndarray], seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Writes rows.npy, groups.csv and largest.png; returns the rows that stay and the counts."""
    own = len(pair.images)
    if pair.other:
        found = [group for group in found if group[0] < own <= group[-1]]  # ascending: images of both sets
        dropped = [group[group < own] for group in found]
    else:
        dropped = [group[1:] for group in found]
    gone = np.concatenate([np.empty(0, np.int64), *dropped])
    rows = np.setdiff1d(np.arange(own), gone)
    np.save(folder / ROWS, rows)
    report.write_groups(folder / report.GROUPS, found, pair.describe)
    report.write_largest(folder / report.LARGEST, found, pair.image)
    largest = max(map(len, found), default=0)
    counts = {"images": own, "groups": len(found), "largest": largest, "dropped": len(gone), "kept": len(rows)}
    return rows, counts | report.false_positives(found, pair.image, seed=seed)


class Confirming:
    """Compares the images that like codes propose, and counts."""

    def __init__(self, pair: Pair):
        self._pair = pair
        self.counts = {"pairs_proposed": 0, "pairs_confirmed": 0}

    def __call__(self, a: int, b: int) -> bool:
        alike = like_edges(self._pair.image(a), self._pair.image(b))
        self.counts["pairs_proposed"] += 1
        self.counts["pairs_confirmed"] += alike
        return alike


GROUPS, LARGEST = "groups.csv", "largest.png"
COLUMNS = ("group", "set", "row", "label", "class")
_JUDGED = 200  # pairs; none unlike among 200 bounds the rate at 1.9 % (Wilson, 95 %)
_SHOWN = 12  # groups, and images of each
_Z = 1.96  # of a 95 % interval
ReadImage = Callable[[int], np.ndarray]


def write_groups(
    path: Path, groups: Sequence[np.ndarray], describe: Callable[[int], tuple[str, int, int, str]]
) -> None:
    """A line an image: its group, set, row there, label and class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((number, *describe(int(row))) for number, group in enumerate(groups) for row in group)
    write_atomically(path, text.getvalue())


def write_largest(path: Path, groups: Sequence[np.ndarray], image: ReadImage) -> None:
    """A line of images a group, the largest group first."""
    chosen = sorted(groups, key=len, reverse=True)[:_SHOWN]
    if not chosen:
        return
    high, wide, _ = image(int(chosen[0][0])).shape
    sheet = np.full((len(chosen) * (high + 2), _SHOWN * (wide + 2), 3), 255, np.uint8)
    for down, group in enumerate(chosen):
        for across, row in enumerate(group[:_SHOWN]):
            y, x = down * (high + 2), across * (wide + 2)
            sheet[y : y + high, x : x + wide] = image(int(row))
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def false_positives(groups: Sequence[np.ndarray], image: ReadImage, *, seed: int) -> dict[str, Any]:
    """How many of up to 200 random pairs within groups differ in edges or colours; 95 % bounds of their share."""
    generator = np.random.default_rng(seed)
    pairs = [generator.permutation(group)[:2] for group in groups for _ in range(len(group) - 1)]
    chosen = [pairs[k] for k in generator.permutation(len(pairs))[:_JUDGED]]
    sampled = [(image(int(a)), image(int(b))) for a, b in chosen]
    unlike = sum(not (like_edges(a, b) and like_colours(a, b)) for a, b in sampled)
    low, high = _wilson(unlike, len(chosen))
    share = 100 * unlike / len(chosen) if chosen else 0.0
    bounds = {"low_percent": round(low, 2), "high_percent": round(high, 2)}
    return {"pairs_judged": len(chosen), "unlike": unlike, "false_positive_percent": round(share, 2), **bounds}


def _wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share, in percent."""
    if not n:
        return 0.0, 100.0
    share, weight = hits / n, 1 + _Z**2 / n
    middle = (share + _Z**2 / (2 * n)) / weight
    half = _Z / weight * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
    return max(0.0, 100 * (middle - half)), min(100.0, 100 * (middle + half))
