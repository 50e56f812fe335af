"""Batch-norm statistics of data through a network: per-batch moments, averaged, and frozen.

The paper's release normalises features by them (features.batchnorm), weights may be stored with them
(pretrained.import_weights), and the latent experiments freeze both networks at them (latent.model).
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from evalkit.runtime import Ranks, arithmetic

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
STATISTICS_BATCH = 128  # [release]


def image_statistics(
    norms: Mapping[str, BatchNorm],
    images: np.ndarray,
    forward: Callable[[Tensor], object],
    *,
    precision: str,
    device: torch.device,
    progress: bool = True,
    ranks: Ranks = Ranks(),
) -> dict[str, Tensor]:
    """Statistics of `images`, uint8 (N, H, W, 3), in batches of 128, each normalised by itself.

    Processes share the batches; the sums run in the order of the batches, so that the number of processes changes no
    bit.

    Args:
        norms: the batch norms by name.
        forward: runs the network on uint8 images (n, H, W, 3) on the device.

    Returns: as `batch_statistics`.
    """
    starts = range(0, len(images), STATISTICS_BATCH)[ranks.number :: ranks.count]
    quiet = None if progress and ranks.writes else True
    bar = tqdm(starts, desc="batch-norm statistics", unit="batch", disable=quiet)

    def run(first: int) -> None:
        with torch.inference_mode(), arithmetic(precision, device):
            forward(torch.from_numpy(np.array(images[first : first + STATISTICS_BATCH])).to(device))

    return batch_statistics(norms, bar, run, batches=len(starts), device=device, ranks=ranks)


def batch_statistics(
    norms: Mapping[str, BatchNorm],
    inputs: Iterable[Any],
    run: Callable[[Any], object],
    *,
    batches: int,
    device: torch.device,
    ranks: Ranks = Ranks(),
) -> dict[str, Tensor]:
    """Means and biased variances of what the norms are given, averaged over the batches.

    The norms are left in training mode; the rest of the network runs in the mode that it is in.

    Args:
        norms: the batch norms by name.
        inputs: one entry per batch, `batches` in all.
        run: runs the network on one entry.

    Returns: float64 (channels,) by name, e.g. "conv2.mean" and "conv2.variance"; nothing for norms that are not used.
    """
    moments = {name: _Moments(norm, batches, device) for name, norm in norms.items()}
    try:
        for each in inputs:
            run(each)
    finally:
        for moment in moments.values():
            moment.end()
    return _averages(ranks.objects({name: moment.per_batch for name, moment in moments.items()}))


def freeze_batch_norms(norms: Mapping[str, BatchNorm], statistics: Mapping[str, Tensor], like: Tensor) -> None:
    """Sets the norms' running statistics, in the type and on the device of `like`, and puts them in eval mode.

    Norms that `statistics` does not name keep theirs.
    """
    for name, norm in norms.items():
        if f"{name}.mean" in statistics:
            mean, variance = statistics[f"{name}.mean"], statistics[f"{name}.variance"]
            norm.running_mean, norm.running_var = mean.to(like, copy=True), variance.to(like, copy=True)
        norm.eval()


class _Moments:
    """Mean and biased variance of one batch norm's input in each batch, float32 on the CPU; the norm is set to train.

    The norm computes them itself: with a momentum of 1 its running statistics are the last batch's. One tensor holds
    them all: small ones, allocated between the maps of each batch, would stay in the gaps that the maps leave in the
    heap, and the memory would grow by gigabytes.
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
        values = inputs[0].numel() // len(mean)  # per channel
        self.kept[self.count, 0], self.kept[self.count, 1] = mean, variance.float() * ((values - 1) / values)
        self.count += 1

    def end(self) -> None:
        """Restores the norm's buffers and settings; it stays in training mode."""
        self.hook.remove()
        norm = self.norm
        norm.momentum, norm.track_running_stats, norm.running_mean, norm.running_var = self.before

    @property
    def per_batch(self) -> list[tuple[Tensor, Tensor]]:
        """(mean, variance) of each batch."""
        return [(pair[0], pair[1]) for pair in self.kept[: self.count]]


def _averages(of_ranks: list[dict[str, list[tuple[Tensor, Tensor]]]]) -> dict[str, Tensor]:
    """Unweighted averages over the batches, which the processes took in turn."""
    averages: dict[str, Tensor] = {}
    for name in of_ranks[0]:
        turns = zip_longest(*(each[name] for each in of_ranks))
        batches = [pair for turn in turns for pair in turn if pair is not None]
        if not batches:  # a norm that the network does not use keeps its buffers
            continue
        for index, moment in enumerate(("mean", "variance")):
            total = torch.zeros_like(batches[0][index], dtype=torch.float64)
            for pair in batches:
                total += pair[index]
            averages[f"{name}.{moment}"] = total / len(batches)
    return averages
