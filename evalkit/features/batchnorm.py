"""Batch-norm statistics for features: which images normalise the network at inference.

`target` (the paper's release): one pass over the training images of the data set that is evaluated, in batches of
128, each normalised by itself; per-batch means and biased variances averaged over the batches, then frozen.
`source`: the same over the images that the network was trained on.
`running`: the buffers filled during training; in a GAN's they mix in generated images, and where features come from
a moving average of D they are still D's own.
`batch`: each batch of 128 images by its own statistics, so that features depend on their neighbours in the data set.

Weights may come with the statistics of the images they were trained on (pretrained.import_weights); `source` needs no
images then but those that are encoded.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from evalkit.batch_statistics import freeze_batch_norms, image_statistics
from evalkit.encoders.encoder import Network, Preprocessing
from evalkit.runtime import Ranks

BatchNormMode = Literal["target", "source", "running", "batch"]
MODES: tuple[BatchNormMode, ...] = ("target", "source", "running", "batch")


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
    """The frozen statistics by name, e.g. "conv2.mean" (maps,) float32."""
    found = {}
    for name, norm in network.batch_norms().items():
        if norm.running_mean is not None and norm.running_var is not None:
            found[f"{name}.mean"], found[f"{name}.variance"] = norm.running_mean, norm.running_var
    return found


def load_statistics(network: Network, found: Mapping[str, Tensor]) -> None:
    """Freezes the network's batch norms at statistics as `statistics` returns them."""
    freeze_batch_norms(network.batch_norms(), found, next(network.parameters()))  # a norm may have no weights
    network.eval()


def has_running_statistics(network: Network) -> bool:
    """Whether training has left statistics in any batch norm: means that are not 0, or variances that are not 1."""
    pairs = [(norm.running_mean, norm.running_var) for norm in network.batch_norms().values()]
    return any(bool(m.any() or (v != 1).any()) for m, v in pairs if m is not None and v is not None)


def normalise_by_batch(network: Network) -> None:
    """Makes the network's batch norms use the statistics of the batch at hand."""
    for norm in network.batch_norms().values():
        norm.running_mean = norm.running_var = None
