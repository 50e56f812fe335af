"""The dual solver, for few rows: every C of a path exactly, from one Gram matrix, by active-set Newton steps.

With w = X^T beta and scores f = K beta, a point is optimal where beta_i = 0 on the rows with sign_i f_i >= 1 and (K_AA
+ R_A) beta_A = sign_A on the other rows A, with the diagonal R_i = 1 / (2 cost_i). Solving this for the current A and
taking the next A from the new scores is Newton's method; once A repeats, the solution is exact. Each problem has its
own Cholesky factor; everything else is done for all problems at once. `fit` and `subsets` come here up to 4,000 rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.solver.passes import FeatureMatrix, fastest_matrix_product
from evalkit.solver.problem import BinaryProblems, Solution, exact_line_search, squared_hinge_loss
from evalkit.solver.rows import FeatureRows

_GAP_PER_TOL = 1e-3  # Newton's last step takes the gap from 1e-3 to 1e-15, so asking for more than tol costs nothing
_MAX_STEPS = 100  # 4 to 9 steps on all kinds of features tried
_MAX_ROUNDING = 0.1  # relative to the ridge, that float32 may add to a matrix: steps then reduce the error tenfold
_BLOCK_FEATURES = 1024  # features per float32 partial product; the partial products are added in float64
_BLOCK_ROWS = 125  # rows per block: 9/16 of the work of the full square, with products that are still large
_FLOAT64_OPERATIONS = 2e10  # Gram matrices up to this size are computed in float64: under a second


@dataclass(frozen=True)
class DualSolution:
    """Solutions of P problems in the coordinates of the rows.

    Attributes:
        beta: float64 (N, P); weights are X^T beta.
        scores: float64 (N, P), K beta.
        iterations: int64 (P,), Newton steps.
    """

    beta: Tensor
    scores: Tensor
    iterations: Tensor


def solve_dual(matrix: FeatureMatrix, path: Sequence[BinaryProblems], tol: float) -> Solution:
    """Solves the problems of each C in `path`, each starting from the previous solution; equal on every rank."""
    ranks, rows = matrix.ranks, matrix.rows
    stored = ranks.concatenate(rows.take(torch.arange(rows.num_rows, device=rows.device))).to(rows.dtype)
    gathered = FeatureMatrix(FeatureRows(stored), intercept_scaling=matrix.intercept_scaling)
    gram = gram_matrix(stored, intercept_scaling=matrix.intercept_scaling)
    path = [BinaryProblems(ranks.concatenate(each.signs), ranks.concatenate(each.costs)) for each in path]
    solutions: list[DualSolution] = []
    for problems in path:
        start = solutions[-1] if solutions else None
        exact = rows.dtype == torch.float64
        solutions.append(solve_gram(gram, problems, start=start, tol=tol, float64_factors=exact))
    problems = BinaryProblems(torch.cat([each.signs for each in path], 1), torch.cat([each.costs for each in path], 1))
    beta = torch.cat([each.beta for each in solutions], 1)
    weights = gathered.weighted_rows(beta.to(rows.dtype))
    iterations = torch.cat([each.iterations for each in solutions])
    solution = _certified_solution(gathered, gram, problems, weights=weights, beta=beta, iterations=iterations)
    matrix.num_passes += gathered.num_passes
    return solution


def solve_gram(
    gram: Tensor,
    problems: BinaryProblems,
    *,
    start: DualSolution | None = None,
    tol: float,
    float64_factors: bool = True,
) -> DualSolution:
    """The optimum of every problem, to a duality gap far below `tol`.

    Args:
        gram: K, float64 (N, N).
        problems: binary problems in float64.
        start: the solution of the same problems at another C.
        tol: relative to the objective.
        float64_factors: whether to factor in float64, which gives the last bits; else in float32 where its accuracy
            suffices, in half the time.
    """
    beta = torch.zeros_like(problems.signs) if start is None else start.beta.clone()
    scores = torch.zeros_like(problems.signs) if start is None else start.scores.clone()
    iterations = torch.zeros(beta.shape[1], dtype=torch.int64)
    index = torch.arange(beta.shape[1], device=beta.device)  # of the problems that have not converged
    factors = ActiveSetFactors(gram, problems, float64_factors=float64_factors)
    for step in range(_MAX_STEPS):
        remaining, b, f = problems.select(index), beta[:, index], scores[:, index]
        objective = 0.5 * (b * f).sum(0) + squared_hinge_loss(remaining, f)
        unconverged = gram_duality_gap(remaining, b, f, gram) > _GAP_PER_TOL * tol * objective
        if not bool(unconverged.any()):
            break
        index = index[unconverged]
        remaining, b, f = problems.select(index), b[:, unconverged], f[:, unconverged]
        direction = _newton_direction(remaining, b, f, gram, factors, index)
        beta[:, index], scores[:, index] = _line_search(remaining, b, f, gram, direction)
        iterations[index.cpu()] = step + 1
    return DualSolution(beta, scores, iterations)


def _newton_direction(
    problems: BinaryProblems, beta: Tensor, scores: Tensor, gram: Tensor, factors: "ActiveSetFactors", index: Tensor
) -> Tensor:
    """From beta to the optimum if exactly the rows that are active now had a loss, (N, P).

    The error of a factor's rounding is in the residual of the next step: once A repeats, steps refine the solution and
    need no new factor.
    """
    active = (1 - problems.signs * scores > 0) & (problems.costs > 0)
    direction = torch.where(active, 0, -beta)
    ridge = torch.where(active, beta / (2 * problems.costs), 0)
    residual = problems.signs - scores - gram @ direction - ridge
    for column, problem in enumerate(index.tolist()):
        rows = active[:, column].nonzero()[:, 0]
        direction[rows, column] = factors.solve(problem, rows, residual[rows, column])
    return direction


def _line_search(
    problems: BinaryProblems, beta: Tensor, scores: Tensor, gram: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """beta and scores after an exact line search along the direction."""
    direction_scores = gram @ direction
    slope, curvature = (beta * direction_scores).sum(0), (direction * direction_scores).sum(0)
    step = exact_line_search(problems, scores, direction_scores, slope=slope, curvature=curvature)
    return beta + step * direction, scores + step * direction_scores


def gram_duality_gap(problems: BinaryProblems, beta: Tensor, scores: Tensor, gram: Tensor) -> Tensor:
    """Objective at w = X^T beta minus the dual objective at alpha = max(0, sign x beta): never negative, (P,).

    It is  0.5 ||w - X^T(sign alpha)||^2 + sum cost (xi - alpha / 2 cost)^2 + sum alpha max(0, sign f - 1):
    sums of squares and of products of non-negative numbers, so that no large numbers cancel.
    """
    alpha = torch.where(problems.costs > 0, (problems.signs * beta).clamp(min=0), 0)
    difference = beta - problems.signs * alpha
    margin = 1 - problems.signs * scores
    optimal_slack = alpha / (2 * problems.costs).clamp(min=torch.finfo(alpha.dtype).tiny)
    slack_term = problems.costs * (margin.clamp(min=0) - optimal_slack) ** 2
    distance = 0.5 * (difference * (gram @ difference)).sum(0) if bool(difference.any()) else 0.0
    return distance + slack_term.sum(0) + (alpha * (-margin).clamp(min=0)).sum(0)


def _certified_solution(
    gathered: FeatureMatrix,
    gram: Tensor,
    problems: BinaryProblems,
    *,
    weights: Tensor,
    beta: Tensor,
    iterations: Tensor,
) -> Solution:
    """Objective and gap of the weights themselves, from their own scores, free of the Gram matrix's rounding."""
    scores = gathered.scores(weights).double()
    objective = 0.5 * weights.double().square().sum(1) + squared_hinge_loss(problems, scores)
    gap = gram_duality_gap(problems, beta, scores, gram) / objective
    return Solution(weights, objective, gap, gap, iterations)


