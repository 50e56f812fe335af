"""Few rows: the exact solution from the Gram matrix, by active-set Newton steps in float64. Used by few.

With w = X^T beta a point is optimal where beta_i = 0 on the rows I with sign_i f_i >= 1, and on the other rows A
(K_AA + R_A) beta_A = sign_A, with the diagonal R_i = 1 / 2 cost_i. Solving that for the current A and taking the new A
from the scores f = K beta is Newton's method; when A repeats, the answer is exact. Factors are a column's own; all else
is done for all columns at once.

Cholesky factors of each column's active rows, kept as long as these stay the same. Used by kernel.

Few rows: every C of a path from one Gram matrix, with certificates from the weights themselves. Used by path.

The Gram matrix of a few rows: float32 products, summed so that float64 factors are worth having. Used by few.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.solver.passes import FeatureMatrix, matrix_path
from evalkit.solver.problem import BinaryProblems, Solution, exact_steps, losses
from evalkit.solver.rows import Rows

_BELOW_TOL = 1e-3  # Newton's last step takes the gap from 1e-3 to 1e-15, so asking for more than tol costs nothing
_MAX_STEPS = 100  # 4 to 9 steps on every kind of features seen


@dataclass(frozen=True)
class KernelSolution:
    """Solutions of some columns in the rows' coordinates.

    Attributes:
        beta: float64 (N, columns); weights are X^T beta.
        scores: float64 (N, columns), K beta.
        steps: int64 (columns,), Newton steps.
    """

    beta: Tensor
    scores: Tensor
    steps: Tensor


def solve_kernel(
    gram: Tensor, columns: BinaryProblems, *, start: KernelSolution | None = None, tol: float, exact: bool = True
) -> KernelSolution:
    """The optimum of every column, to a duality gap far below `tol`.

    Args:
        gram: float64 (N, N).
        columns: float64 problems.
        start: a solution for the same rows and columns at another C.
        tol: of the objective, relative.
        exact: factors in float64, which give the last bits; else in float32 where that serves, at half the time.
    """
    beta = torch.zeros_like(columns.signs) if start is None else start.beta.clone()
    scores = torch.zeros_like(columns.signs) if start is None else start.scores.clone()
    steps = torch.zeros(beta.shape[1], dtype=torch.int64)
    left = torch.arange(beta.shape[1], device=beta.device)
    factors = Factors(gram, columns, exact=exact)
    for step in range(_MAX_STEPS):
        some, at, seen = columns.select(left), beta[:, left], scores[:, left]
        objective = 0.5 * (at * seen).sum(0) + losses(some, seen)
        far = kernel_gap(some, at, seen, gram) > _BELOW_TOL * tol * objective
        if not bool(far.any()):
            break
        left = left[far]
        direction = _direction(columns.select(left), at[:, far], seen[:, far], gram, factors, left)
        beta[:, left], scores[:, left] = _stepped(columns.select(left), at[:, far], seen[:, far], gram, direction)
        steps[left.cpu()] = step + 1
    return KernelSolution(beta, scores, steps)


def _stepped(
    columns: BinaryProblems, beta: Tensor, scores: Tensor, gram: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """beta and scores after an exact line search."""
    change = gram @ direction
    slope, curvature = (beta * change).sum(0), (direction * change).sum(0)
    size = exact_steps(columns, scores, change, slope=slope, curvature=curvature)
    return beta + size * direction, scores + size * change


def kernel_gap(columns: BinaryProblems, beta: Tensor, scores: Tensor, gram: Tensor) -> Tensor:
    """Objective at w = X^T beta minus the dual objective at alpha = max(0, sign x beta): never negative, (columns,).

    It is  0.5 ||w - X^T(sign alpha)||^2 + sum cost (xi - alpha / 2 cost)^2 + sum alpha max(0, sign f - 1):
    sums of squares and of products of non-negative numbers, so no large numbers cancel.
    """
    alpha = torch.where(columns.costs > 0, (columns.signs * beta).clamp(min=0), 0)
    apart = beta - columns.signs * alpha
    margin = 1 - columns.signs * scores
    wanted = alpha / (2 * columns.costs).clamp(min=torch.finfo(alpha.dtype).tiny)
    unequal = columns.costs * (margin.clamp(min=0) - wanted) ** 2
    distance = 0.5 * (apart * (gram @ apart)).sum(0) if bool(apart.any()) else 0.0
    return distance + unequal.sum(0) + (alpha * (-margin).clamp(min=0)).sum(0)


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

    def __init__(self, gram: Tensor, columns: BinaryProblems, *, exact: bool) -> None:
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


def _direction(
    columns: BinaryProblems, beta: Tensor, scores: Tensor, gram: Tensor, factors: Factors, number: Tensor
) -> Tensor:
    """From beta to the optimum that there were if exactly the rows active now had a loss.

    What a factor's rounding leaves is in the next step's residual: once A repeats, steps refine and cost no factor.
    """
    active = (1 - columns.signs * scores > 0) & (columns.costs > 0)
    direction = torch.where(active, 0, -beta)
    ridge = torch.where(active, beta / (2 * columns.costs), 0)
    residual = columns.signs - scores - gram @ direction - ridge
    for place, column in enumerate(number.tolist()):
        index = active[:, place].nonzero()[:, 0]
        direction[index, place] = factors.solve(column, index, residual[index, place])
    return direction


def solve_few(passes: FeatureMatrix, problems: Sequence[BinaryProblems], tol: float) -> Solution:
    """All C from one Gram matrix, each starting from the solution at the C before; the same on every rank."""
    ranks, rows = passes.ranks, passes.rows
    everything = torch.arange(rows.count, device=rows.device)
    stored = ranks.concatenate(rows.take(everything)).to(rows.dtype)
    gathered = FeatureMatrix(Rows(stored), constant=passes.constant)
    gram = gram_matrix(stored, constant=passes.constant)
    whole = [BinaryProblems(ranks.concatenate(each.signs), ranks.concatenate(each.costs)) for each in problems]
    solutions: list[KernelSolution] = []
    for columns in whole:
        start = solutions[-1] if solutions else None
        solutions.append(solve_kernel(gram, columns, start=start, tol=tol, exact=rows.dtype == torch.float64))
    columns = BinaryProblems(torch.cat([each.signs for each in whole], 1), torch.cat([each.costs for each in whole], 1))
    beta = torch.cat([each.beta for each in solutions], 1)
    weights = gathered.weighted_rows(beta.to(rows.dtype))
    solution = _proven(gathered, gram, columns, weights, beta, torch.cat([each.steps for each in solutions]))
    passes.count += gathered.count
    return solution


def _proven(
    gathered: FeatureMatrix, gram: Tensor, columns: BinaryProblems, weights: Tensor, beta: Tensor, steps: Tensor
) -> Solution:
    """Objective and gap of the weights themselves, from their own scores, free of the Gram matrix's rounding."""
    scores = gathered.scores(weights).double()
    objective = 0.5 * weights.double().square().sum(1) + losses(columns, scores)
    gap = kernel_gap(columns, beta, scores, gram) / objective
    return Solution(weights, objective, gap, gap, steps)


