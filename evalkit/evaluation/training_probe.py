"""TrainingProbe: does the discriminator's representation still improve while a run trains?

`train_gan` calls it with checkpoints. It fits a few-label SVM on frozen features of a data set's training images; the
test images are never looked at.
"""

import csv
import io
import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evalkit.artifacts import copy_artifact, read_manifest, sha256_json, write_atomically
from evalkit.encoders import load_encoder
from evalkit.errors import EvalkitError
from evalkit.evaluation.label_subsets import sample_label_subset
from evalkit.evaluation.labels import check_labels
from evalkit.evaluation.selection import scale_of, search_hyperparameter
from evalkit.features.extract import extract
from evalkit.gan.checkpoint import KIND
from evalkit.gan.run_dir import best_checkpoint, run_of
from evalkit.images.imageset import ImageSet, Rows
from evalkit.probes.classifiers import RELEASE_C_GRID
from evalkit.runtime import local_device, resolve_device
from evalkit.solver import l2svm_subsets

logger = logging.getLogger(__name__)

COLUMNS = ("d_updates", "rewinds", "dataset", "labels_per_class", "validation_images", "C", "validation_percent")
_VALIDATION = 5_000  # enough for +- 0.7 points; the same images each time, so differences are better resolved
_SEED = 0


class TrainingProbe:
    """Measures checkpoints of a run while it trains: the `probe` of `train_gan`.

    Writes RUN/probe.csv and RUN/probe.png, and keeps the checkpoint of the best validation accuracy as RUN/best.

    Args:
        images: image set of which only the `train` split is used.
        labels_per_class: K; K images per class are fitted, and provide the batch-norm statistics (the whole training
            split would take longer).
        run: directory to write to; by default that of the run that a checkpoint belongs to.

    Raises:
        EvalkitError: a class has too few images.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        labels_per_class: int,
        run: Path | None = None,
        device: str = "auto",
    ) -> None:
        self.run, self.labels_per_class = run, labels_per_class
        self._device = str(local_device(resolve_device(device)))
        self.images = _split_training_images(images, labels_per_class)

    def __call__(self, checkpoint: Path) -> None:
        """Measures the checkpoint unless RUN/probe.csv has it already."""
        run = self.run or run_of(checkpoint)
        settings = read_manifest(checkpoint, KIND)["settings"]
        d_updates, rewinds = settings["d_updates"], settings["rewinds"]
        rows = _read_rows(run / "probe.csv")
        if any((int(row["d_updates"]), int(row["rewinds"])) == (d_updates, rewinds) for row in rows):
            return
        rows = [row for row in rows if int(row["d_updates"]) < d_updates]  # later ones are from before a rewind
        try:
            C, percent = self._measure(checkpoint, run)
        except EvalkitError as error:  # a probe that fails must not end a run of days
            logger.warning("probe after %d D updates: none (%s)", d_updates, error)
            return
        best = max((float(row["validation_percent"]) for row in rows), default=-math.inf)
        if percent > best:
            copy_artifact(checkpoint, best_checkpoint(run))
        counts = (d_updates, rewinds, self.images.name, self.labels_per_class, len(self.images.split("validation")))
        cells = (*counts, f"{C:g}", f"{percent:.2f}")
        _write_rows([*rows, dict(zip(COLUMNS, map(str, cells), strict=True))], run)
        logger.info("probe after %d D updates: %.2f %% (best before: %.2f %%)", d_updates, percent, max(best, 0))

    def _measure(self, checkpoint: Path, run: Path) -> tuple[float, float]:
        """The C selected and the validation accuracy in percent."""
        target = run / "probe" / "features"
        shutil.rmtree(target, ignore_errors=True)
        features = extract(self.images, load_encoder(str(checkpoint), home=run), out=target, device=self._device)
        train, validation = features.rows("train"), features.rows("validation")

        def score(Cs: Sequence[float]) -> list[float]:
            fits = l2svm_subsets(
                features, features.labels, [train], list(Cs), evaluate_rows=validation, device=self._device
            )
            return (fits.predictions[0] == features.labels[validation]).mean(axis=1).tolist()

        selection = search_hyperparameter(score, RELEASE_C_GRID, scale=scale_of(features.features, train))
        shutil.rmtree(run / "probe")
        return selection.value, 100 * max(selection.scores.values())


def _split_training_images(images: ImageSet, labels_per_class: int) -> ImageSet:
    """Training images as two splits: those to fit, and others to validate on; pixels stay where they are."""
    first, end = images.splits.get("train", (0, len(images)))
    rows = np.arange(first, end)
    check_labels(images.labels[rows], len(images.class_names), f"{images.name}: training images")
    train = sample_label_subset(images.labels, rows, labels_per_class, seed=[_SEED, labels_per_class])
    others = np.setdiff1d(rows, train)
    validation = np.sort(np.random.default_rng(_SEED).permutation(others)[:_VALIDATION])
    rows = np.concatenate([train, validation])
    return ImageSet(
        name=images.name,
        images=Rows(images.images, rows),  # type: ignore[arg-type]
        labels=images.labels[rows],
        class_names=images.class_names,
        splits={"train": (0, len(train)), "validation": (len(train), len(rows))},
        manifest={"made_from": {}, "files": {"images.npy": {"sha256": sha256_json([images.sha256, rows.tolist()])}}},
    )


def _read_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text()))) if path.exists() else []


def _write_rows(rows: list[dict[str, str]], run: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(run / "probe.csv", text.getvalue())
    _plot(rows, run / "probe.png")


def _plot(rows: Sequence[dict[str, str]], path: Path) -> None:
    """The curve of validation accuracy over D updates, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([int(row["d_updates"]) for row in rows], [float(row["validation_percent"]) for row in rows], marker="o")
    axes.set_xlabel("D updates")
    axes.set_ylabel("validation accuracy in %")
    axes.set_title(f"{rows[0]['dataset']}, {rows[0]['labels_per_class']} labels per class")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
