"""What each batch-norm mode and bf16 do to accuracy: one encoder, the same images and the same label draws.

    python benchmarks/batch_norm.py CHECKPOINT IMAGES SOURCE_IMAGES WORK [--out benchmarks/results/batch-norm.csv]

CHECKPOINT is a training run's checkpoint, IMAGES a prepared CIFAR-10, SOURCE_IMAGES the images trained on. A sample
of each split stands for all of it (--train, --test, --source), in feature sets under WORK; a killed run goes on.
C is chosen on validation rows for each row of the table; `difference` is to `target` in bf16, draw by draw.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from evalkit.artifacts import new_manifest, write_artifact
from evalkit.encoders import load_encoder
from evalkit.evaluation.evaluate import evaluate
from evalkit.evaluation.protocol import Protocol
from evalkit.features.extract import extract
from evalkit.images import ImageSet, load_images

# batch norm, arithmetic, type on disk
ROWS = [("target", "bfloat16", "float16"), ("target", "float32", "float32"), ("source", "bfloat16", "float16"),
        ("running", "bfloat16", "float16"), ("batch", "bfloat16", "float16")]  # fmt: skip
COLUMNS = ["batch_norm", "precision", "dtype", "accuracy_percent", "std", "n", "difference", "difference_std", "C",
           "encoder", "order", "labels_per_class", "train_images", "test_images", "source_images", "device",
           "versions", "date"]  # fmt: skip


def sample(images: ImageSet, folder: Path, counts: dict[str, int], order: str) -> ImageSet:
    """An image set of some rows of each split in `counts`: the first as stored, or a random draw in random order."""
    settings = {"name": f"{images.name}-sample", "rows": counts, "order": order}
    with write_artifact(
        folder / settings["name"], settings=settings, made_from={"images_sha256": images.sha256}
    ) as artifact:
        random = np.random.default_rng(0)
        splits_rows = {name: np.arange(*images.splits[name]) for name in counts}
        if order == "random":
            splits_rows = {name: random.permutation(rows) for name, rows in splits_rows.items()}
        rows = np.concatenate([splits_rows[name][:count] for name, count in counts.items()])
        np.save(artifact.path / "images.npy", images.images[rows])
        np.save(artifact.path / "labels.npy", images.labels[rows])
        ends = np.cumsum([0, *counts.values()]).tolist()
        splits = {name: [ends[i], ends[i + 1]] for i, name in enumerate(counts)}
        head = new_manifest("image set", settings=settings, made_from={"images_sha256": images.sha256})
        artifact.finish(head | {"class_names": list(images.class_names), "splits": splits})
        target = artifact.target
    return load_images(target)


def accuracies(checkpoint: Path, images: ImageSet, source: ImageSet, work: Path, row: tuple, protocol: Protocol):
    """The figure, and the test accuracy of each draw in percent."""
    mode, precision, dtype = row
    encoder = load_encoder(str(checkpoint), home=work)
    encoder = replace(encoder, images_sha256=source.sha256)  # a sample of the images that it was trained on
    features = extract(images, encoder, work / f"{mode}-{precision}", batch_norm=mode, source_images=source,
                       dtype=dtype, precision=precision)  # fmt: skip
    found = evaluate(features, protocol, say=print)
    return found.result, 100 * (found.predictions == found.test_labels).mean(axis=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "images", "source_images", "work"):
        parser.add_argument(name, type=Path)
    for name, count in (
        ("train", 5000),
        ("test", 5000),
        ("source", 10_000),
        ("labels-per-class", 100),
        ("num_test_subsets", 10),
    ):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--order", choices=["random", "stored"], default="random", help="files may be sorted by class")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/batch-norm.csv"))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    images = sample(load_images(asked.images), asked.work, {"train": asked.train, "test": asked.test}, asked.order)
    source = load_images(asked.source_images)
    source = sample(source, asked.work, {next(iter(source.splits)): asked.source}, asked.order)
    protocol = Protocol(asked.labels_per_class, num_test_subsets=asked.repeats, num_selection_subsets=5)
    table, reference = [], None
    for row in ROWS:
        figure, by_draw = accuracies(asked.checkpoint, images, source, asked.work, row, protocol)
        reference = by_draw if reference is None else reference
        difference = by_draw - reference
        numbers = [by_draw.mean(), by_draw.std(), len(by_draw), difference.mean(), difference.std(), figure.C]
        about = [
            figure.encoder.split(" (")[0],
            asked.order,
            asked.labels_per_class,
            asked.train,
            asked.test,
            asked.source,
        ]
        numbers = [f"{x:.2f}" if isinstance(x, float) and i < 5 else f"{x:g}" for i, x in enumerate(numbers)]
        table.append([*row, *numbers, *about, figure.device, figure.versions, figure.date])
        print(*(f"{name} {value}" for name, value in zip(COLUMNS[:9], table[-1], strict=False)), sep=", ", flush=True)
    with open(asked.out, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
