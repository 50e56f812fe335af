"""Many rows: all columns share each pass over the features. A descent, then a check from fresh scores. Used by path.

L-BFGS on groups of columns, which enter and leave one after another. Uses history, subspace and convergence.

One iteration is two passes: scores of the directions, then the gradients. Directions come from limited-memory BFGS
started from the sampled Hessian; the step is exact in the span of all that the columns of one class have found, and
scores follow by recurrence, from fresh ones now and then.

When a column is done: what its objective has still to fall, and its rigorous gap where that is asked for.

Used by descent.

Limited-memory BFGS (Liu & Nocedal 1989) of every column at once. Used by descent.

Where the descent of every column is: weights, scores, gradient and objective. Used by descent and primal.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evalkit.solver.passes import FeatureMatrix
from evalkit.solver.preconditioner import SampledHessian
from evalkit.solver.problem import BinaryProblems, Solution, dual_variables, losses
from evalkit.solver.subspace import minimise_in_spans

_ATTEMPTS = 4  # times that fresh scores may send columns back: once is rare
_NEAR = 2e-3  # relative error at which one C is a good start for the next
_REFRESH = 16  # iterations from which the rounding of the recurred scores would show beside a tol of 1e-6
_MAX_ITERATIONS = 500
_TREND_STEPS = 4  # enough to average the unevenness of single steps
_SAFETY = 4.0  # at large C the sample sees as little as 1/3.4 of the error, measured on 4,000 and 10,000 rows


@dataclass(frozen=True)
class Tolerance:
    """When a column is done: its error estimate is at most `tol` and, if `gap` is given, its duality gap at most that.

    Both relative to the objective. After `iterations` it is left as it is, which the caller sees from those two.
    """

    tol: float
    gap: float | None = None
    iterations: int = _MAX_ITERATIONS


def solve_primal(
    passes: FeatureMatrix,
    columns: BinaryProblems,
    hessian: SampledHessian,
    *,
    classes: Tensor,
    goal: Tolerance,
    progress: Callable[[str], None] | None = None,
) -> Solution:
    """Minimises every column, from zero weights; `classes` (columns,) tells which columns are of one class."""
    weights = columns.signs.new_zeros(len(classes), passes.width)
    objective = torch.full((len(classes),), torch.inf, dtype=torch.float64, device=weights.device)
    done = Solution(weights, objective, objective.clone(), objective.clone(), torch.zeros_like(classes))
    number = torch.arange(len(classes), device=classes.device)
    groups = list(number.split(int(classes.max()) + 1))
    for _ in range(_ATTEMPTS):
        Descent(passes, columns, hessian, done, classes=classes, goal=goal, progress=progress).run(groups)
        groups = [_verify(passes, columns, hessian, done, torch.cat(groups), goal)]
        if len(groups[0]) == 0:
            break
    return done


def _verify(
    passes: FeatureMatrix,
    columns: BinaryProblems,
    hessian: SampledHessian,
    done: Solution,
    number: Tensor,
    goal: Tolerance,
) -> Tensor:
    """Objective and rigorous gap of the weights themselves, from fresh scores; the numbers of columns that miss."""
    chosen, weights = columns.select(number), done.weights[number]
    scores = passes.scores(weights)
    gradient, objective = evaluate(passes, chosen, weights, scores)
    risen = (objective - done.objective[number]).clamp(min=0) / objective
    done.objective[number] = objective
    done.duality_gap[number] = hessian.gap(chosen, scores, gradient) / objective
    done.error_estimate[number] = torch.maximum(done.error_estimate[number], risen)
    error = torch.fmin(done.error_estimate, done.duality_gap)[number]
    missed = (error > goal.tol) | (done.duality_gap[number] > (torch.inf if goal.gap is None else goal.gap))
    return number[missed]


def remaining_decrease(trend: list[Tensor], dtype: torch.dtype) -> Tensor:
    """What the objective has still to fall, by the geometric series that its last eight steps suggest, (columns,).

    The decrement g^T H^-1 g / 2 alone sees about the next step only: with slow convergence it was 20 times too small.
    Steps smaller than the rounding of scores in `dtype` say nothing and count as none, as do fewer than eight.
    """
    if len(trend) <= 2 * _TREND_STEPS:
        return torch.zeros_like(trend[-1])
    recent = (trend[-1 - _TREND_STEPS] - trend[-1]).clamp(min=0)
    before = (trend[-1 - 2 * _TREND_STEPS] - trend[-1 - _TREND_STEPS]).clamp(min=torch.finfo(recent.dtype).tiny)
    ratio = (recent / before).clamp(max=0.9)
    noise = torch.finfo(dtype).eps * trend[-1]
    return torch.where(recent > noise, recent * ratio / (1 - ratio), 0).nan_to_num(0)


_HISTORY = 10  # pairs kept


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

    def join(self, columns: int) -> None:
        """Makes room for columns that have no pairs yet."""
        self.pairs = [
            (_longer(step, columns), _longer(change, columns), _longer(inverse, columns))
            for step, change, inverse in self.pairs
        ]

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


def _longer(tensor: Tensor, rows: int) -> Tensor:
    """The tensor with so many rows of zeros more."""
    return torch.cat([tensor, tensor.new_zeros(rows, *tensor.shape[1:])])


@dataclass
class State:
    columns: BinaryProblems
    number: Tensor  # of each column in the solution
    weights: Tensor
    scores: Tensor
    gradient: Tensor
    objective: Tensor
    wanted: Tensor  # error estimate at which to look at a column's gap
    entered: Tensor  # iteration
    trend: list[Tensor] = field(default_factory=list)  # objectives of all steps so far, NaN before a column entered

    def keep(self, columns: Tensor) -> "State":
        return State(
            self.columns.select(columns),
            self.number[columns],
            self.weights[columns],
            self.scores[:, columns],
            self.gradient[columns],
            self.objective[columns],
            self.wanted[columns],
            self.entered[columns],
            [objective[columns] for objective in self.trend],
        )

    def join(self, other: "State") -> "State":
        return State(
            BinaryProblems(
                *(torch.cat(pair, 1) for pair in zip(self.columns.tensors(), other.columns.tensors(), strict=True))
            ),
            torch.cat([self.number, other.number]),
            torch.cat([self.weights, other.weights]),
            torch.cat([self.scores, other.scores], 1),
            torch.cat([self.gradient, other.gradient]),
            torch.cat([self.objective, other.objective]),
            torch.cat([self.wanted, other.wanted]),
            torch.cat([self.entered, other.entered]),
            [torch.cat([objective, torch.full_like(other.objective, torch.nan)]) for objective in self.trend],
        )


class Descent:
    """L-BFGS on groups of columns from where `done` has them; leaves them there as they reach the goal.

    A group is all classes at one C. It enters when the one before it is near its optimum, and starts from there: at
    large C the way from zero is long. Later groups do not wait for it to end, so that passes keep many columns.
    """

    def __init__(
        self,
        passes: FeatureMatrix,
        columns: BinaryProblems,
        hessian: SampledHessian,
        done: Solution,
        *,
        classes: Tensor,
        goal: Tolerance,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.passes, self.columns, self.hessian, self.done = passes, columns, hessian, done
        self.classes, self.goal, self.progress = classes, goal, progress
        self.history = History()

    def run(self, groups: list[Tensor]) -> None:
        """Until every column of the groups is done."""
        self.waiting, self.newest = groups[1:], groups[0]
        self.state = self._enter(self.newest, self.done.weights[self.newest], 0)
        self.hessian.start(self.state.columns, self.state.scores)
        for iteration in range(self.goal.iterations + 1):
            direction = -self.history.inverse(self.state.gradient, self.hessian.inverse)
            estimate, gap, far = check_convergence(self.state, direction, self.hessian, goal=self.goal)
            self._store(gap, estimate, iteration)
            self._tell(iteration, estimate, far)
            near = not bool((far & (estimate > _NEAR) & torch.isin(self.state.number, self.newest)).any())
            if not (far.any() or self.waiting) or iteration == self.goal.iterations:
                return
            direction = self._keep(far, direction)
            if len(direction):
                self._advance(direction, fresh=iteration % _REFRESH == _REFRESH - 1)
            if self.waiting and near:
                self._let_in(iteration + 1)
            self.hessian.follow(self.state.scores)

    def _tell(self, iteration: int, estimate: Tensor, far: Tensor) -> None:
        if self.progress is not None:
            count = int(far.sum()) + sum(len(group) for group in self.waiting)
            self.progress(f"step {iteration}: {count} problems left, error {float(estimate.max()):.1e}")

    def _store(self, gap: Tensor, estimate: Tensor, iteration: int) -> None:
        number = self.state.number
        self.done.weights[number] = self.state.weights
        self.done.objective[number] = self.state.objective
        self.done.duality_gap[number] = gap
        self.done.error_estimate[number] = estimate
        self.done.steps[number] = iteration - self.state.entered

    def _keep(self, far: Tensor, direction: Tensor) -> Tensor:
        """Lets the other columns go where they are; the directions of those that stay."""
        if bool(far.all()):
            return direction
        left = far.nonzero()[:, 0]
        self.state = self.state.keep(left)
        self.history.keep(left)
        self.hessian.keep(left)
        return direction[left]

    def _let_in(self, iteration: int) -> None:
        """Starts the next group from where the newest one is."""
        before, self.newest = self.newest, self.waiting.pop(0)
        self.state = self.state.join(self._enter(self.newest, self.done.weights[before], iteration))
        self.history.join(len(self.newest))
        self.hessian.join(self.columns.select(self.newest))

    def _enter(self, number: Tensor, weights: Tensor, iteration: int) -> State:
        columns = self.columns.select(number)
        scores = self.passes.scores(weights)
        gradient, objective = evaluate(self.passes, columns, weights, scores)
        wanted, entered = torch.full_like(objective, self.goal.tol), torch.full_like(number, iteration)
        return State(columns, number, weights, scores, gradient, objective, wanted, entered)

    def _advance(self, direction: Tensor, *, fresh: bool) -> None:
        """One step to the least value in the spans of the directions."""
        state, passes = self.state, self.passes
        weights, state.scores = minimise_in_spans(
            state.columns,
            self.classes[state.number],
            weights=state.weights,
            scores=state.scores,
            directions=direction,
            changes=passes.scores(direction),
            ranks=passes.ranks,
        )
        if fresh:
            state.scores = passes.scores(weights)
        gradient, state.objective = evaluate(passes, state.columns, weights, state.scores)
        self.history.add(weights - state.weights, gradient - state.gradient)
        state.weights, state.gradient = weights, gradient
        self.done.weights[state.number] = weights


def check_convergence(
    state: State, direction: Tensor, hessian: SampledHessian, *, goal: Tolerance
) -> tuple[Tensor, Tensor, Tensor]:
    """The error estimate and the gap of each column, relative to its objective, and which are far from the goal."""
    state.trend.append(state.objective)
    decrement = torch.maximum(-0.5 * dot(state.gradient, direction), remaining_decrease(state.trend, direction.dtype))
    estimate = _SAFETY * decrement / state.objective
    near = estimate <= state.wanted
    gap = _gap(hessian, state, near, goal)
    if goal.gap is None:
        return estimate, gap, ~near
    far = ~(near & (gap <= goal.gap))
    sooner = estimate * (0.5 * goal.gap / gap).clamp(0.1, 0.7)
    state.wanted = torch.where(near & far, sooner, state.wanted)
    return estimate, gap, far


def _gap(hessian: SampledHessian, state: State, near: Tensor, goal: Tolerance) -> Tensor:
    """The relative duality gap of the columns that are near, where the goal asks for one; infinite elsewhere."""
    gap = torch.full_like(state.objective, torch.inf)
    if goal.gap is not None and bool(near.any()):
        some = near.nonzero()[:, 0]
        gap[some] = hessian.gap(state.columns.select(some), state.scores[:, some], state.gradient[some])
    return gap / state.objective


def evaluate(passes: FeatureMatrix, columns: BinaryProblems, weights: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (columns, width) and objective (columns,) at these weights and scores."""
    gradient = weights - passes.weighted_rows(columns.signs * dual_variables(columns, scores))
    return gradient, 0.5 * dot(weights, weights) + passes.ranks.sum(losses(columns, scores))


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Scalar product of each row with its like, summed in float64, (columns,)."""
    return (left * right).sum(1, dtype=torch.float64)
