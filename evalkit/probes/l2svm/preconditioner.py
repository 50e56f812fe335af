"""An approximate inverse Hessian from a sample of rows, for the block solver.

A column's Hessian is I + 2 X_A^T diag(cost) X_A over its active rows A.  Here it is
tau I + 2 (N / m) X_S^T diag(cost) X_S over the active rows S of one random sample of m rows, inverted by Woodbury's
identity with the sample's Gram matrix.
The sample is the same for every column, C and pass; only an m_S x m_S factor is a column's own.
"""

import torch
from torch import Tensor

from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.problem import Columns

_MOVED = 0.05  # share of the sampled active rows that may change before a column is factored again
_SPECTRUM_ROWS = 1500  # rows whose spectrum is taken: its median settles with far fewer rows than the sample has


class SampledHessian:
    """Inverse of the sampled Hessian of each column.

    Args:
        passes: all rows.
        size: rows in the sample, m.
        seed: of the sample; the solution does not depend on it, only the number of passes does.
    """

    def __init__(self, passes: Passes, *, size: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        total = passes.rows.count
        index = torch.randperm(total, generator=generator)[:size].sort().values
        self.index = index.to(passes.rows.device)
        self.rows = passes.sample(self.index)
        self.product = passes.product
        self.gram = self.product(self.rows, self.rows)
        self.scale = total / len(index)
        self.tail = self._tail()
        self.active: list[Tensor] = []
        self.factors: list[Tensor] = []
        self.taus: list[Tensor] = []

    def _tail(self) -> float:
        """The eigenvalue that the sample cannot resolve: the median of its Gram matrix.

        Below it a sample's eigenvectors are noise, so those directions get one common value instead: as large as
        what the sampled rows show there, 0 when the features have fewer dimensions than the sample has rows.
        """
        few = min(len(self.gram), _SPECTRUM_ROWS)
        return float(torch.linalg.eigvalsh(self.gram[:few, :few].double()).clamp(min=0).median())

    def start(self, columns: Columns, scores: Tensor) -> None:
        """Factors every column anew."""
        self.active = [torch.empty(0)] * scores.shape[1]
        self.factors, self.taus = list(self.active), list(self.active)
        self.follow(columns, scores)

    def follow(self, columns: Columns, scores: Tensor) -> None:
        """Factors again the columns whose active set has moved in the sample."""
        costs = columns.costs[self.index]
        active = (1 - columns.signs[self.index] * scores[self.index] > 0) & (costs > 0)
        for column in range(active.shape[1]):
            mask, known = active[:, column], self.active[column]
            if len(known) and int((mask != known).sum()) <= _MOVED * int(known.sum()):
                continue
            self.active[column] = mask
            self._factor(column, costs[mask, column] * 2 * self.scale)

    def _factor(self, column: int, weights: Tensor) -> None:
        index = self.active[column].nonzero()[:, 0]
        tau = (weights.mean() * self.tail).clamp(min=1) if len(index) else torch.ones((), device=weights.device)
        matrix = self.gram[index][:, index]
        matrix.diagonal().add_(tau / weights)
        self.factors[column], self.taus[column] = torch.linalg.cholesky(matrix), tau

    def keep(self, columns: Tensor) -> None:
        """Forgets all but these columns."""
        for name in ("active", "factors", "taus"):
            setattr(self, name, [getattr(self, name)[column] for column in columns.tolist()])

    def inverse(self, vectors: Tensor) -> Tensor:
        """P^-1 of each column applied to its vector, float32 (columns, width)."""
        sampled = self.product(vectors, self.rows)
        for column, (active, factor) in enumerate(zip(self.active, self.factors, strict=True)):
            solved = torch.cholesky_solve(sampled[column, active, None], factor)[:, 0]
            sampled[column].zero_()
            sampled[column, active] = solved
        taus = torch.stack(self.taus)[:, None]
        return (vectors - self.product(sampled, self.rows.T)) / taus
