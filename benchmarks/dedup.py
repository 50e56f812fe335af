"""What the three modes of dedup find: exact duplicates, planted near-duplicates, and how many strangers with them.

    python benchmarks/dedup.py IMAGE_SET [--against IMAGE_SET] [--planted 500] [--out FILE.csv]

IMAGE_SET is a prepared set. Of PLANTED random pictures each a copy is added that was encoded again as JPEG (quality 75
and 90), shifted by a pixel, made 10 % and 20 % brighter. "recall": the share of copies in their original's group.
"false positives" are, of random pairs inside groups, those whose best correlation over small shifts is below 0.95.
With --against, the pictures shared with its test split are counted, and the recall of planted leaks: test pictures of
that set put among the training pictures as they are.
"""

import argparse
import csv
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evalkit.images import load_images, prepare
from evalkit.images.dedup import MODES, AutoencoderOptions, dedup
from evalkit.version import versions

COLUMNS = ["set", "mode", "distance_bits", "measured", "value", "unit", "n", "low", "high", "seconds"]


def encoded(picture: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def shifted(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, ((0, 0), (1, 0), (0, 0)), mode="edge")[:, :-1]


def brighter(picture: np.ndarray, factor: float) -> np.ndarray:
    return np.minimum(np.round(picture * factor), 255).astype(np.uint8)


CHANGES = {
    "encoded again, quality 90": lambda picture: encoded(picture, 90),
    "encoded again, quality 75": lambda picture: encoded(picture, 75),
    "shifted by a pixel": shifted,
    "10 % brighter": lambda picture: brighter(picture, 1.1),
    "20 % brighter": lambda picture: brighter(picture, 1.2),
}


def groups_of(view: Path) -> dict[tuple[str, int], str]:
    """(set, row) -> group."""
    lines = csv.DictReader((view / "groups.csv").read_text().splitlines())
    return {(line["set"], int(line["row"])): line["group"] for line in lines}


def planted_rows(view: Path, name: str, rows: np.ndarray, first: int) -> list[tuple[str, int, int]]:
    """(change, copies found, copies) of the copies that begin at row `first`."""
    group = groups_of(view)
    found = []
    for kind, change in enumerate(CHANGES):
        copies = [(name, first + kind * len(rows) + k) for k in range(len(rows))]
        same = sum(
            copy in group and group[copy] == group.get((name, int(row))) for copy, row in zip(copies, rows, strict=True)
        )
        found.append((change, same, len(rows)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--planted", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=AutoencoderOptions.pictures)
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dedup-recall.csv"))
    options = parser.parse_args()
    images = load_images(options.images)
    training = AutoencoderOptions(pictures=options.pictures)
    rows = np.sort(np.random.default_rng(0).permutation(len(images))[: options.planted])
    originals = [np.asarray(images.images[int(row)]) for row in rows]
    table: list[list[object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        copies = [np.stack([change(picture) for picture in originals]) for change in CHANGES.values()]
        extra = [np.asarray(load_images(options.against).split("test")[: options.planted])] if options.against else []
        pictures = np.concatenate([np.asarray(images.images), *copies, *extra])
        np.savez(Path(scratch, "planted.npz"), images=pictures)
        prepare(Path(scratch, "planted.npz"), Path(scratch, "planted"), size=pictures.shape[1], workers=1)
        for mode in options.modes:
            start = time.perf_counter()
            view = dedup(Path(scratch, "planted"), Path(scratch, mode), mode=mode, options=training)
            seconds = f"{time.perf_counter() - start:.0f}"
            head = [images.name, mode, MODES[mode]]
            about = view.manifest["dedup"]
            for change, same, count in planted_rows(Path(scratch, mode), "planted", rows, len(images)):
                table.append([*head, f"recall, {change}", f"{100 * same / count:.1f}", "%", count, "", "", seconds])
            bounds = [about["pairs_judged"], about["low_percent"], about["high_percent"], seconds]
            table.append([*head, "false positives", about["false_positive_percent"], "%", *bounds])
            table.append([*head, "groups", about["groups"], "groups", len(pictures), "", about["largest"], seconds])
            plain = dedup(options.images, Path(scratch, f"{mode}-plain"), mode=mode, options=training).manifest["dedup"]
            bounds = [plain["pictures"], "", plain["largest"], ""]
            table.append([*head, "dropped without planted copies", plain["dropped"], "pictures", *bounds])
            if options.against:
                table += leaks(options, Path(scratch), mode, training, head)
            write(options, table)
    print(options.out.read_text())


def leaks(
    options: argparse.Namespace, scratch: Path, mode: str, training: AutoencoderOptions, head: list
) -> list[list]:
    """Pictures shared with the other set's test split, as they are and with planted ones."""
    found = []
    for name, source in (("as it is", options.images), ("with planted leaks", scratch / "planted")):
        view = dedup(source, scratch / f"{mode}-{name}", mode=mode, against=options.against, options=training)
        about = view.manifest["dedup"]
        row = [about["dropped"], "pictures", about["pictures"], about["low_percent"], about["high_percent"], ""]
        found.append([*head, f"shared with {options.against.name} test, {name}", *row])
        share = f"{about['unlike']} of {about['pairs_judged']}"
        found.append(
            [*head, f"false positives among shared, {name}", share, "pairs", about["pairs_judged"], "", "", ""]
        )
    return found


def write(options: argparse.Namespace, table: list[list[object]]) -> None:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with open(options.out, "w", newline="") as file:
        command = f"--against {options.against.name} " if options.against else ""
        file.write(f"# python benchmarks/dedup.py {options.images.name} {command}--planted {options.planted}")
        file.write(
            f" --pictures {options.pictures}\n# {torch.get_num_threads()} threads; low and high: 95 % bounds, or"
        )
        file.write(" the largest group; autoencoder trained on --pictures pictures shown\n")
        file.write("# " + ", ".join(f"{name} {version}" for name, version in versions().items()) + "\n")
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
