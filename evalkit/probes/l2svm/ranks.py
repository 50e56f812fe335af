"""One process or many: the three collective operations that the solver needs. Each rank holds its own rows.

With one process they return what they are given, so that the solvers are written once.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """The processes that share a fit.

    Args:
        distributed: whether to join the default process group (as `torchrun` starts it); else this process is alone.
    """

    def __init__(self, *, distributed: bool = False) -> None:
        self.count = dist.get_world_size() if distributed else 1
        self.number = dist.get_rank() if distributed else 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place, the same bits on every rank."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def concatenate(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks along their first dimension, in the order of ranks."""
        if self.count == 1:
            return tensor
        lengths = self.objects(len(tensor))
        padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def objects(self, value: Any) -> list[Any]:
        """A small Python value from every rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values
