"""Normalizations that torch lacks or has only for GPUs: spectral norm, and batch norm synchronized over processes.

Spectral norm divides weights by their largest singular value (Miyato et al. 2018, algorithm 1). Synchronized batch norm
uses the statistics of the whole minibatch that several processes share (optional: the paper trains on one).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from evalkit.runtime import Ranks

_FIRST_ITERATIONS = 50  # from a random start close to the singular vectors; afterwards one per pass suffices


class SpectralNorm(nn.Module):
    """A parametrization: W -> W / sigma(W), W as a matrix with one row per output.

    Each pass in training mode does one power iteration, always in the precision of the weight: torch's spectral norm
    iterates in bfloat16 under autocast.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        rows = weight.flatten(1)
        self.register_buffer("left", torch.ones(rows.shape[0], dtype=weight.dtype))
        self.register_buffer("right", torch.ones(rows.shape[1], dtype=weight.dtype))

    @torch.no_grad()
    def reset(self, weight: Tensor, generator: torch.Generator | None) -> None:
        """Computes the singular vectors of a new `weight` from a random start."""
        self.left = torch.randn(len(weight), generator=generator, dtype=weight.dtype)
        self.right = weight.flatten(1).T @ self.left
        self._iterate(weight.flatten(1), _FIRST_ITERATIONS)

    @torch.no_grad()
    def _iterate(self, rows: Tensor, times: int) -> None:
        for _ in range(times):
            # new tensors, not in place: an earlier pass still needs the old ones for its gradient
            self.left = F.normalize(rows @ self.right, dim=0)
            self.right = F.normalize(rows.T @ self.left, dim=0)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            rows = weight.flatten(1)
            if self.training:
                self._iterate(rows, 1)
            return weight / torch.dot(self.left, rows @ self.right)


def power_iterate(network: nn.Module) -> None:
    """Does one power iteration of every spectral norm in a network, as a pass in training mode does."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            held = getattr(module.parametrizations, "weight")  # noqa: B009 - as in `init_weight`
            held[0]._iterate(held.original.flatten(1), 1)


def add_spectral_norm(module: nn.Conv2d | nn.Linear) -> None:
    """Makes `module.weight` spectrally normalized."""
    # unsafe skips a trial pass, which is meaningless before the weights are initialized
    parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight), unsafe=True)


def init_weight(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, std: float, generator: torch.Generator) -> None:
    """Initializes the weight, before its normalization if it has one, from N(0, std)."""
    if not parametrize.is_parametrized(module, "weight"):
        nn.init.normal_(module.weight, 0.0, std, generator=generator)
        return
    held = getattr(module.parametrizations, "weight")  # noqa: B009 - mypy knows no attributes of a parametrized module
    nn.init.normal_(held.original, 0.0, std, generator=generator)
    held[0].reset(held.original.detach(), generator)


def remove_spectral_norm(module: nn.Module) -> None:
    """Turns `module.weight` into a plain parameter with the normalized value."""
    if parametrize.is_parametrized(module, "weight"):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


class _Sum(torch.autograd.Function):
    """The sum over ranks, in both directions: each rank's loss depends on every rank's input."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(value.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum(gradients[0].contiguous().clone()), None


class SyncBatchNorm(nn.Module):
    """Batch norm by mean and biased variance over all ranks; shares the parameters and buffers of `norm`."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, ranks: Ranks):
        super().__init__()
        self.eps, self.momentum, self.ranks = norm.eps, norm.momentum, ranks
        self._parameters, self._buffers = norm._parameters, norm._buffers

    def forward(self, x: Tensor) -> Tensor:
        axes = (0, 2, 3) if x.ndim == 4 else (0,)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean = self._average(x.float().mean(axes))
        centered = x.float() - mean.view(shape)
        variance = self._average(centered.square().mean(axes))
        self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1] * self.ranks.count)
        y = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _average(self, value: Tensor) -> Tensor:
        return _Sum.apply(value, self.ranks) / self.ranks.count

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Updates the running statistics, if there are any, as torch's batch norm does."""
        if self.running_mean is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked += 1


def sync_batch_norms(network: nn.Module, ranks: Ranks) -> None:
    """Replaces every batch norm of `network` by one over all ranks; the names in the state dictionary stay."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(parent, name, SyncBatchNorm(child, ranks))
