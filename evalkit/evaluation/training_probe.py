"""A probe on a run while it trains: does D's representation still get better?

Every so many D updates a few-label SVM is fitted on frozen features of a benchmark's training images. The benchmark's
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
from evalkit.evaluation.evaluate import search_hyperparameter
from evalkit.evaluation.label_subsets import sample_label_subset
from evalkit.features.extract import extract
from evalkit.gan.checkpoint import KIND
from evalkit.gan.run_dir import best_checkpoint, run_of
from evalkit.images.imageset import ImageSet, Rows
from evalkit.probes.classifiers import RELEASE_C_GRID
from evalkit.runtime import local_device, resolve_device
from evalkit.solver import l2svm_subsets

COLUMNS = ("d_updates", "rewinds", "dataset", "labels_per_class", "validation_images", "C", "validation_percent")
logger = logging.getLogger(__name__)
_VALIDATION = 5_000  # enough for +- 0.7 points; the same images each time, so differences show better than that
_SEED = 0


class TrainingProbe:
    """Measures checkpoints of a run while it trains: the `probe` of `train_gan`.

    Writes RUN/probe.csv and RUN/probe.png, and keeps the checkpoint of the best validation accuracy as RUN/best.

    Args:
        images: the benchmark's images, of which only the `train` split is used.
        labels_per_class: k; k x K images are fitted, and normalise (the whole training split would take longer).
        run: the folder to write to; by default the run that a checkpoint belongs to.

    Raises:
        EvalkitError: a class of the benchmark has too few images.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        labels_per_class: int,
        run: Path | None = None,
        device: str = "auto",
    ):
        self.run, self.labels_per_class = run, labels_per_class
        self._device = str(local_device(resolve_device(device)))
        self.images = _excerpt(images, labels_per_class)

    def __call__(self, checkpoint: Path) -> None:
        """Measures the checkpoint unless it was measured before."""
        settings = read_manifest(checkpoint, KIND)["settings"]
        d_updates, rewinds = settings["d_updates"], settings["rewinds"]
        run = self.run or run_of(checkpoint)
        found = _read_rows(run / "probe.csv")
        if any((int(row["d_updates"]), int(row["rewinds"])) == (d_updates, rewinds) for row in found):
            return
        rows = [row for row in found if int(row["d_updates"]) < d_updates]  # later ones are from before a step back
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
        """The C chosen and the validation accuracy in percent."""
        target = run / "probe" / "features"
        shutil.rmtree(target, ignore_errors=True)
        found = extract(self.images, load_encoder(str(checkpoint), home=run), out=target, device=self._device)
        fit, validation = found.rows("train"), found.rows("validation")

        def score(Cs: Sequence[float]) -> list[float]:
            fits = l2svm_subsets(found, found.labels, [fit], list(Cs), evaluate_rows=validation, device=self._device)
            return (fits.predictions[0] == found.labels[validation]).mean(axis=1).tolist()

        choice = search_hyperparameter(score, RELEASE_C_GRID, say=lambda line: None)
        shutil.rmtree(run / "probe")
        return choice.value, 100 * max(choice.scores.values())


def _read_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text()))) if path.exists() else []


def _write_rows(rows: list[dict[str, str]], run: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(run / "probe.csv", text.getvalue())
    _draw(rows, run / "probe.png")


def _excerpt(images: ImageSet, labels_per_class: int) -> ImageSet:
    """The images to fit and, of the other training images, those to validate on, as splits of a set in memory."""
    first, end = images.splits.get("train", (0, len(images)))
    everything = np.arange(first, end)
    fit = sample_label_subset(images.labels, everything, labels_per_class, seed=[_SEED, labels_per_class])
    others = np.setdiff1d(everything, fit)
    validation = np.sort(np.random.default_rng(_SEED).permutation(others)[:_VALIDATION])
    rows = np.concatenate([fit, validation])
    return ImageSet(
        name=images.name,
        images=Rows(images.images, rows),  # type: ignore[arg-type]
        labels=images.labels[rows],
        class_names=images.class_names,
        splits={"train": (0, len(fit)), "validation": (len(fit), len(rows))},
        manifest={"made_from": {}, "files": {"images.npy": {"sha256": sha256_json([images.sha256, rows.tolist()])}}},
    )


def _draw(rows: Sequence[dict[str, str]], path: Path) -> None:
    """The curve of validation accuracy against D updates, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([int(row["d_updates"]) for row in rows], [float(row["validation_percent"]) for row in rows], marker="o")
    axes.set_xlabel("D updates")
    axes.set_ylabel("validation accuracy in %")
    axes.set_title(f"{rows[0]['dataset']}, {rows[0]['labels_per_class']} labels a class")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
