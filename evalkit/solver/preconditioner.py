"""An approximate inverse Hessian from a sample of rows, for the block solver.

A column's Hessian is I + 2 X_A^T diag(cost) X_A over its active rows A.  Here it is
tau I + 2 (N / m) X_S^T diag(cost) X_S over the active rows S of one random sample of m rows, inverted by Woodbury's
identity with the sample's Gram matrix. The sample is the same for every column, C and pass; only a factor of the size
of S is a column's own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.solver.passes import FeatureMatrix
from evalkit.solver.problem import BinaryProblems, dual_variables
from evalkit.solver.rows import Rows

_MOVED = 0.15  # share of the sampled active rows in which a factor may differ from the column it serves
_SAME = 1e-3  # relative difference of two ridges that count as one
_SPECTRUM_ROWS = 1500  # rows whose spectrum is taken: its median settles with far fewer rows than the sample has
_BLOCK_ROWS = 1000  # of the sample's Gram matrix at a time


class SampledHessian:
    """Inverse of the sampled Hessian of each column, the same on every rank.

    Args:
        passes: all rows.
        size: rows in the sample over all ranks, m.
        seed: of the sample; the solution does not depend on it, only the number of passes does.
    """

    def __init__(self, passes: FeatureMatrix, *, size: int, seed: int = 0) -> None:
        ranks, rows = passes.ranks, passes.rows
        total = sum(ranks.objects(rows.count))
        own = round(size * rows.count / total)
        generator = torch.Generator().manual_seed(seed)
        self.index = torch.randperm(rows.count, generator=generator)[:own].sort().values.to(rows.device)
        self.ranks = ranks
        sample = Rows(ranks.concatenate(rows.take(self.index)))
        self.passes = FeatureMatrix(sample, constant=passes.constant)
        self.gram = self._gram()
        self.scale = total / sample.count
        self.tail = self._tail()
        self.signs = self.costs = torch.empty(0)
        self.factors: list[_Factor | None] = []

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

    def start(self, columns: BinaryProblems, scores: Tensor) -> None:
        """Factors every column anew; `columns` and `scores` (N, columns) are of this rank's rows."""
        self.signs = self.ranks.concatenate(columns.signs[self.index])
        self.costs = self.ranks.concatenate(columns.costs[self.index])
        self.factors = [None] * scores.shape[1]
        self.follow(scores)

    def join(self, columns: BinaryProblems) -> None:
        """Takes more columns, without factors until `follow`; `columns` are of this rank's rows."""
        self.signs = torch.cat([self.signs, self.ranks.concatenate(columns.signs[self.index])], 1)
        self.costs = torch.cat([self.costs, self.ranks.concatenate(columns.costs[self.index])], 1)
        self.factors = [*self.factors, *[None] * columns.signs.shape[1]]

    def follow(self, scores: Tensor) -> None:
        """Gives a new factor to the columns whose active set has moved in the sample."""
        sampled = self.ranks.concatenate(scores[self.index])
        active = (1 - self.signs * sampled > 0) & (self.costs > 0)
        made: list[_Factor] = []
        for column, known in enumerate(self.factors):
            mask = active[:, column]
            if known is None or not known.serves(mask):
                self.factors[column] = self._factor(mask, 2 * self.scale * self.costs[:, column], made)

    def _factor(self, mask: Tensor, weights: Tensor, made: "list[_Factor]") -> "_Factor":
        """A factor for these active rows: one just made for another column if it serves, else a new one.

        Columns of one class at neighbouring C have nearly the same active rows, and the same ridge tau / weights.
        """
        chosen = weights[mask]
        tau = (chosen.mean() * self.tail).clamp(min=1) if len(chosen) else weights.new_ones(())
        even = len(chosen) > 0 and bool((chosen == chosen[0]).all())
        ridge = float(tau / chosen[0]) if even else float("nan")
        for factor in made:
            if abs(factor.ridge - ridge) <= _SAME * ridge and factor.serves(mask):
                return _Factor(factor.mask, tau, factor.lower, ridge)
        index = mask.nonzero()[:, 0]
        matrix = self.gram[index][:, index]
        matrix.diagonal().add_(tau / chosen)
        made.append(_Factor(mask, tau, torch.linalg.cholesky(matrix), ridge))
        return made[-1]

    def gap(self, columns: BinaryProblems, scores: Tensor, gradient: Tensor) -> Tensor:
        """Objective minus the dual objective at a point near the optimum, per column: a rigorous bound on the error.

        With alpha = 2 cost xi and any change delta of it, zero on rows without loss, the gap is
        0.5 ||gradient - X^T (sign delta)||^2 + sum delta^2 / (4 cost), where alpha + delta must not be negative.
        delta = 0 gives 0.5 ||gradient||^2. Here delta is the best one on the sampled rows: it takes out what the
        gradient has along large eigenvalues, which the plain bound overrates.
        """
        signs, costs = (self.ranks.concatenate(each[self.index]) for each in (columns.signs, columns.costs))
        alpha = self.ranks.concatenate(dual_variables(columns, scores)[self.index])
        sampled = self.passes.scores(gradient)
        delta = torch.zeros_like(sampled)
        for column in range(len(gradient)):
            index = alpha[:, column].nonzero()[:, 0]
            matrix = self.gram[index][:, index]
            matrix.diagonal().add_(0.5 / costs[index, column])
            solved = torch.cholesky_solve(sampled[index, column, None], torch.linalg.cholesky(matrix))
            delta[index, column] = solved[:, 0]
        delta = signs * torch.maximum(signs * delta, -alpha)
        apart = gradient - self.passes.weighted_rows(delta)
        spent = torch.where(delta != 0, delta * delta / (4 * costs), 0).sum(0, dtype=torch.float64)
        plain, shifted = (0.5 * each.square().sum(1, dtype=torch.float64) for each in (gradient, apart))
        return torch.minimum(plain, shifted + spent)

    def keep(self, columns: Tensor) -> None:
        """Forgets all but these columns."""
        self.signs, self.costs = self.signs[:, columns], self.costs[:, columns]
        self.factors = [self.factors[column] for column in columns.tolist()]

    def inverse(self, vectors: Tensor) -> Tensor:
        """P^-1 of each column applied to its vector, (columns, width)."""
        sampled = self.passes.scores(vectors)
        solved = torch.zeros_like(sampled)
        factors = [factor for factor in self.factors if factor is not None]
        groups: dict[int, list[int]] = {}
        for column, factor in enumerate(factors):
            groups.setdefault(id(factor.lower), []).append(column)
        for members in groups.values():
            factor = factors[members[0]]
            where = factor.mask.nonzero(), torch.tensor(members, device=solved.device)
            solved[where] = torch.cholesky_solve(sampled[where], factor.lower)
        taus = torch.stack([factor.tau for factor in factors])
        return (vectors - self.passes.weighted_rows(solved)) / taus[:, None]


@dataclass(frozen=True)
class _Factor:
    """Cholesky factor of G_SS + diag(tau / weights) for the sampled rows S of a mask."""

    mask: Tensor
    tau: Tensor
    lower: Tensor
    ridge: float  # tau / weights where all weights are equal, else NaN

    def serves(self, mask: Tensor) -> bool:
        """Whether the factor's active rows are close enough to these."""
        return int((mask != self.mask).sum()) <= _MOVED * int(self.mask.sum())
