"""Batch norm over the whole minibatch when several processes share it (optional: the paper trains on one)."""

from typing import Any

import torch
from torch import Tensor, nn

from evalkit.distributed import Ranks


class _Sum(torch.autograd.Function):
    """The sum over ranks, in both directions: each rank's loss depends on every rank's input."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(value.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum(gradients[0].contiguous().clone()), None


class SyncedNorm(nn.Module):
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


def sync_norms(network: nn.Module, ranks: Ranks) -> None:
    """Replaces every batch norm of `network` by one over all ranks; names in the state dictionary stay."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(parent, name, SyncedNorm(child, ranks))
