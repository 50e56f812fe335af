"""nnd: how far real pictures are from the nearest of many samples, in pixel space (the release's log)."""

import numpy as np
import torch

from evalkit.gan.monitor import sample
from evalkit.gan.networks import Generator
from evalkit.gan.recipe import Recipe

_PICTURES = 10_000  # real ones compared [release]
_A_DRAW = 500  # samples a batch: batch statistics of G change with it
_SEED = 7_000_000


def nearest_sample_distance(generator: Generator, recipe: Recipe, pictures: np.ndarray, *, samples: int) -> float:
    """Mean Euclidean distance, in units of the range [0, 1], of `pictures` to the nearest of `samples` samples.

    Args:
        pictures: uint8 (N, H, W, 3); at most 10,000 of them are used, evenly spread; of larger ones the centre.
        samples: how many are drawn (1,000, 10,000 and 100,000 in the release).
    """
    device = next(generator.parameters()).device
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(_PICTURES, len(pictures))).astype(int))
    found = np.asarray(pictures[chosen])[..., : recipe.channels]
    top, left = ((side - recipe.size) // 2 for side in found.shape[1:3])
    real = _flat(found[:, top : top + recipe.size, left : left + recipe.size], device)
    nearest = torch.full((len(real),), torch.inf, device=device)
    for first in range(0, samples, _A_DRAW):
        drawn = sample(generator, recipe, min(_A_DRAW, samples - first), seed=_SEED + first)
        torch.minimum(nearest, torch.cdist(real, _flat(drawn, device)).amin(1), out=nearest)
    return float(nearest.mean())


def _flat(images: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(images.reshape(len(images), -1)).to(device).float() / 255
