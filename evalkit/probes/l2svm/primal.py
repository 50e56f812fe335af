"""Many rows: block L-BFGS on all columns at once, so that every column shares each pass over the features.

One iteration is two passes: scores of the directions, then the gradients. Directions come from limited-memory BFGS
(Liu & Nocedal 1989) started from the sampled Hessian; steps are exact, scores follow by recurrence.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.probes.l2svm.linesearch import exact_steps
from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.preconditioner import SampledHessian
from evalkit.probes.l2svm.problem import Columns, dual_variables, losses

_HISTORY = 10  # pairs kept
_MAX_ITERATIONS = 500


@dataclass
class PrimalSolution:
    """Solutions of all columns.

    Attributes:
        weights: float32 (columns, width).
        objective: float64 (columns,).
        duality_gap: rigorous bound on (objective - optimum) / objective, (columns,).
        error_estimate: 0.5 g^T H^-1 g / objective with the solver's inverse Hessian, (columns,): close, but no bound.
        iterations: of each column, (columns,).
    """

    weights: Tensor
    objective: Tensor
    duality_gap: Tensor
    error_estimate: Tensor
    iterations: Tensor


class History:
    """Limited-memory BFGS pairs of every column."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remembers a step in the weights and the change in the gradient it made, (columns, width)."""
        product = (step * change).sum(1)
        usable = product > 1e-12 * (change * change).sum(1)
        inverse = torch.where(usable, 1 / torch.where(usable, product, 1), 0)
        self.pairs = [*self.pairs[1 - _HISTORY :], (step, change, inverse)]

    def keep(self, columns: Tensor) -> None:
        """Forgets all but these columns."""
        self.pairs = [(step[columns], change[columns], inverse[columns]) for step, change, inverse in self.pairs]

    def inverse(self, gradient: Tensor, first: Callable[[Tensor], Tensor]) -> Tensor:
        """The approximate inverse Hessian applied to the gradient, by the two-loop recursion."""
        vector = gradient.clone()
        alphas = []
        for step, change, inverse in reversed(self.pairs):
            alphas.append(inverse * (step * vector).sum(1))
            vector -= alphas[-1][:, None] * change
        vector = first(vector)
        for (step, change, inverse), alpha in zip(self.pairs, reversed(alphas), strict=True):
            vector += (alpha - inverse * (change * vector).sum(1))[:, None] * step
        return vector


@dataclass
class _State:
    columns: Columns
    number: Tensor  # of each column in the solution
    weights: Tensor
    scores: Tensor
    gradient: Tensor
    objective: Tensor

    def keep(self, columns: Tensor) -> "_State":
        return _State(
            self.columns.take(columns),
            self.number[columns],
            self.weights[columns],
            self.scores[:, columns],
            self.gradient[columns],
            self.objective[columns],
        )


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(1, dtype=torch.float64)


def _evaluate(passes: Passes, columns: Columns, weights: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (columns, width) and objective (columns,) at these weights and scores."""
    gradient = weights - passes.weighted_rows(columns.signs * dual_variables(columns, scores))
    return gradient, 0.5 * _dot(weights, weights) + losses(columns, scores)


def solve_primal(
    passes: Passes,
    columns: Columns,
    hessian: SampledHessian,
    *,
    start: Tensor,
    tol: float,
    max_iterations: int = _MAX_ITERATIONS,
    progress: Callable[[int, Tensor], None] | None = None,
) -> PrimalSolution:
    """Minimises every column from `start` until its error estimate is at most `tol`."""
    scores = passes.scores(start)
    gradient, objective = _evaluate(passes, columns, start, scores)
    state = _State(columns, torch.arange(len(start), device=start.device), start, scores, gradient, objective)
    hessian.start(columns, scores)
    history = History()
    blank = torch.full_like(objective, torch.inf)
    done = PrimalSolution(start.clone(), objective.clone(), blank, blank.clone(), blank.clone())
    for iteration in range(max_iterations + 1):
        direction = -history.inverse(state.gradient, hessian.inverse)
        estimate = -0.5 * _dot(state.gradient, direction) / state.objective
        _store(done, state, estimate, iteration)
        if progress is not None:
            progress(iteration, estimate)
        left = (estimate > tol).nonzero()[:, 0]
        if len(left) == 0 or iteration == max_iterations:
            break
        if len(left) < len(estimate):
            state, direction = state.keep(left), direction[left]
            history.keep(left)
            hessian.keep(left)
        _advance(passes, state, direction, history)
        hessian.follow(state.columns, state.scores)
    return done


def _advance(passes: Passes, state: _State, direction: Tensor, history: History) -> None:
    """One exact step along the directions."""
    change = passes.scores(direction)
    steps = exact_steps(
        state.columns,
        state.scores,
        change,
        slope=_dot(state.weights, direction),
        curvature=_dot(direction, direction),
    )
    move = steps.to(direction.dtype)[:, None] * direction
    state.weights = state.weights + move
    state.scores += steps.to(change.dtype) * change
    gradient, state.objective = _evaluate(passes, state.columns, state.weights, state.scores)
    history.add(move, gradient - state.gradient)
    state.gradient = gradient


def _store(done: PrimalSolution, state: _State, estimate: Tensor, iteration: int) -> None:
    done.weights[state.number] = state.weights
    done.objective[state.number] = state.objective
    done.duality_gap[state.number] = 0.5 * _dot(state.gradient, state.gradient) / state.objective
    done.error_estimate[state.number] = estimate
    done.iterations[state.number] = iteration
