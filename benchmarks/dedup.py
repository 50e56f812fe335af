"""What the three modes of dedup find: exact duplicates, planted near-duplicates, and how many false positives.

    python benchmarks/dedup.py IMAGE_SET [--against IMAGE_SET] [--planted 500] [--only VARIANT …] [--out FILE.csv]

IMAGE_SET is a prepared set. Copies of PLANTED random images are added: encoded again as JPEG (quality 75 and 90),
shifted by one pixel, made 10 % and 20 % brighter. "recall" is the share of copies in the group of their original.
"false positives" are the random pairs inside groups whose edges or colors differ (dedup/matching.py).
With --against, the images shared with its test split are counted, and the recall of planted leaks: test images of
that set that are added to the training images unchanged.
"""

import argparse
import csv
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evalkit import ImageSet, dedup, load_images
from evalkit.images.dedup.dedup import MODES, DedupReport
from evalkit.images.dedup.hashes import AutoencoderOptions
from evalkit.version import versions

COLUMNS = ["set", "variant", "distance_bits", "confirmed", "measured", "value", "unit", "n", "low", "high", "seconds"]
VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {"mode": "exact", "distance": 0, "confirm": True},
    "perceptual": {"mode": "perceptual", "distance": MODES["perceptual"], "confirm": True},
    "perceptual, hash alone": {"mode": "perceptual", "distance": MODES["perceptual"], "confirm": False},
    "autoencoder": {"mode": "autoencoder", "distance": MODES["autoencoder"], "confirm": True},
    "autoencoder, as the paper": {"mode": "autoencoder", "distance": 0, "confirm": False},
}


def encoded(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def shifted(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, 0), (1, 0), (0, 0)), mode="edge")[:, :-1]


def brighter(image: np.ndarray, factor: float) -> np.ndarray:
    return np.minimum(np.round(image * factor), 255).astype(np.uint8)


CHANGES = {
    "encoded again, quality 90": lambda image: encoded(image, 90),
    "encoded again, quality 75": lambda image: encoded(image, 75),
    "shifted by a pixel": shifted,
    "10 % brighter": lambda image: brighter(image, 1.1),
    "20 % brighter": lambda image: brighter(image, 1.2),
}


def groups_of(view: Path) -> dict[tuple[str, int], str]:
    """(set, row) -> group."""
    lines = csv.DictReader((view / "groups.csv").read_text().splitlines())
    return {(line["set"], int(line["row"])): line["group"] for line in lines}


def recall(view: Path, rows: np.ndarray, first: int) -> list[tuple[str, int]]:
    """(change, number of recalled copies) of the copies of `rows` that begin at row `first`."""
    group = groups_of(view)
    recalled = []
    for kind, change in enumerate(CHANGES):
        copies = [("planted", first + kind * len(rows) + k) for k in range(len(rows))]
        pairs = zip(copies, rows, strict=True)
        same = [copy in group and group[copy] == group.get(("planted", int(row))) for copy, row in pairs]
        recalled.append((change, sum(same)))
    return recalled


def dropped_originals(view: Path, originals: int) -> int:
    """How many of the first `originals` rows would be dropped without planted copies."""
    inside = [group for (name, row), group in groups_of(view).items() if name == "planted" and row < originals]
    return len(inside) - len(set(inside))


def duplicates(planted: ImageSet, variant: str, rows: np.ndarray, originals: int, training: AutoencoderOptions) -> list:
    """The results on the duplicates in the planted set."""
    start = time.perf_counter()
    view = dedup(planted, autoencoder=training, **VARIANTS[variant])
    report = DedupReport.from_manifest(view.manifest)
    seconds = f"{time.perf_counter() - start:.0f}"
    table: list[list] = []
    for change, same in recall(view.directory, rows, originals):
        table.append([f"recall, {change}", f"{100 * same / len(rows):.1f}", "%", len(rows), "", "", seconds])
    bounds = [report.pairs_judged, report.low_percent, report.high_percent, seconds]
    table.append(["false positives", report.false_positive_percent, "%", *bounds])
    table.append(["groups", report.groups, "groups", report.images, "", report.largest, seconds])
    for measured, count in (("pairs proposed", report.pairs_proposed), ("pairs confirmed", report.pairs_confirmed)):
        if count is not None:
            table.append([measured, count, "pairs", report.images, "", "", seconds])
    dropped = dropped_originals(view.directory, originals)
    return [*table, ["dropped without planted copies", dropped, "images", originals, "", "", seconds]]


def leaks(
    planted: ImageSet, variant: str, against: ImageSet, originals: int, added: int, training: AutoencoderOptions
) -> list:
    """Images shared with the other set's test split: the set's own, and the `added` ones at its end."""
    start = time.perf_counter()
    view = dedup(planted, against=against, autoencoder=training, **VARIANTS[variant])
    report = DedupReport.from_manifest(view.manifest)
    seconds = f"{time.perf_counter() - start:.0f}"
    shared = np.array([row for name, row in groups_of(view.directory) if name == "planted"])
    own, recalled = np.sum(shared < originals), np.sum(shared >= report.images - added)
    judged = [report.pairs_judged, report.low_percent, report.high_percent, seconds]
    name, share = f"{against.name} test", f"{100 * recalled / added:.1f}"
    return [
        [f"shared with {name}", own, "images", originals, "", "", seconds],
        [f"recall, planted leaks of {name}", share, "%", added, "", "", seconds],
        ["false positives among shared", report.false_positive_percent, "%", *judged],
    ]


def plant(images: ImageSet, against: ImageSet | None, rows: np.ndarray) -> ImageSet:
    """The set, then changed copies of `rows`, then the first test images of the other set."""
    originals = np.asarray(images.images)
    copies = [np.stack([change(originals[row]) for row in rows]) for change in CHANGES.values()]
    leaked = [np.asarray(against.split("test")[: len(rows)])] if against else []
    return ImageSet.from_arrays(np.concatenate([originals, *copies, *leaked]), name="planted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--planted", type=int, default=500)
    parser.add_argument("--shown", type=int, default=AutoencoderOptions.images, help="images in training")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dedup-recall.csv"))
    options = parser.parse_args()
    training = AutoencoderOptions(images=options.shown)
    images = load_images(options.images)
    against = load_images(options.against) if options.against else None
    rows = np.sort(np.random.default_rng(0).permutation(len(images))[: options.planted])
    planted = plant(images, against, rows)
    table: list[list[object]] = []
    for variant in options.only:
        head = [options.images.name, variant, VARIANTS[variant]["distance"], VARIANTS[variant]["confirm"]]
        results = duplicates(planted, variant, rows, len(images), training)
        if against:
            results += leaks(planted, variant, against, len(images), len(rows), training)
        table += [[*head, *row] for row in results]
        write(options, table)
    print(options.out.read_text())


def write(options: argparse.Namespace, table: list[list[object]]) -> None:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    against = f" --against {options.against.name}" if options.against else ""
    with open(options.out, "w", newline="") as file:
        file.write(f"# python benchmarks/dedup.py {options.images.name}{against} --planted {options.planted}\n")
        file.write(
            f"# {torch.get_num_threads()} threads, seconds on a busy machine; low and high: 95 % bounds, or the "
        )
        file.write(f"largest group; the autoencoder was shown {options.shown:,} images\n")
        file.write("# " + ", ".join(f"{name} {version}" for name, version in versions().items()) + "\n")
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
