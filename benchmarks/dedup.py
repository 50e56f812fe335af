"""What the three modes of dedup find: exact duplicates, planted near-duplicates, and how many strangers with them.

    python benchmarks/dedup.py IMAGE_SET [--against IMAGE_SET] [--planted 500] [--only VARIANT …] [--out FILE.csv]

IMAGE_SET is a prepared set. Of PLANTED random images each a copy is added that was encoded again as JPEG (quality 75
and 90), shifted by a pixel, made 10 % and 20 % brighter. "recall": the share of copies in their original's group.
"false positives" are, of random pairs inside groups, those whose edges or colours differ (dedup/likeness.py).
With --against, the images shared with its test split are counted, and the recall of planted leaks: test images of
that set put among the training images as they are.
"""

import argparse
import csv
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evalkit.images import load_images, prepare
from evalkit.images.dedup import MODES, AutoencoderOptions, dedup
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
    """(change, copies found) of the copies of `rows` that begin at row `first`."""
    group = groups_of(view)
    found = []
    for kind, change in enumerate(CHANGES):
        copies = [("planted", first + kind * len(rows) + k) for k in range(len(rows))]
        pairs = zip(copies, rows, strict=True)
        same = [copy in group and group[copy] == group.get(("planted", int(row))) for copy, row in pairs]
        found.append((change, sum(same)))
    return found


def dropped_originals(view: Path, originals: int) -> int:
    """How many of the first `originals` rows would go if nothing had been planted."""
    inside = [group for (name, row), group in groups_of(view).items() if name == "planted" and row < originals]
    return len(inside) - len(set(inside))


def duplicates(directory: Path, scratch: Path, variant: str, rows: np.ndarray, originals: int, training) -> list:
    """What the planted set's duplicates measure."""
    start = time.perf_counter()
    about = dedup(directory, scratch / variant, options=training, **VARIANTS[variant]).manifest["dedup"]
    seconds = f"{time.perf_counter() - start:.0f}"
    table: list[list] = []
    for change, same in recall(scratch / variant, rows, originals):
        table.append([f"recall, {change}", f"{100 * same / len(rows):.1f}", "%", len(rows), "", "", seconds])
    bounds = [about["pairs_judged"], about["low_percent"], about["high_percent"], seconds]
    table.append(["false positives", about["false_positive_percent"], "%", *bounds])
    table.append(["groups", about["groups"], "groups", about["images"], "", about["largest"], seconds])
    for count in ("pairs_proposed", "pairs_confirmed"):
        if count in about:
            table.append([count.replace("_", " "), about[count], "pairs", about["images"], "", "", seconds])
    dropped = dropped_originals(scratch / variant, originals)
    return [*table, ["dropped without planted copies", dropped, "images", originals, "", "", seconds]]


def leaks(directory: Path, scratch: Path, variant: str, against: Path, originals: int, planted: int, training) -> list:
    """Images shared with the other set's test split: the set's own, and the planted ones at its end."""
    start = time.perf_counter()
    place = scratch / f"{variant}, leaks"
    about = dedup(directory, place, against=against, options=training, **VARIANTS[variant]).manifest["dedup"]
    seconds = f"{time.perf_counter() - start:.0f}"
    shared = np.array([row for name, row in groups_of(place) if name == "planted"])
    own, found = np.sum(shared < originals), np.sum(shared >= about["images"] - planted)
    judged = [about["pairs_judged"], about["low_percent"], about["high_percent"], seconds]
    return [
        [f"shared with {against.name} test", own, "images", originals, "", "", seconds],
        [
            f"recall, planted leaks of {against.name} test",
            f"{100 * found / planted:.1f}",
            "%",
            planted,
            "",
            "",
            seconds,
        ],
        ["false positives among shared", about["false_positive_percent"], "%", *judged],
    ]


def plant(images: Path, against: Path | None, scratch: Path, rows: np.ndarray) -> Path:
    """The set with changed copies of `rows` behind it and, behind those, the first test images of the other set."""
    real_images = np.asarray(load_images(images).images)
    copies = [np.stack([change(real_images[row]) for row in rows]) for change in CHANGES.values()]
    leaked = [np.asarray(load_images(against).split("test")[: len(rows)])] if against else []
    np.savez(scratch / "planted.npz", images=np.concatenate([real_images, *copies, *leaked]))
    prepare(scratch / "planted.npz", scratch / "planted", size=real_images.shape[1], workers=1)
    return scratch / "planted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--planted", type=int, default=500)
    parser.add_argument("--images", type=int, default=AutoencoderOptions.images, help="shown in training")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dedup-recall.csv"))
    options = parser.parse_args()
    training = AutoencoderOptions(images=options.real_images)
    originals = len(load_images(options.images))
    rows = np.sort(np.random.default_rng(0).permutation(originals)[: options.planted])
    table: list[list[object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        planted = plant(options.images, options.against, Path(scratch), rows)
        for variant in options.only:
            about = [options.images.name, variant, VARIANTS[variant]["distance"], VARIANTS[variant]["confirm"]]
            found = duplicates(planted, Path(scratch), variant, rows, originals, training)
            if options.against:
                found += leaks(planted, Path(scratch), variant, options.against, originals, len(rows), training)
            table += [[*about, *row] for row in found]
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
        file.write(f"largest group; the autoencoder was shown {options.real_images:,} images\n")
        file.write("# " + ", ".join(f"{name} {version}" for name, version in versions().items()) + "\n")
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
