"""Batch-norm statistics for features: which pictures normalise the discriminator at inference.

`target` (the paper's release): one pass over the training pictures of the data set that is evaluated, in batches of
128, each normalised by itself; per-batch means and biased variances averaged over the batches, then frozen.
`source`: the same over the pictures that the GAN was trained on.
`running`: the buffers filled during GAN training, which mix in generated pictures.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from evalkit.device import arithmetic
from evalkit.gan.networks import Discriminator, to_network_range

BatchNormMode = Literal["target", "source", "running"]
MODES: tuple[BatchNormMode, ...] = ("target", "source", "running")
_BATCH = 128  # [release]


class _Averages:
    """Unweighted averages over batches of the mean and biased variance of one batch norm's input."""

    def __init__(self) -> None:
        self.batches = 0
        self.mean = self.variance = torch.zeros((), dtype=torch.float64)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        maps = inputs[0].float()
        variance, mean = torch.var_mean(maps, (0, 2, 3), correction=0)
        self.mean, self.variance = mean.cpu().double() + self.mean, variance.cpu().double() + self.variance
        self.batches += 1


def set_statistics(
    discriminator: Discriminator, pictures: np.ndarray, *, precision: str, device: torch.device, progress: bool = True
) -> None:
    """Freezes the discriminator's conv batch norms at the statistics of `pictures` (uint8, N x H x W x 3)."""
    averages = {name: _Averages() for name in discriminator.norms()}
    hooks = [norm.register_forward_pre_hook(averages[name]) for name, norm in discriminator.norms().items()]
    discriminator.train()
    starts = range(0, len(pictures), _BATCH)
    with torch.inference_mode(), arithmetic(precision, device):
        for first in tqdm(starts, desc="batch-norm statistics", unit="batch", disable=None if progress else True):
            batch = torch.from_numpy(np.array(pictures[first : first + _BATCH])).to(device)
            discriminator.taps(to_network_range(batch, discriminator.recipe))
    for hook in hooks:
        hook.remove()
    found = {}
    for name, average in averages.items():
        found[f"{name}.mean"], found[f"{name}.variance"] = (
            average.mean / average.batches,
            average.variance / average.batches,
        )
    load_statistics(discriminator, found)


def statistics(discriminator: Discriminator) -> dict[str, Tensor]:
    """The frozen statistics by name, e.g. "conv2.mean" (maps,) float32."""
    found = {}
    for name, norm in discriminator.norms().items():
        assert norm.running_mean is not None and norm.running_var is not None
        found[f"{name}.mean"], found[f"{name}.variance"] = norm.running_mean, norm.running_var
    return found


def load_statistics(discriminator: Discriminator, found: dict[str, Tensor]) -> None:
    """Freezes the discriminator's conv batch norms at statistics that `statistics` returned."""
    for name, place in statistics(discriminator).items():
        place.copy_(found[name])
    discriminator.eval()