class ActiveSetFactors:
    """Inverses of K_AA + R_A with R = 1 / (2 cost), for the active rows A of each problem.

    A problem's latest Cholesky factor is kept until its active rows change.

    Args:
        gram: K, float64 (N, N).
        problems: the binary problems.
        float64_factors: whether to factor in float64; else in float32 where its rounding is small beside R.
    """

    def __init__(self, gram: Tensor, problems: BinaryProblems, *, float64_factors: bool) -> None:
        rounding = float(torch.finfo(torch.float32).eps * gram.trace() * problems.costs.max() * 2)
        self.gram = gram if float64_factors or rounding > _MAX_ROUNDING else gram.float()
        self.costs = problems.costs
        self.latest: dict[int, _Factor] = {}
        self.newest: _Factor | None = None

    def solve(self, problem: int, rows: Tensor, vector: Tensor) -> Tensor:
        """Applies the inverse for the active `rows` of a problem to a vector with one entry per active row."""
        costs = self.costs[rows, problem]
        known = (self.latest.get(problem), self.newest)  # from zero all rows are active: one factor for all problems
        factor = next((each for each in known if each is not None and each.matches(rows, costs)), None)
        if factor is None:
            self.newest = factor = self._factor(rows, costs)
        self.latest[problem] = factor
        dtype = factor.cholesky.dtype
        return torch.cholesky_solve(vector[:, None].to(dtype), factor.cholesky)[:, 0].to(vector.dtype)

    def _factor(self, rows: Tensor, costs: Tensor) -> "_Factor":
        matrix = self.gram.index_select(0, rows).index_select(1, rows)
        matrix.diagonal().add_(0.5 / costs)
        return _Factor(rows, costs, torch.linalg.cholesky(matrix))


