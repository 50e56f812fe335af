"""Spectral normalisation: weights divided by their largest singular value (Miyato et al. 2018, algorithm 1).

Batch norm over the whole minibatch when several processes share it (optional: the paper trains on one).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from evalkit.runtime import Ranks

_FIRST_ITERATIONS = 50  # brings the random start near the singular vectors; afterwards one a pass keeps up


class SpectralNorm(nn.Module):
    """A parametrisation: W -> W / sigma(W), W as a matrix with a row an output; one power iteration a training pass.

    Always in the weight's own precision: torch's, under autocast, iterates in bfloat16.
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
        """Finds the singular vectors of a new `weight` from a random start."""
        self.left = torch.randn(len(weight), generator=generator, dtype=weight.dtype)
        self.right = weight.flatten(1).T @ self.left
        self._iterate(weight.flatten(1), _FIRST_ITERATIONS)

    @torch.no_grad()
    def _iterate(self, rows: Tensor, times: int) -> None:
        for _ in range(times):
            # new tensors, not in place: a pass before this one still needs the old for its gradient
            self.left = F.normalize(rows @ self.right, dim=0)
            self.right = F.normalize(rows.T @ self.left, dim=0)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            rows = weight.flatten(1)
            if self.training:
                self._iterate(rows, 1)
            return weight / torch.dot(self.left, rows @ self.right)


def power_iterate(network: nn.Module) -> None:
    """One power iteration of every spectral norm in a network, as a training pass does."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            held = getattr(module.parametrizations, "weight")  # noqa: B009 - as in `draw_weight`
            held[0]._iterate(held.original.flatten(1), 1)


def add_spectral_norm(module: nn.Conv2d | nn.Linear) -> None:
    """Makes `module.weight` spectrally normalised."""
    # unsafe skips a trial pass, which says nothing before the weights are drawn
    parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight), unsafe=True)


def init_weight(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, std: float, generator: torch.Generator) -> None:
    """Draws the weight from N(0, std), before its normalisation if it has one."""
    if not parametrize.is_parametrized(module, "weight"):
        nn.init.normal_(module.weight, 0.0, std, generator=generator)
        return
    held = getattr(module.parametrizations, "weight")  # noqa: B009 - mypy knows no attributes of a parametrised module
    nn.init.normal_(held.original, 0.0, std, generator=generator)
    held[0].reset(held.original.detach(), generator)


def remove_spectral_norm(module: nn.Module) -> None:
    """Freezes `module.weight` at its normalised value, a plain parameter again."""
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
    """A batch norm that normalises by mean and biased variance over all ranks; takes over parameters and buffers."""

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
        mean = self._averaged(x.float().mean(axes))
        centred = x.float() - mean.view(shape)
        variance = self._averaged(centred.square().mean(axes))
        self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1] * self.ranks.count)
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _averaged(self, value: Tensor) -> Tensor:
        return _Sum.apply(value, self.ranks) / self.ranks.count

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics as torch's batch norm does, where there are any."""
        if self.running_mean is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked += 1


def sync_batch_norms(network: nn.Module, ranks: Ranks) -> None:
    """Replaces every batch norm of `network` by one over all ranks; names in the state dictionary stay."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(parent, name, SyncBatchNorm(child, ranks))
