"""Batch-norm statistics for features: which images normalise the network at inference.

`target` (the paper's release): one pass over the training images of the data set that is evaluated, in batches of
128, each normalised by itself; per-batch means and biased variances averaged over the batches, then frozen.
`source`: the same over the images that the network was trained on.
`running`: the buffers filled during training; in a GAN's they mix in generated images, and where features come from
a moving average of D they are still D's own.
`batch`: each batch of 128 images by its own statistics, so that features depend on their neighbours in the data set.

Batch-norm statistics of the images that weights were trained on, handed on with the weights.

With them `--batch-norm source` needs no images but those that are to be encoded.
"""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from evalkit.encoders.dcgan import discriminator_encoder
from evalkit.encoders.encoder import BatchNorm, Network, Preprocessing
from evalkit.errors import EvalkitError
from evalkit.gan.networks import Discriminator
from evalkit.images import find_images_by_sha256
from evalkit.pretrained.store import Pretrained
from evalkit.runtime import Ranks, arithmetic, resolve_device, resolve_precision
from evalkit.workspace import Workspace

BatchNormMode = Literal["target", "source", "running", "batch"]
MODES: tuple[BatchNormMode, ...] = ("target", "source", "running", "batch")
STATISTICS_BATCH = 128  # [release]


class _Moments:
    """Mean and biased variance of one batch norm's input in each batch, float32 on the CPU; the norm is set to train.

    The norm computes them itself: with a momentum of 1 its running statistics are the last batch's. One tensor holds
    them all: small ones, made between the maps of each batch, would stay in the gaps that the maps leave in the heap,
    and the memory would grow by gigabytes.
    """

    def __init__(self, norm: BatchNorm, batches: int, device: torch.device) -> None:
        self.norm, self.batches, self.count = norm, batches, 0
        self.kept = torch.empty(0)
        self.before = norm.momentum, norm.track_running_stats, norm.running_mean, norm.running_var
        norm.momentum, norm.track_running_stats = 1.0, True
        like = torch.empty(0, device=device) if norm.weight is None else norm.weight
        norm.running_mean = torch.zeros(norm.num_features).to(like)
        norm.running_var = torch.ones(norm.num_features).to(like)
        norm.train()  # the rest of the network, dropout say, stays in eval mode
        self.hook = norm.register_forward_hook(self._keep)

    def _keep(self, norm: BatchNorm, inputs: tuple[Tensor], output: Tensor) -> None:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        if self.count == len(self.kept):  # at first, and where the network uses the norm several times
            self.kept = torch.cat([self.kept.view(-1, 2, len(mean)), torch.empty(self.batches, 2, len(mean))])
        values = inputs[0].numel() // len(mean)  # of each map
        self.kept[self.count, 0], self.kept[self.count, 1] = mean, variance.float() * ((values - 1) / values)
        self.count += 1

    def end(self) -> None:
        """Gives the norm back what it had; it stays set to train."""
        self.hook.remove()
        norm = self.norm
        norm.momentum, norm.track_running_stats, norm.running_mean, norm.running_var = self.before

    @property
    def found(self) -> list[tuple[Tensor, Tensor]]:
        """Of each batch."""
        return [(pair[0], pair[1]) for pair in self.kept[: self.count]]


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
    """Freezes the network's batch norms at the statistics of `images` (uint8, N x H x W x 3).

    Processes share the batches; the sums run in the order of batches, so that their number changes no bit.
    """
    starts = range(0, len(images), STATISTICS_BATCH)[ranks.number :: ranks.count]
    moments = {name: _Moments(norm, len(starts), device) for name, norm in network.batch_norms().items()}
    quiet = None if progress and ranks.writes else True
    with torch.inference_mode(), arithmetic(precision, device):
        for first in tqdm(starts, desc="batch-norm statistics", unit="batch", disable=quiet):
            batch = torch.from_numpy(np.array(images[first : first + STATISTICS_BATCH])).to(device)
            network(preprocessing(batch), reduce=_nothing)
    for each in moments.values():
        each.end()
    load_statistics(network, _averages(ranks.objects({name: each.found for name, each in moments.items()})))


def _averages(of_ranks: list[dict[str, list[tuple[Tensor, Tensor]]]]) -> dict[str, Tensor]:
    """Unweighted averages over the batches, which ranks took in turn."""
    found: dict[str, Tensor] = {}
    for name in of_ranks[0]:
        turns = zip_longest(*(each[name] for each in of_ranks))
        batches = [pair for turn in turns for pair in turn if pair is not None]
        if not batches:  # a norm that the network does not use keeps its buffers
            continue
        for index, what in enumerate(("mean", "variance")):
            total = torch.zeros_like(batches[0][index], dtype=torch.float64)
            for pair in batches:
                total += pair[index]
            found[f"{name}.{what}"] = total / len(batches)
    return found


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
    """Freezes the network's batch norms at statistics that `statistics` returned."""
    for name, norm in network.batch_norms().items():
        if f"{name}.mean" in found:
            mean, variance = found[f"{name}.mean"], found[f"{name}.variance"]
            like = next(network.parameters())  # a norm may have no weights
            norm.running_mean, norm.running_var = mean.to(like, copy=True), variance.to(like, copy=True)
    network.eval()


def has_running_statistics(network: Network) -> bool:
    """Whether training has left statistics in any batch norm: means that are not 0, or variances that are not 1."""
    pairs = [(norm.running_mean, norm.running_var) for norm in network.batch_norms().values()]
    return any(bool(m.any() or (v != 1).any()) for m, v in pairs if m is not None and v is not None)


def normalise_by_batch(network: Network) -> None:
    """Makes the network's batch norms use the statistics of the batch at hand."""
    for norm in network.batch_norms().values():
        norm.running_mean = norm.running_var = None


def source_statistics(weights: Pretrained, dtype: torch.dtype, workspace: Workspace) -> tuple[bytes, str]:
    """The file's content, float32 by name as in "conv2.mean", and the arithmetic it was computed in.

    Args:
        weights: with a discriminator, trained on images that the workspace has.
        dtype: in which the discriminator is stored: the statistics are those of its rounded weights.

    Raises:
        EvalkitError: no batch norm, or images that are not there.
    """
    images = find_images_by_sha256(workspace, weights.made_from.get("images_sha256", ""))
    if images is None:
        raise EvalkitError("source statistics need the images that the weights were trained on; prepare them first")
    network = Discriminator(weights.recipe)
    rounded = {
        key: value.to(dtype).float() if value.is_floating_point() else value
        for key, value in (weights.discriminator or {}).items()
    }
    network.load_state_dict(rounded)
    encoder = discriminator_encoder("source statistics", network, sha256="")
    if not encoder.network.batch_norms():
        raise EvalkitError("source statistics: the discriminator has no batch norm")
    height, width = images.images.shape[1:3]
    encoder.preprocessing.check(height, width, "the discriminator")
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    encoder.network.to(device)
    set_statistics(
        encoder.network, images.training, preprocessing=encoder.preprocessing, precision=precision, device=device
    )
    return save({name: value.cpu() for name, value in statistics(encoder.network).items()}), precision
