"""Passes over all rows: scores of many columns at once, and the sums over rows that gradients need.

A weight vector has one entry a feature and, with an intercept, one more for the constant feature.
"""

from torch import Tensor

from evalkit.distributed import Ranks
from evalkit.probes.l2svm.products import matrix_path
from evalkit.probes.l2svm.rows import Rows


class Passes:
    """Products of the feature matrix X (N, D), with its constant column if any, by blocks of columns.

    Args:
        rows: this rank's rows of X.
        constant: value of the constant feature (intercept_scaling), or None without an intercept.
        ranks: the processes among which the rows of X are divided.

    Attributes:
        width: length of a weight vector, D or D + 1.
        count: passes made so far.
    """

    def __init__(self, rows: Rows, *, constant: float | None, ranks: Ranks | None = None) -> None:
        self.rows = rows
        self.constant = constant
        self.ranks = ranks or Ranks()
        self.width = rows.features + (constant is not None)
        self.product = matrix_path(rows.device)
        self.count = 0

    def scores(self, weights: Tensor) -> Tensor:
        """X @ weights.T of this rank's rows: (columns, width) to (N, columns), in the type of the arithmetic."""
        self.count += 1
        features = weights[:, : self.rows.features].contiguous()
        scores = weights.new_empty(self.rows.count, len(weights))

        def work(worker: int, where: slice, chunk: Tensor) -> None:
            scores[where] = self.product(chunk, features)

        self.rows.for_each(work, len(weights))
        if self.constant is not None:
            scores += self.constant * weights[:, -1]
        return scores

    def weighted_rows(self, coefficients: Tensor) -> Tensor:
        """coefficients.T @ X over all ranks: (N, columns) to (columns, width), in the type of the arithmetic."""
        self.count += 1
        across = coefficients.T.contiguous()
        totals = across.new_zeros(self.rows.workers, len(across), self.width)

        def work(worker: int, where: slice, chunk: Tensor) -> None:
            totals[worker, :, : self.rows.features] += self.product(across[:, where], chunk.T)

        self.rows.for_each(work, len(across))
        total = totals.sum(0) if len(totals) > 1 else totals[0]
        if self.constant is not None:
            total[:, -1] = self.constant * across.sum(1)
        return self.ranks.sum(total)
