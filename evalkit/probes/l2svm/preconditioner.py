"""An approximate inverse Hessian from a sample of rows, for the block solver.

A column's Hessian is I + 2 X_A^T diag(cost) X_A over its active rows A.  Here it is
tau I + 2 (N / m) X_S^T diag(cost) X_S over the active rows S of one random sample of m rows, inverted by Woodbury's
identity with the sample's Gram matrix. The sample is the same for every column, C and pass; only a factor of the size
of S is a column's own.
"""

import torch
from torch import Tensor

from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.problem import Columns
from evalkit.probes.l2svm.rows import Rows

_MOVED = 0.05  # share of the sampled active rows that may change before a column is factored again
_SPECTRUM_ROWS = 1500  # rows whose spectrum is taken: its median settles with far fewer rows than the sample has
_BLOCK_ROWS = 1000  # of the sample's Gram matrix at a time


class SampledHessian:
    """Inverse of the sampled Hessian of each column, the same on every rank.

    Args:
        passes: all rows.
        size: rows in the sample over all ranks, m.
        seed: of the sample; the solution does not depend on it, only the number of passes does.
    """

    def __init__(self, passes: Passes, *, size: int, seed: int = 0) -> None:
        ranks, rows = passes.ranks, passes.rows
        total = sum(ranks.objects(rows.count))
        own = round(size * rows.count / total)
        generator = torch.Generator().manual_seed(seed + ranks.number)
        self.index = torch.randperm(rows.count, generator=generator)[:own].sort().values.to(rows.device)
        self.ranks = ranks
        sample = Rows(ranks.concatenate(rows.take(self.index)))
        self.passes = Passes(sample, constant=passes.constant)
        self.gram = self._gram()
        self.scale = total / sample.count
        self.tail = self._tail()
        self.signs = self.costs = torch.empty(0)
        self.active: list[Tensor] = []
        self.factors: list[Tensor] = []
        self.taus: list[Tensor] = []

    def _gram(self) -> Tensor:
        """The sample's Gram matrix (m, m), in the type of the arithmetic."""
        rows, constant = self.passes.rows, self.passes.constant
        parts = []
        for start in range(0, rows.count, _BLOCK_ROWS):
            block = rows.stored[start : start + _BLOCK_ROWS].to(rows.dtype)
            if constant is not None:
                block = torch.cat([block, block.new_full((len(block), 1), constant)], 1)
            parts.append(self.passes.scores(block))
        return torch.cat(parts, 1)

    def _tail(self) -> float:
        """The eigenvalue that the sample cannot resolve: the median of its Gram matrix.

        Below it a sample's eigenvectors are noise, so those directions get one common value instead: as large as
        what the sampled rows show there, 0 when the features have fewer dimensions than the sample has rows.
        """
        few = min(len(self.gram), _SPECTRUM_ROWS)
        spread = torch.linspace(0, len(self.gram) - 1, few, device=self.gram.device).long()
        return float(torch.linalg.eigvalsh(self.gram[spread][:, spread].double()).clamp(min=0).median())

    def start(self, columns: Columns, scores: Tensor) -> None:
        """Factors every column anew; `columns` and `scores` (N, columns) are of this rank's rows."""
        self.signs = self.ranks.concatenate(columns.signs[self.index])
        self.costs = self.ranks.concatenate(columns.costs[self.index])
        self.active = [torch.empty(0)] * scores.shape[1]
        self.factors, self.taus = list(self.active), list(self.active)
        self.follow(scores)

    def follow(self, scores: Tensor) -> None:
        """Factors again the columns whose active set has moved in the sample."""
        sampled = self.ranks.concatenate(scores[self.index])
        active = (1 - self.signs * sampled > 0) & (self.costs > 0)
        for column in range(active.shape[1]):
            mask, known = active[:, column], self.active[column]
            if len(known) and int((mask != known).sum()) <= _MOVED * int(known.sum()):
                continue
            self.active[column] = mask
            self._factor(column, 2 * self.scale * self.costs[mask, column])

    def _factor(self, column: int, weights: Tensor) -> None:
        index = self.active[column].nonzero()[:, 0]
        tau = (weights.mean() * self.tail).clamp(min=1) if len(index) else torch.ones((), device=weights.device)
        matrix = self.gram[index][:, index]
        matrix.diagonal().add_(tau / weights)
        self.factors[column], self.taus[column] = torch.linalg.cholesky(matrix), tau

    def keep(self, columns: Tensor) -> None:
        """Forgets all but these columns."""
        self.signs, self.costs = self.signs[:, columns], self.costs[:, columns]
        for name in ("active", "factors", "taus"):
            setattr(self, name, [getattr(self, name)[column] for column in columns.tolist()])

    def inverse(self, vectors: Tensor) -> Tensor:
        """P^-1 of each column applied to its vector, (columns, width)."""
        sampled = self.passes.scores(vectors)
        for column, (active, factor) in enumerate(zip(self.active, self.factors, strict=True)):
            solved = torch.cholesky_solve(sampled[active, column, None], factor)[:, 0]
            sampled[:, column] = 0
            sampled[active, column] = solved
        return (vectors - self.passes.weighted_rows(sampled)) / torch.stack(self.taus)[:, None]
