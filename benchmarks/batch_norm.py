"""What each batch-norm mode and bf16 do to accuracy: one encoder, the same images and the same label subsets.

    python benchmarks/batch_norm.py CHECKPOINT IMAGES SOURCE_IMAGES WORK [--out benchmarks/results/batch-norm.csv]

CHECKPOINT is a training run's checkpoint, IMAGES a prepared CIFAR-10, SOURCE_IMAGES the images it was trained on. A
sample of each split stands for all of it (--train, --test, --source). WORK is a workspace for the image and feature
sets, so that an interrupted run resumes. C is selected on validation rows for each row of the table; `difference` is to
`target` in bf16, per label subset.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

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
    """An image set of some rows of each split in `counts`: the first as stored, or random rows in random order."""
    random = np.random.default_rng(0)
    rows_by_split = {name: np.arange(*images.splits[name]) for name in counts}
    if order == "random":
        rows_by_split = {name: random.permutation(rows) for name, rows in rows_by_split.items()}
    rows = np.concatenate([rows_by_split[name][:count] for name, count in counts.items()])
    ends = np.cumsum([0, *counts.values()]).tolist()
    return ImageSet.from_arrays(
        images.images[rows],
        images.labels[rows],
        splits={name: (ends[i], ends[i + 1]) for i, name in enumerate(counts)},
        name=f"{images.name}-sample",
        class_names=images.class_names,
        home=folder,
    )


def accuracies(checkpoint: Path, images: ImageSet, source: ImageSet, work: Path, row: tuple, protocol: Protocol):
    """The result, and the test accuracy of each label subset in percent."""
    mode, precision, dtype = row
    encoder = load_encoder(str(checkpoint), home=work)
    encoder = replace(encoder, images_sha256=source.sha256)  # a sample of the images it was trained on
    features = extract(images, encoder, out=work / f"{mode}-{precision}", batch_norm=mode, source_images=source,
                       dtype=dtype, precision=precision)  # fmt: skip
    evaluation = evaluate(features, protocol)
    return evaluation.result, 100 * (evaluation.predictions == evaluation.test_labels).mean(axis=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "images", "source_images", "work"):
        parser.add_argument(name, type=Path)
    for name, count in (
        ("train", 5000),
        ("test", 5000),
        ("source", 10_000),
        ("labels-per-class", 100),
        ("num-test-subsets", 10),
    ):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--order", choices=["random", "stored"], default="random", help="files may be sorted by class")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/batch-norm.csv"))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    images = sample(load_images(asked.images), asked.work, {"train": asked.train, "test": asked.test}, asked.order)
    source = load_images(asked.source_images)
    source = sample(source, asked.work, {next(iter(source.splits)): asked.source}, asked.order)
    protocol = Protocol(asked.labels_per_class, num_test_subsets=asked.num_test_subsets, num_selection_subsets=5)
    table, reference = [], None
    for row in ROWS:
        result, by_subset = accuracies(asked.checkpoint, images, source, asked.work, row, protocol)
        reference = by_subset if reference is None else reference
        difference = by_subset - reference
        numbers = [by_subset.mean(), by_subset.std(), len(by_subset), difference.mean(), difference.std(), result.C]
        about = [
            result.encoder.split(" (")[0],
            asked.order,
            asked.labels_per_class,
            asked.train,
            asked.test,
            asked.source,
        ]
        numbers = [f"{x:.2f}" if isinstance(x, float) and i < 5 else f"{x:g}" for i, x in enumerate(numbers)]
        table.append([*row, *numbers, *about, result.device, result.versions, result.date])
        print(*(f"{name} {value}" for name, value in zip(COLUMNS[:9], table[-1], strict=False)), sep=", ", flush=True)
    with open(asked.out, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
