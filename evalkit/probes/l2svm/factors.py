"""Cholesky factors of each column's active rows, kept as long as these stay the same. Used by kernel."""

from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.probes.l2svm.problem import Columns

_ROUNDING = 0.1  # of the ridge, that float32 may add to a matrix: steps then shrink the error ten times or more


@dataclass(frozen=True)
class _Factor:
    index: Tensor  # the active rows
    costs: Tensor
    lower: Tensor

    def serves(self, index: Tensor, costs: Tensor) -> bool:
        return torch.equal(index, self.index) and torch.equal(costs, self.costs)


class Factors:
    """Inverses of K_AA + R_A with R = 1 / 2 cost, of each column for its active rows A.

    Args:
        gram: K, float64 (N, N).
        columns: the problems.
        exact: factors in float64; else in float32 where its rounding is small beside R.
    """

    def __init__(self, gram: Tensor, columns: Columns, *, exact: bool) -> None:
        rounding = float(torch.finfo(torch.float32).eps * gram.trace() * columns.costs.max() * 2)
        self.gram = gram if exact or rounding > _ROUNDING else gram.float()
        self.costs = columns.costs
        self.known: dict[int, _Factor] = {}
        self.newest: _Factor | None = None

    def solve(self, column: int, index: Tensor, vector: Tensor) -> Tensor:
        """The inverse for the active rows `index` of a column applied to a vector on them."""
        costs = self.costs[index, column]
        known = (self.known.get(column), self.newest)  # from zero all rows are active: one factor for all columns
        factor = next((each for each in known if each is not None and each.serves(index, costs)), None)
        if factor is None:
            self.newest = factor = self._factor(index, costs)
        self.known[column] = factor
        return torch.cholesky_solve(vector[:, None].to(factor.lower.dtype), factor.lower)[:, 0].to(vector.dtype)

    def _factor(self, index: Tensor, costs: Tensor) -> _Factor:
        matrix = self.gram.index_select(0, index).index_select(1, index)
        matrix.diagonal().add_(0.5 / costs)
        return _Factor(index, costs, torch.linalg.cholesky(matrix))
