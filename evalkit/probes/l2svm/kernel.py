"""Few rows: the exact solution from the Gram matrix, by active-set Newton steps in float64.

With w = X^T beta the optimality conditions are beta_i = 0 where sign_i f_i >= 1, and on the other rows A (the active
set)  (K_AA + diag(1 / 2 cost_A)) beta_A = sign_A.  Solving them on the current A and taking the new A from the scores
f = K beta is Newton's method; it ends in a few steps, and when A repeats the answer is exact.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.probes.l2svm.linesearch import exact_steps
from evalkit.probes.l2svm.problem import Columns, losses
from evalkit.probes.l2svm.products import matrix_path

_GRAM_FEATURES = 2048  # features a float32 partial product: partial sums are added in float64, so errors stay at 1e-7
_BELOW_TOL = 1e-3  # Newton's last step takes the gap from 1e-3 to 1e-15, so asking for more than tol costs nothing
_MAX_STEPS = 100  # Newton ends in 4 to 8 steps on every kind of features seen


@dataclass(frozen=True)
class KernelSolution:
    """Solutions of all columns in the rows' coordinates, float64.

    Attributes:
        beta: (N, columns); weights are X^T beta.
        scores: (N, columns), K beta.
        objective: (columns,)
        duality_gap: (columns,), a bound on (objective - optimum) / objective for this Gram matrix.
        steps: Newton steps of each column (columns,).
    """

    beta: Tensor
    scores: Tensor
    objective: Tensor
    duality_gap: Tensor
    steps: Tensor


def gram_matrix(features: Tensor, *, constant: float | None) -> Tensor:
    """X X^T of float32 or float64 rows (N, D) with their constant feature, float64 (N, N)."""
    product = matrix_path(features.device)
    gram = features.new_full((len(features),) * 2, (constant or 0.0) ** 2, dtype=torch.float64)
    for start in range(0, features.shape[1], _GRAM_FEATURES):
        part = features[:, start : start + _GRAM_FEATURES].contiguous()
        gram += product(part, part)
    return gram


def solve_kernel(gram: Tensor, columns: Columns, *, start: Tensor | None = None, tol: float) -> KernelSolution:
    """The optimum of every column; `columns` in float64, `start` an earlier beta (N, columns) of the same rows."""
    beta = torch.zeros_like(columns.signs) if start is None else start.clone()
    scores = gram @ beta
    steps = torch.zeros(beta.shape[1], dtype=torch.int64)
    for column in range(beta.shape[1]):
        problem = columns.take(torch.tensor([column], device=gram.device))
        solved = _newton(gram, problem, beta[:, column : column + 1], scores[:, column : column + 1], tol)
        beta[:, column : column + 1], scores[:, column : column + 1], steps[column] = solved
    objective = 0.5 * (beta * scores).sum(0) + losses(columns, scores)
    gap = kernel_gap(gram, columns, beta, scores) / objective
    return KernelSolution(beta, scores, objective, gap, steps)


def _newton(gram: Tensor, problem: Columns, beta: Tensor, scores: Tensor, tol: float) -> tuple[Tensor, Tensor, int]:
    """One column to its optimum: (beta, scores, steps), each tensor (N, 1)."""
    for step in range(_MAX_STEPS):
        objective = 0.5 * (beta * scores).sum(0) + losses(problem, scores)
        if kernel_gap(gram, problem, beta, scores) <= _BELOW_TOL * tol * objective:
            return beta, scores, step
        active = (1 - problem.signs * scores > 0)[:, 0] & (problem.costs[:, 0] > 0)
        direction = _solve_active(gram, problem, active) - beta
        change = gram @ direction
        size = exact_steps(problem, scores, change, slope=(beta * change).sum(0), curvature=(direction * change).sum(0))
        beta, scores = beta + size * direction, scores + size * change
    return beta, scores, _MAX_STEPS


def _solve_active(gram: Tensor, problem: Columns, active: Tensor) -> Tensor:
    """beta (N, 1) that is optimal if exactly the active rows have a loss."""
    index = active.nonzero()[:, 0]
    matrix = gram[index][:, index]
    matrix.diagonal().add_(0.5 / problem.costs[index, 0])
    beta = torch.zeros_like(problem.signs)
    beta[index] = torch.cholesky_solve(problem.signs[index], torch.linalg.cholesky(matrix))
    return beta


def kernel_gap(gram: Tensor, columns: Columns, beta: Tensor, scores: Tensor) -> Tensor:
    """Objective at w = X^T beta minus the dual objective at alpha = max(0, sign x beta): never negative, (columns,).

    It is  0.5 ||w - X^T(sign alpha)||^2 + sum cost (xi - alpha / 2 cost)^2 + sum alpha max(0, sign f - 1):
    each term is a sum of squares or of products of non-negative numbers, so it is small only if it is computed small.
    """
    alpha = torch.where(columns.costs > 0, (columns.signs * beta).clamp(min=0), 0)
    apart = beta - columns.signs * alpha
    margin = 1 - columns.signs * scores
    unequal = margin.clamp(min=0) - alpha / (2 * columns.costs).clamp(min=torch.finfo(alpha.dtype).tiny)
    weights = 0.5 * (apart * (gram @ apart)).sum(0)
    return weights + (columns.costs * unequal**2).sum(0) + (alpha * (-margin).clamp(min=0)).sum(0)
