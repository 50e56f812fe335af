"""Limited-memory BFGS (Liu & Nocedal 1989) of every column at once. Used by descent."""

from collections.abc import Callable

import torch
from torch import Tensor

_HISTORY = 10  # pairs kept


class History:
    """Limited-memory BFGS pairs of every column."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remembers a step in the weights and the change in the gradient it made, (columns, width)."""
        product = (step * change).sum(1)
        usable = product > 1e-12 * (change * change).sum(1)
        inverse = torch.where(usable, 1 / torch.where(usable, product, 1), 0)
        self.pairs = [*self.pairs[1 - _HISTORY :], (step, change, inverse)]

    def keep(self, columns: Tensor) -> None:
        """Forgets all but these columns."""
        self.pairs = [(step[columns], change[columns], inverse[columns]) for step, change, inverse in self.pairs]

    def join(self, columns: int) -> None:
        """Makes room for columns that have no pairs yet."""
        self.pairs = [
            (_longer(step, columns), _longer(change, columns), _longer(inverse, columns))
            for step, change, inverse in self.pairs
        ]

    def inverse(self, gradient: Tensor, first: Callable[[Tensor], Tensor]) -> Tensor:
        """The approximate inverse Hessian applied to the gradient, by the two-loop recursion."""
        vector = gradient.clone()
        alphas = []
        for step, change, inverse in reversed(self.pairs):
            alphas.append(inverse * (step * vector).sum(1))
            vector -= alphas[-1][:, None] * change
        vector = first(vector)
        for (step, change, inverse), alpha in zip(self.pairs, reversed(alphas), strict=True):
            vector += (alpha - inverse * (change * vector).sum(1))[:, None] * step
        return vector


def _longer(tensor: Tensor, rows: int) -> Tensor:
    """The tensor with so many rows of zeros more."""
    return torch.cat([tensor, tensor.new_zeros(rows, *tensor.shape[1:])])
