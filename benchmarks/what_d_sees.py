"""What a trained D responds to, and how G's images compare with real ones: one row per checkpoint.

    python benchmarks/what_d_sees.py IMAGES CHECKPOINT... > what-d-sees.csv

IMAGES is the prepared image set that the runs trained on (evalkit-home/images/tiny-imagenet). Mean logits of D itself
(not of a moving average) on training images, on the same images mirrored, upside down and at a quarter of their
contrast, in the recipe's batches with batch statistics, as in training; the standard deviation of its kernels; the
samples' statistics relative to the images'.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalkit.gan.checkpoint import load_weights, read_checkpoint, stored_recipe
from evalkit.gan.monitor import diversity, sample
from evalkit.gan.networks import Discriminator, Generator, to_network_range
from evalkit.gan.run_dir import run_of
from evalkit.images import load_images

IMAGES, SAMPLES, SEED = 1536, 196, 1
WAYS = {
    "as_they_are": lambda x: x,
    "mirrored": lambda x: x.flip(3),
    "upside_down": lambda x: x.flip(2),
    "quarter_contrast": lambda x: x / 4,
}
COLUMNS = (
    "run", "d_updates", "images", "logit_std", *(f"logit_{way}" for way in WAYS), "kernels_std",
    "samples_std", "samples_contrast", "samples_diversity",
)  # fmt: skip


def pixel_std(images: np.ndarray) -> float:
    """Root mean square distance of pixels from the mean image."""
    return float(np.sqrt(images.astype(np.float32).var(0).mean()))


def contrast(images: np.ndarray) -> float:
    """Root mean square distance of pixels from their own image's mean color."""
    return float(np.sqrt(images.astype(np.float32).var((1, 2)).mean()))


@torch.no_grad()
def logits(discriminator: Discriminator, real_images: Tensor, way: str) -> Tensor:
    """D's logits on images changed in one of the WAYS, (N,)."""
    batches = real_images.split(discriminator.recipe.batch_size)
    return torch.cat([discriminator(WAYS[way](batch)) for batch in batches])


@torch.no_grad()
def row(checkpoint: Path, real_images: np.ndarray) -> list[str]:
    """The cells of one checkpoint."""
    manifest = read_checkpoint(checkpoint)
    recipe = stored_recipe(manifest)
    generator, discriminator = Generator(recipe), Discriminator(recipe).train()
    load_weights(generator, checkpoint / "generator.safetensors")
    load_weights(discriminator, checkpoint / "discriminator.safetensors")
    logits_by_way = {
        way: logits(discriminator, to_network_range(torch.from_numpy(real_images), recipe), way) for way in WAYS
    }
    samples = sample(generator, recipe, SAMPLES, seed=SEED)
    numbers = [
        logits_by_way["as_they_are"].std(),
        *(each.mean() for each in logits_by_way.values()),
        torch.cat([block.conv.weight.flatten() for block in discriminator.blocks]).std(),
        pixel_std(samples) / pixel_std(real_images),
        contrast(samples) / contrast(real_images),
        diversity(samples),
    ]
    name, updates = run_of(checkpoint).name, manifest["settings"]["d_updates"]
    return [name, str(updates), str(len(real_images)), *(f"{float(number):.4f}" for number in numbers)]


def main(images: Path, checkpoints: list[Path]) -> None:
    train = load_images(images).split("train")
    real_images = np.asarray(train[np.sort(np.random.default_rng(SEED).permutation(len(train))[:IMAGES])])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for checkpoint in checkpoints:
        writer.writerow(row(checkpoint, real_images))
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
