"""Batch-norm statistics for features: which images normalise the network at inference.

`target` (the paper's release): one pass over the training images of the evaluated data set in batches of 128, each
normalised by itself; the per-batch means and biased variances are averaged over the batches and frozen.
`source`: the same over the images that the network was trained on. Weights may come with these statistics
(pretrained.import_weights); then the images themselves are not needed.
`running`: the buffers filled during training. A GAN's also contain generated images, and where features come from a
moving average of D, they are still those of D itself.
`batch`: each batch of 128 images by its own statistics, so that features depend on the other images of the batch.
"""

from collections.abc import Mapping
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from evalkit.batch_statistics import freeze_batch_norms, image_statistics
from evalkit.encoders.encoder import Network, Preprocessing
from evalkit.features.options import BatchNormMode
from evalkit.runtime import Ranks

MODES: tuple[BatchNormMode, ...] = get_args(BatchNormMode)


def set_statistics(
    network: Network,
    images: np.ndarray,
    *,
    preprocessing: Preprocessing,
    precision: str,
    device: torch.device,
    progress: bool = True,
    ranks: Ranks = Ranks(),
) -> None:
    """Freezes the network's batch norms at the statistics of `images`, uint8 (N, H, W, 3): see `image_statistics`."""
    averages = image_statistics(
        network.batch_norms(),
        images,
        lambda batch: network(preprocessing(batch), reduce=_nothing),
        precision=precision,
        device=device,
        progress=progress,
        ranks=ranks,
    )
    load_statistics(network, averages)


def _nothing(name: str, output: Tensor) -> Tensor:
    return output[:0]


def statistics(network: Network) -> dict[str, Tensor]:
    """The frozen statistics by name, e.g. "conv2.mean" (channels,) float32."""
    by_name = {}
    for name, norm in network.batch_norms().items():
        if norm.running_mean is not None and norm.running_var is not None:
            by_name[f"{name}.mean"], by_name[f"{name}.variance"] = norm.running_mean, norm.running_var
    return by_name


def load_statistics(network: Network, by_name: Mapping[str, Tensor]) -> None:
    """Freezes the network's batch norms at statistics as `statistics` returns them."""
    freeze_batch_norms(network.batch_norms(), by_name, next(network.parameters()))  # a norm may have no weights
    network.eval()


def has_running_statistics(network: Network) -> bool:
    """Whether any batch norm has statistics of a training: means that are not 0, or variances that are not 1."""
    pairs = [(norm.running_mean, norm.running_var) for norm in network.batch_norms().values()]
    return any(bool(m.any() or (v != 1).any()) for m, v in pairs if m is not None and v is not None)


def normalise_by_batch(network: Network) -> None:
    """Makes the network's batch norms use the statistics of each batch."""
    for norm in network.batch_norms().values():
        norm.running_mean = norm.running_var = None
