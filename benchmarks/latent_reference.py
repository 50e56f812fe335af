"""How much samples change with the reference batch that freezes the generator's batch norm, by the size of the batch.

    python benchmarks/latent_reference.py CHECKPOINT [--out benchmarks/results/latent-reference.csv]

Images of the same 64 z with batch norm frozen at several reference batches of one size (other seeds): the mean absolute
difference of pixels, out of 255, between two of them; mean and largest over the pairs. The first row is the release's
procedure: every batch of 64 normalized by itself, each z with 63 others.
"""

import argparse
import csv
import itertools
from pathlib import Path

import numpy as np
import torch

from evalkit.gan.checkpoint import load_weights, read_checkpoint, stored_recipe, weights_file
from evalkit.gan.networks import Generator, draw_z, to_images
from evalkit.latent.model import freeze_batch_norm

SIZES = (32, 64, 128, 256, 512)
SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latent-reference.csv"))
    arguments = parser.parse_args()
    manifest = read_checkpoint(arguments.checkpoint)
    generator = Generator(stored_recipe(manifest))
    load_weights(generator, arguments.checkpoint / weights_file(manifest, "generator"))
    z = sample_z(64, 0, generator)
    with open(arguments.out, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["reference", "mean_difference", "largest_difference", "pairs"])
        writer.writerow(["own batch of 64", *differences([beside_others(generator, z, seed) for seed in range(SEEDS)])])
        for size in SIZES:
            images = []
            for seed in range(1, SEEDS + 1):
                freeze_batch_norm(generator, sample_z(size, seed, generator), None)
                with torch.no_grad():
                    images.append(to_images(generator(z), generator.recipe))
            writer.writerow([size, *differences(images)])
            file.flush()


def sample_z(count: int, seed: int, generator: Generator) -> torch.Tensor:
    return draw_z(count, generator.recipe, torch.Generator().manual_seed(seed))


def beside_others(generator: Generator, z: torch.Tensor, seed: int) -> np.ndarray:
    """Images of eight of the z, each first in a batch whose other z depend on the seed."""
    generator.train()
    images = []
    with torch.no_grad():
        for index in range(8):
            others = sample_z(63, 1000 * (seed + 1) + index, generator)
            images.append(to_images(generator(torch.cat([z[index : index + 1], others])), generator.recipe)[:1])
    return np.concatenate(images)


def differences(images: list[np.ndarray]) -> list[str]:
    changes = [np.abs(a.astype(float) - b).mean() for a, b in itertools.combinations(images, 2)]
    return [f"{np.mean(changes):.2f}", f"{np.max(changes):.2f}", str(len(changes))]


if __name__ == "__main__":
    main()
