"""Few rows: the exact solution from the Gram matrix, by active-set Newton steps in float64. Used by few.

With w = X^T beta a point is optimal where beta_i = 0 on the rows I with sign_i f_i >= 1, and on the other rows A
(K_AA + R_A) beta_A = sign_A, with the diagonal R_i = 1 / 2 cost_i. Solving that for the current A and taking the new A
from the scores f = K beta is Newton's method; when A repeats, the answer is exact. Factors are a column's own; all else
is done for all columns at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.probes.l2svm.factors import Factors
from evalkit.probes.l2svm.linesearch import exact_steps
from evalkit.probes.l2svm.problem import Columns, losses

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
    gram: Tensor, columns: Columns, *, start: KernelSolution | None = None, tol: float, exact: bool = True
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
        some, at, seen = columns.take(left), beta[:, left], scores[:, left]
        objective = 0.5 * (at * seen).sum(0) + losses(some, seen)
        far = kernel_gap(some, at, seen, gram) > _BELOW_TOL * tol * objective
        if not bool(far.any()):
            break
        left = left[far]
        direction = _direction(columns.take(left), at[:, far], seen[:, far], gram, factors, left)
        beta[:, left], scores[:, left] = _stepped(columns.take(left), at[:, far], seen[:, far], gram, direction)
        steps[left.cpu()] = step + 1
    return KernelSolution(beta, scores, steps)


def _direction(
    columns: Columns, beta: Tensor, scores: Tensor, gram: Tensor, factors: Factors, number: Tensor
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


def _stepped(columns: Columns, beta: Tensor, scores: Tensor, gram: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """beta and scores after an exact line search."""
    change = gram @ direction
    slope, curvature = (beta * change).sum(0), (direction * change).sum(0)
    size = exact_steps(columns, scores, change, slope=slope, curvature=curvature)
    return beta + size * direction, scores + size * change


def kernel_gap(columns: Columns, beta: Tensor, scores: Tensor, gram: Tensor) -> Tensor:
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
