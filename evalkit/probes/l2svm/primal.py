"""Many rows: block L-BFGS on all columns at once, so that every column shares each pass over the features.

One iteration is two passes: scores of the directions, then the gradients. Directions come from limited-memory BFGS
(Liu & Nocedal 1989) started from the sampled Hessian; steps are exact, scores follow by recurrence.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evalkit.probes.l2svm.linesearch import exact_steps
from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.preconditioner import SampledHessian
from evalkit.probes.l2svm.problem import Columns, Solution, dual_variables, losses

_HISTORY = 10  # pairs kept
_MAX_ITERATIONS = 500
_TREND_STEPS = 4  # enough to average the unevenness of single steps


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
    trend: list[Tensor] = field(default_factory=list)  # objectives of all steps so far

    def keep(self, columns: Tensor) -> "_State":
        return _State(
            self.columns.take(columns),
            self.number[columns],
            self.weights[columns],
            self.scores[:, columns],
            self.gradient[columns],
            self.objective[columns],
            [objective[columns] for objective in self.trend],
        )


def remaining(trend: list[Tensor], dtype: torch.dtype) -> Tensor:
    """What the objective has still to fall, by the geometric series that its last eight steps suggest, (columns,).

    The decrement g^T H^-1 g / 2 alone sees about the next step only: with slow convergence it was 20 times too small.
    Steps smaller than the rounding of scores in `dtype` say nothing and count as none.
    """
    if len(trend) <= 2 * _TREND_STEPS:
        return torch.zeros_like(trend[-1])
    recent = (trend[-1 - _TREND_STEPS] - trend[-1]).clamp(min=0)
    before = (trend[-1 - 2 * _TREND_STEPS] - trend[-1 - _TREND_STEPS]).clamp(min=torch.finfo(recent.dtype).tiny)
    ratio = (recent / before).clamp(max=0.9)
    noise = torch.finfo(dtype).eps * trend[-1]
    return torch.where(recent > noise, recent * ratio / (1 - ratio), 0)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(1, dtype=torch.float64)


def _evaluate(passes: Passes, columns: Columns, weights: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (columns, width) and objective (columns,) at these weights and scores."""
    gradient = weights - passes.weighted_rows(columns.signs * dual_variables(columns, scores))
    return gradient, 0.5 * _dot(weights, weights) + passes.ranks.sum(losses(columns, scores))


def solve_primal(
    passes: Passes,
    columns: Columns,
    hessian: SampledHessian,
    *,
    start: Tensor,
    tol: float,
    gap: float | None = None,
    max_iterations: int = _MAX_ITERATIONS,
    progress: Callable[[str], None] | None = None,
) -> Solution:
    """Minimises every column from `start` (columns, width).

    A column is done when its error estimate is at most `tol` and, if `gap` is given, its rigorous duality gap at most
    `gap`, both relative to its objective; or after `max_iterations`, which the caller sees from those two.
    """
    state, done = _start(passes, columns, start)
    hessian.start(columns, state.scores)
    history = History()
    for iteration in range(max_iterations + 1):
        direction = -history.inverse(state.gradient, hessian.inverse)
        state.trend.append(state.objective)
        estimate = (
            torch.maximum(-0.5 * _dot(state.gradient, direction), remaining(state.trend, state.weights.dtype))
            / state.objective
        )
        rigorous = 0.5 * _dot(state.gradient, state.gradient) / state.objective
        _store(done, state, rigorous, estimate, iteration)
        left = ((estimate > tol) | (rigorous > (torch.inf if gap is None else gap))).nonzero()[:, 0]
        if progress is not None:
            progress(f"step {iteration}: {len(left)} of {len(start)} problems left, error {float(estimate.max()):.1e}")
        if len(left) == 0 or iteration == max_iterations:
            break
        if len(left) < len(estimate):
            state, direction = state.keep(left), direction[left]
            history.keep(left)
            hessian.keep(left)
        _advance(passes, state, direction, history)
        hessian.follow(state.scores)
    return done


def _start(passes: Passes, columns: Columns, weights: Tensor) -> tuple[_State, Solution]:
    scores = passes.scores(weights)
    gradient, objective = _evaluate(passes, columns, weights, scores)
    number = torch.arange(len(weights), device=weights.device)
    blank = torch.full_like(objective, torch.inf)
    done = Solution(weights.clone(), objective.clone(), blank, blank.clone(), torch.zeros_like(number))
    return _State(columns, number, weights, scores, gradient, objective), done


def _advance(passes: Passes, state: _State, direction: Tensor, history: History) -> None:
    """One exact step along the directions."""
    change = passes.scores(direction)
    steps = exact_steps(
        state.columns,
        state.scores,
        change,
        slope=_dot(state.weights, direction),
        curvature=_dot(direction, direction),
        ranks=passes.ranks,
    )
    move = steps.to(direction.dtype)[:, None] * direction
    state.weights = state.weights + move
    state.scores += steps.to(change.dtype) * change
    gradient, state.objective = _evaluate(passes, state.columns, state.weights, state.scores)
    history.add(move, gradient - state.gradient)
    state.gradient = gradient


def _store(done: Solution, state: _State, rigorous: Tensor, estimate: Tensor, iteration: int) -> None:
    done.weights[state.number] = state.weights
    done.objective[state.number] = state.objective
    done.duality_gap[state.number] = rigorous
    done.error_estimate[state.number] = estimate
    done.steps[state.number] = iteration
