"""An approximate inverse Hessian from a sample of rows, which preconditions the L-BFGS iterations of `primal`.

The Hessian of a problem is I + 2 X_A^T diag(cost) X_A over its active rows A. It is approximated by tau I + 2 (N / m)
X_S^T diag(cost) X_S over the active rows S of one random sample of m rows, and inverted through the sample's Gram
matrix by Woodbury's identity. The sample is the same for every problem, C and pass; only a Cholesky factor of the size
of S belongs to a single problem.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.solver.passes import FeatureMatrix
from evalkit.solver.problem import BinaryProblems, dual_variables
from evalkit.solver.rows import FeatureRows

_MAX_CHANGED_SHARE = 0.15  # of the sampled active rows: how far a factor may be from the problem that uses it
_RIDGE_TOLERANCE = 1e-3  # relative difference of two ridges that count as equal
_SPECTRUM_ROWS = 1500  # rows whose spectrum is computed: its median needs far fewer rows than the sample has
_BLOCK_ROWS = 1000  # rows of the sample's Gram matrix computed at a time


class SampledHessian:
    """Inverse of the sampled Hessian of each problem, the same on every rank.

    Args:
        matrix: all rows.
        sample_rows: rows in the sample over all ranks, m.
        seed: seed of the sample, which affects the number of passes, but not the solution.
    """

    def __init__(self, matrix: FeatureMatrix, *, sample_rows: int, seed: int = 0) -> None:
        ranks, rows = matrix.ranks, matrix.rows
        total = sum(ranks.objects(rows.num_rows))
        share = round(sample_rows * rows.num_rows / total)
        generator = torch.Generator().manual_seed(seed)
        self.sample_index = torch.randperm(rows.num_rows, generator=generator)[:share].sort().values.to(rows.device)
        self.ranks = ranks
        sample = FeatureRows(ranks.concatenate(rows.take(self.sample_index)))
        self.sample = FeatureMatrix(sample, intercept_scaling=matrix.intercept_scaling)
        self.gram = self._sample_gram()
        self.scale = total / sample.num_rows
        self.tail_eigenvalue = self._median_eigenvalue()
        self.signs = self.costs = torch.empty(0)
        self.factors: list[_Factor | None] = []

    def _sample_gram(self) -> Tensor:
        """The sample's Gram matrix (m, m), in the type of the arithmetic."""
        rows, constant = self.sample.rows, self.sample.intercept_scaling
        parts = []
        for start in range(0, rows.num_rows, _BLOCK_ROWS):
            block = rows.stored[start : start + _BLOCK_ROWS].to(rows.dtype)
            if constant is not None:
                block = torch.cat([block, block.new_full((len(block), 1), constant)], 1)
            parts.append(self.sample.scores(block))
        return torch.cat(parts, 1)

    def _median_eigenvalue(self) -> float:
        """The eigenvalue below which the sample resolves nothing: the median of its Gram matrix.

        Eigenvectors of smaller eigenvalues are noise, so those directions share this value instead: as large as what
        the sampled rows show there, and 0 if there are fewer features than sampled rows.
        """
        count = min(len(self.gram), _SPECTRUM_ROWS)
        index = torch.linspace(0, len(self.gram) - 1, count, device=self.gram.device).long()
        return float(torch.linalg.eigvalsh(self.gram[index][:, index].double()).clamp(min=0).median())

    def initialize(self, problems: BinaryProblems, scores: Tensor) -> None:
        """Factors every problem from scratch; `problems` and `scores` (N, P) are those of this rank's rows."""
        self.signs = self.ranks.concatenate(problems.signs[self.sample_index])
        self.costs = self.ranks.concatenate(problems.costs[self.sample_index])
        self.factors = [None] * scores.shape[1]
        self.update(scores)

    def append(self, problems: BinaryProblems) -> None:
        """Adds problems, which have no factors until the next `update`; `problems` are those of this rank's rows."""
        self.signs = torch.cat([self.signs, self.ranks.concatenate(problems.signs[self.sample_index])], 1)
        self.costs = torch.cat([self.costs, self.ranks.concatenate(problems.costs[self.sample_index])], 1)
        self.factors = [*self.factors, *[None] * problems.signs.shape[1]]

    def select(self, index: Tensor) -> None:
        """Keeps only the problems with these indices."""
        self.signs, self.costs = self.signs[:, index], self.costs[:, index]
        self.factors = [self.factors[problem] for problem in index.tolist()]

    def update(self, scores: Tensor) -> None:
        """Gives a new factor to each problem whose active rows in the sample have changed too much."""
        sampled = self.ranks.concatenate(scores[self.sample_index])
        active = (1 - self.signs * sampled > 0) & (self.costs > 0)
        new_factors: list[_Factor] = []
        for problem, factor in enumerate(self.factors):
            mask = active[:, problem]
            if factor is None or not factor.is_close_to(mask):
                weights = 2 * self.scale * self.costs[:, problem]
                self.factors[problem] = self._find_or_make_factor(mask, weights, new_factors)

    def _find_or_make_factor(self, active: Tensor, weights: Tensor, new_factors: "list[_Factor]") -> "_Factor":
        """A factor for these active rows: one just made for another problem if it is close enough, else a new one.

        Problems of one class at neighboring C have nearly the same active rows, and the same ridge tau / weights.
        """
        active_weights = weights[active]
        tau = (
            (active_weights.mean() * self.tail_eigenvalue).clamp(min=1) if len(active_weights) else weights.new_ones(())
        )
        equal = len(active_weights) > 0 and bool((active_weights == active_weights[0]).all())
        ridge = float(tau / active_weights[0]) if equal else float("nan")
        for factor in new_factors:
            if abs(factor.ridge - ridge) <= _RIDGE_TOLERANCE * ridge and factor.is_close_to(active):
                return _Factor(factor.active, tau, factor.cholesky, ridge)
        index = active.nonzero()[:, 0]
        matrix = self.gram[index][:, index]
        matrix.diagonal().add_(tau / active_weights)
        new_factors.append(_Factor(active, tau, torch.linalg.cholesky(matrix), ridge))
        return new_factors[-1]

    def apply_inverse(self, vectors: Tensor) -> Tensor:
        """The inverse sampled Hessian of each problem applied to its vector, (P, D or D + 1)."""
        sampled = self.sample.scores(vectors)
        solved = torch.zeros_like(sampled)
        factors = [factor for factor in self.factors if factor is not None]
        sharing: dict[int, list[int]] = {}  # problems by their Cholesky factor, which several may share
        for problem, factor in enumerate(factors):
            sharing.setdefault(id(factor.cholesky), []).append(problem)
        for problems in sharing.values():
            factor = factors[problems[0]]
            where = factor.active.nonzero(), torch.tensor(problems, device=solved.device)
            solved[where] = torch.cholesky_solve(sampled[where], factor.cholesky)
        taus = torch.stack([factor.tau for factor in factors])
        return (vectors - self.sample.weighted_rows(solved)) / taus[:, None]

    def duality_gap(self, problems: BinaryProblems, scores: Tensor, gradient: Tensor) -> Tensor:
        """Objective minus the dual objective at a point near the optimum: a rigorous bound on the error, (P,).

        With alpha = 2 cost xi and any change delta of it, zero on rows without loss, the gap is
        0.5 ||gradient - X^T (sign delta)||^2 + sum delta^2 / (4 cost), where alpha + delta must not be negative.
        delta = 0 gives 0.5 ||gradient||^2. Here delta is the best one on the sampled rows: it removes the part of the
        gradient along large eigenvalues, which the plain bound overestimates.
        """
        signs, costs = (self.ranks.concatenate(each[self.sample_index]) for each in (problems.signs, problems.costs))
        alpha = self.ranks.concatenate(dual_variables(problems, scores)[self.sample_index])
        sampled = self.sample.scores(gradient)
        delta = torch.zeros_like(sampled)
        for problem in range(len(gradient)):
            index = alpha[:, problem].nonzero()[:, 0]
            matrix = self.gram[index][:, index]
            matrix.diagonal().add_(0.5 / costs[index, problem])
            solved = torch.cholesky_solve(sampled[index, problem, None], torch.linalg.cholesky(matrix))
            delta[index, problem] = solved[:, 0]
        delta = signs * torch.maximum(signs * delta, -alpha)
        remainder = gradient - self.sample.weighted_rows(delta)
        cost_term = torch.where(delta != 0, delta * delta / (4 * costs), 0).sum(0, dtype=torch.float64)
        plain, corrected = (0.5 * each.square().sum(1, dtype=torch.float64) for each in (gradient, remainder))
        return torch.minimum(plain, corrected + cost_term)


@dataclass(frozen=True)
class _Factor:
    """Cholesky factor of K_SS + diag(tau / weights) for the active sampled rows S.

    Attributes:
        active: mask of S in the sample, bool (m,).
        tau: eigenvalue of the directions that the sample does not resolve.
        cholesky: lower factor.
        ridge: tau / weights if all weights are equal, else NaN.
    """

    active: Tensor
    tau: Tensor
    cholesky: Tensor
    ridge: float

    def is_close_to(self, active: Tensor) -> bool:
        """Whether few enough active rows differ for the factor to precondition a problem with these."""
        return int((active != self.active).sum()) <= _MAX_CHANGED_SHARE * int(self.active.sum())