_FEATURES = 1024  # of a float32 partial product; the parts are added in float64
_ROWS = 125  # of a block: 9/16 of the work of the square, with products still large
_DOUBLE_OPERATIONS = 2e10  # Gram matrices up to here are computed in float64: under a second


def gram_matrix(features: Tensor, *, constant: float | None) -> Tensor:
    """X X^T of float32 or float64 rows (N, D) with their constant feature, float64 (N, N).

    Products are of rows less their mean m, whose part is added in float64:
    x_i.x_j = (x_i - m).(x_j - m) + x_i.m + m.x_j - m.m. Features of one sign have large sums, which float32 rounds by
    more than the rest is worth; the diagonal, where every term has one sign, is summed in float64 altogether.
    """
    product = matrix_path(features.device)
    count = len(features)
    if count * count * features.shape[1] <= _DOUBLE_OPERATIONS:
        features = features.double()
    mean = features.mean(0)
    gram = features.new_zeros((count, count), dtype=torch.float64)
    squares, centred = features.new_zeros((2, count), dtype=torch.float64)
    buffer = features.new_empty(count * _FEATURES)
    for start in range(0, features.shape[1], _FEATURES):
        whole, centre = features[:, start : start + _FEATURES], mean[start : start + _FEATURES]
        part = torch.sub(whole, centre, out=buffer[: count * len(centre)].view(count, len(centre)))
        for first in range(0, count, _ROWS):  # the lower triangle, block row by block row
            last = min(first + _ROWS, count)
            gram[first:last, :last] += product(part[first:last], part[:last])
        squares += torch.linalg.vector_norm(whole, dim=1, dtype=torch.float64).square_()
        centred += torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).square_()
    gram = gram.tril_(-1)
    gram += gram.T.clone()
    gram.diagonal().copy_(centred)
    square = mean.double() @ mean.double()
    along = (squares - centred - square) / 2  # (x_i - m).m, so that x_i.m + m.x_j - m.m is two of them and m.m
    return gram.add_(along[:, None]).add_(along + square + (constant or 0.0) ** 2)
