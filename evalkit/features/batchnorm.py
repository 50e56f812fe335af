"""Batch-norm statistics for features: which pictures normalise the network at inference.

`target` (the paper's release): one pass over the training pictures of the data set that is evaluated, in batches of
128, each normalised by itself; per-batch means and biased variances averaged over the batches, then frozen.
`source`: the same over the pictures that the network was trained on.
`running`: the buffers filled during training; in a GAN's they mix in generated pictures.
`batch`: each batch of 128 pictures by its own statistics, so that features depend on their neighbours in the data set.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from evalkit.device import arithmetic
from evalkit.features.encoders.encoder import BatchNorm, Network, Preprocessing

BatchNormMode = Literal["target", "source", "running", "batch"]
MODES: tuple[BatchNormMode, ...] = ("target", "source", "running", "batch")
STATISTICS_BATCH = 128  # [release]


class _Averages:
    """Unweighted averages over batches of the mean and biased variance of one batch norm's input."""

    def __init__(self) -> None:
        self.batches = 0
        self.mean = self.variance = torch.zeros((), dtype=torch.float64)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        maps = inputs[0].float()
        variance, mean = torch.var_mean(maps, [axis for axis in range(maps.ndim) if axis != 1], correction=0)
        self.mean, self.variance = mean.cpu().double() + self.mean, variance.cpu().double() + self.variance
        self.batches += 1


def set_statistics(
    network: Network,
    pictures: np.ndarray,
    *,
    preprocessing: Preprocessing,
    precision: str,
    device: torch.device,
    progress: bool = True,
) -> None:
    """Freezes the network's batch norms at the statistics of `pictures` (uint8, N x H x W x 3)."""
    averages = {name: _Averages() for name in network.norms()}
    hooks = [norm.register_forward_pre_hook(averages[name]) for name, norm in network.norms().items()]
    for norm in network.norms().values():
        norm.train()  # the rest of the network, dropout say, stays in eval mode
    starts = range(0, len(pictures), STATISTICS_BATCH)
    with torch.inference_mode(), arithmetic(precision, device):
        for first in tqdm(starts, desc="batch-norm statistics", unit="batch", disable=None if progress else True):
            batch = torch.from_numpy(np.array(pictures[first : first + STATISTICS_BATCH])).to(device)
            network(preprocessing(batch), reduce=_nothing)
    for hook in hooks:
        hook.remove()
    found = {}
    for name, average in averages.items():
        found[f"{name}.mean"] = average.mean / average.batches
        found[f"{name}.variance"] = average.variance / average.batches
    load_statistics(network, found)


def _nothing(output: Tensor) -> Tensor:
    return output[:0]


def statistics(network: Network) -> dict[str, Tensor]:
    """The frozen statistics by name, e.g. "conv2.mean" (maps,) float32."""
    found = {}
    for name, norm in network.norms().items():
        mean, variance = _buffers(norm)
        found[f"{name}.mean"], found[f"{name}.variance"] = mean, variance
    return found


def _buffers(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """The norm's running mean and variance; made where it was built without."""
    if norm.running_mean is None or norm.running_var is None:
        like = norm.weight if norm.affine else torch.empty(norm.num_features)
        norm.running_mean, norm.running_var = torch.zeros_like(like), torch.ones_like(like)
    return norm.running_mean, norm.running_var


def load_statistics(network: Network, found: dict[str, Tensor]) -> None:
    """Freezes the network's batch norms at statistics that `statistics` returned."""
    for name, place in statistics(network).items():
        place.copy_(found[name])
    network.eval()


def normalise_by_batch(network: Network) -> None:
    """Makes the network's batch norms use the statistics of the batch at hand."""
    for norm in network.norms().values():
        norm.running_mean = norm.running_var = None