@dataclass(frozen=True)
class _Factor:
    """Cholesky factor of K_AA + R_A for the active rows A and their costs."""

    rows: Tensor
    costs: Tensor
    cholesky: Tensor

    def matches(self, rows: Tensor, costs: Tensor) -> bool:
        """Whether the factor is of exactly these rows at these costs."""
        return torch.equal(rows, self.rows) and torch.equal(costs, self.costs)


def gram_matrix(features: Tensor, *, intercept_scaling: float | None) -> Tensor:
    """X X^T of float32 or float64 rows (N, D) with their constant feature, float64 (N, N).

    Products are of rows minus their mean m, whose part is added in float64:
    x_i.x_j = (x_i - m).(x_j - m) + x_i.m + m.x_j - m.m. Features of one sign have large sums, which float32 would round
    by more than the rest is worth; the diagonal, where every term has the same sign, is summed in float64 throughout.
    """
    product = fastest_matrix_product(features.device)
    count = len(features)
    if count * count * features.shape[1] <= _FLOAT64_OPERATIONS:
        features = features.double()
    mean = features.mean(0)
    gram = features.new_zeros((count, count), dtype=torch.float64)
    squares, centered_squares = features.new_zeros((2, count), dtype=torch.float64)
    buffer = features.new_empty(count * _BLOCK_FEATURES)
    for start in range(0, features.shape[1], _BLOCK_FEATURES):
        block, center = features[:, start : start + _BLOCK_FEATURES], mean[start : start + _BLOCK_FEATURES]
        centered = torch.sub(block, center, out=buffer[: count * len(center)].view(count, len(center)))
        for first in range(0, count, _BLOCK_ROWS):  # the lower triangle, block row by block row
            last = min(first + _BLOCK_ROWS, count)
            gram[first:last, :last] += product(centered[first:last], centered[:last])
        squares += torch.linalg.vector_norm(block, dim=1, dtype=torch.float64).square_()
        centered_squares += torch.linalg.vector_norm(centered, dim=1, dtype=torch.float64).square_()
    gram = gram.tril_(-1)
    gram += gram.T.clone()
    gram.diagonal().copy_(centered_squares)
    mean_square = mean.double() @ mean.double()
    along_mean = (squares - centered_squares - mean_square) / 2  # (x_i - m).m: x_i.m + m.x_j - m.m is two of them + m.m
    return gram.add_(along_mean[:, None]).add_(along_mean + mean_square + (intercept_scaling or 0.0) ** 2)
