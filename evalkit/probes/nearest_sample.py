"""1-nearest-neighbour classification by samples of a conditional generator (Radford et al. 2016, table 3; the release's
`nnc`): samples come in batches, and only the nearest one so far of each test picture is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evalkit.gan.networks import Generator, draw_z
from evalkit.gan.recipes import Recipe

BATCH = 1000  # samples at a time, all classes in turn: batch norm takes their statistics

Draw = Callable[[int, int], tuple[Tensor, Tensor]]


@dataclass
class Nearest:
    """The nearest sample so far of each test picture: squared distance float32 and label int64, both (N,)."""

    distances: Tensor
    labels: Tensor

    @staticmethod
    def none_yet(count: int, device: torch.device) -> "Nearest":
        """Before the first batch."""
        return Nearest(torch.full((count,), float("inf"), device=device), torch.full((count,), -1, device=device))

    def update(self, pictures: Tensor, samples: Tensor, labels: Tensor) -> None:
        """Takes in samples (n, D) with labels (n,) for pictures (N, D)."""
        squares = pictures.square().sum(1)
        for first in range(0, len(pictures), BATCH):
            part = slice(first, first + BATCH)
            distances = torch.addmm(samples.square().sum(1), pictures[part], samples.T, alpha=-2)
            least, which = distances.min(1)
            least = least + squares[part]
            nearer = least < self.distances[part]
            self.distances[part] = torch.where(nearer, least, self.distances[part])
            self.labels[part] = torch.where(nearer, labels[which], self.labels[part])


def sampler(generator: Generator, recipe: Recipe, *, seed: int) -> Draw:
    """Draws batch `number` of `count` samples: pictures (count, D) in the generator's range, labels (count,).

    Each batch depends on the seed and its number alone.
    """
    device = next(generator.parameters()).device

    def draw(number: int, count: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        z = draw_z(count, recipe, random).to(device)
        labels = torch.arange(count, device=device) % recipe.classes
        with torch.inference_mode():
            return generator(z, torch.nn.functional.one_hot(labels, recipe.classes)).flatten(1).float(), labels

    return draw
