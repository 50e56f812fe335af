"""What a moving average of D's weights does for its features: the same checkpoints with and without it.

    python benchmarks/moving_average.py IMAGES CHECKPOINT... > moving-average.csv

IMAGES is a prepared image set (evalkit-home/images/cifar10), CHECKPOINT a folder of a run with d_ema, whose D trains
as if there were no average. Validation accuracy of the training probe, 400 labels per class, the same images each time.
"""

import csv
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from evalkit.evaluation.training_probe import TrainingProbe
from evalkit.gan.checkpoint import read_checkpoint, weights_file
from evalkit.gan.run_dir import run_of
from evalkit.images import load_images

LABELS_PER_CLASS = 400


def without_average(checkpoint: Path, target: Path) -> Path:
    """A copy of a checkpoint without the average of D."""
    if weights_file(read_checkpoint(checkpoint), "discriminator") == "discriminator.safetensors":
        sys.exit(f"{checkpoint}: no average of D; expected a checkpoint of a run with --set d_ema=…")
    shutil.copytree(checkpoint, target)
    manifest = json.loads((target / "manifest.json").read_text())
    del manifest["files"]["discriminator_average.safetensors"]
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def probe_row(images: Path, checkpoint: Path, run: Path) -> dict[str, str]:
    """The probe's row of one checkpoint, measured into the folder `run`."""
    TrainingProbe(load_images(images), labels_per_class=LABELS_PER_CLASS, run=run)(checkpoint)
    return next(csv.DictReader((run / "probe.csv").open()))


def main(images: Path, checkpoints: list[Path]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["run", "d_updates", "d_ema", "weights", "validation_images", "C", "validation_percent"])
    for checkpoint in checkpoints:
        recipe = read_checkpoint(checkpoint)["settings"]["recipe"]
        with tempfile.TemporaryDirectory() as folder:
            plain = without_average(checkpoint, Path(folder) / "plain" / checkpoint.name)
            for each in (plain, checkpoint):
                weights = weights_file(read_checkpoint(each), "discriminator").removesuffix(".safetensors")
                row = probe_row(images, each, Path(folder) / weights)
                measured = (row[key] for key in ("validation_images", "C", "validation_percent"))
                writer.writerow([run_of(checkpoint).name, row["d_updates"], recipe["d_ema"], weights, *measured])
                sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress, and why a probe failed
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
