"""Few rows: the exact solution from the Gram matrix, by active-set Newton steps in float64. Used by path and draws.

With w = X^T beta a point is optimal where beta_i = 0 on the rows I with sign_i f_i >= 1, and on the other rows A
(K_AA + R_A) beta_A = sign_A, with the diagonal R_i = 1 / 2 cost_i. Solving that for the current A and taking the new A
from the scores f = K beta is Newton's method; when A repeats, the answer is exact.

When all columns share their costs, N = (K + R)^-1 is computed once for all classes and steps. With u = N sign the
solution is beta = u - N_I delta, where N_II delta = u_I: one small factor of the inactive rows instead of one of the
active rows. The scores then follow from (K + R) beta = sign - delta on I, without a product.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.probes.l2svm.linesearch import exact_steps
from evalkit.probes.l2svm.problem import Columns, losses
from evalkit.probes.l2svm.products import matrix_path

# a float32 partial product; the parts are added in float64: with 4096 fits at C = 0.02 missed 1e-6
_GRAM_FEATURES = 256
_GRAM_ROWS = 250  # rows of a block: half the work of the square, with products still large
_DOUBLE_OPERATIONS = 2e10  # Gram matrices up to here are computed in float64: under a second
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


def gram_matrix(features: Tensor, *, constant: float | None) -> Tensor:
    """X X^T of float32 or float64 rows (N, D) with their constant feature, float64 (N, N).

    The diagonal is summed in float64: float32 rounds its large one-signed sums always the same way, which alone would
    move the objective by 1e-5; errors elsewhere have either sign and move it by 1e-7.
    """
    product = matrix_path(features.device)
    count = len(features)
    if count * count * features.shape[1] <= _DOUBLE_OPERATIONS:
        features = features.double()
    gram = features.new_zeros((count, count), dtype=torch.float64)
    diagonal = features.new_zeros(count, dtype=torch.float64)
    for start in range(0, features.shape[1], _GRAM_FEATURES):
        part = features[:, start : start + _GRAM_FEATURES].contiguous()
        for first in range(0, count, _GRAM_ROWS):  # the lower triangle, block row by block row
            last = min(first + _GRAM_ROWS, count)
            gram[first:last, :last] += product(part[first:last], part[:last])
        diagonal += torch.linalg.vecdot(part, part) if part.dtype == torch.float64 else part.double().square_().sum(1)
    gram = gram.tril()
    gram += gram.tril(-1).T
    gram.diagonal().copy_(diagonal)
    return gram.add_((constant or 0.0) ** 2)


def solve_kernel(gram: Tensor, columns: Columns, *, start: KernelSolution | None = None, tol: float) -> KernelSolution:
    """The optimum of every column, to a duality gap far below `tol`.

    Args:
        gram: float64 (N, N).
        columns: float64 problems of one C (or of several, then without a shared inverse).
        start: a solution for the same rows and columns at another C.
        tol: of the objective, relative.
    """
    inverse = shared_inverse(gram, columns)
    if start is not None:
        beta, scores = start.beta.clone(), start.scores.clone()
    else:
        beta, scores = torch.zeros_like(columns.signs), torch.zeros_like(columns.signs)
    steps = torch.zeros(beta.shape[1], dtype=torch.int64)
    for number in range(beta.shape[1]):
        where = slice(number, number + 1)
        solver = _Newton(gram, Columns(columns.signs[:, where], columns.costs[:, where]), inverse)
        beta[:, where], scores[:, where], steps[number] = solver.run(beta[:, where], scores[:, where], tol)
    return KernelSolution(beta, scores, steps)


def shared_inverse(gram: Tensor, columns: Columns) -> Tensor | None:
    """(K + R)^-1 when every column has the same positive costs, else None."""
    cost = columns.costs[:, 0]
    if columns.costs.shape[1] == 1 or not (columns.costs == cost[:, None]).all() or not (cost > 0).all():
        return None
    matrix = gram.clone()
    matrix.diagonal().add_(0.5 / cost)
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))


class _Newton:
    """Newton's method on one column; tensors are (N,)."""

    def __init__(self, gram: Tensor, column: Columns, inverse: Tensor | None) -> None:
        self.gram = gram
        self.column = column
        self.signs, self.costs = column.signs[:, 0], column.costs[:, 0]
        self.inverse = inverse
        self.first = None if inverse is None else inverse @ self.signs

    def run(self, beta: Tensor, scores: Tensor, tol: float) -> tuple[Tensor, Tensor, int]:
        """From (N, 1) tensors to the optimum: (beta, scores, steps)."""
        for step in range(_MAX_STEPS):
            objective = 0.5 * (beta * scores).sum(0) + losses(self.column, scores)
            if kernel_gap(self.column, beta, scores, self.gram) <= _BELOW_TOL * tol * objective:
                return beta, scores, step
            solved, solved_scores = self._solve((1 - self.signs * scores[:, 0] > 0) & (self.costs > 0))
            direction, change = solved[:, None] - beta, solved_scores[:, None] - scores
            slope, curvature = (beta * change).sum(0), (direction * change).sum(0)
            size = exact_steps(self.column, scores, change, slope=slope, curvature=curvature)
            beta, scores = beta + size * direction, scores + size * change
        return beta, scores, _MAX_STEPS

    def _solve(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """beta and scores that are optimal if exactly the active rows have a loss."""
        few = int(active.sum()) < len(active) / 2
        if self.inverse is None or self.first is None or few:
            return self._solve_on_active(active.nonzero()[:, 0])
        index = (~active).nonzero()[:, 0]
        across = self.inverse[index]
        factor = torch.linalg.cholesky(across[:, index])
        delta = torch.cholesky_solve(self.first[index, None], factor)[:, 0]
        beta = self.first - across.T @ delta
        beta[index] = 0
        scores = self.signs - beta / (2 * self.costs)
        scores[index] -= delta
        return beta, scores

    def _solve_on_active(self, index: Tensor) -> tuple[Tensor, Tensor]:
        across = self.gram[index]
        matrix = across[:, index]
        matrix.diagonal().add_(0.5 / self.costs[index])
        solved = torch.cholesky_solve(self.signs[index, None], torch.linalg.cholesky(matrix))[:, 0]
        beta = torch.zeros_like(self.signs)
        beta[index] = solved
        return beta, across.T @ solved


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
