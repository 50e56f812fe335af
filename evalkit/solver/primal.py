"""The primal solver, for many rows: preconditioned L-BFGS on all binary problems, which share each pass over the rows.

One iteration is two passes: the scores of the directions, then the gradients. Directions come from limited-memory BFGS
started from the sampled Hessian (`preconditioner`); the step is exact in the subspace of the directions of all problems
of one class (`subspace`); scores are updated by recurrence and recomputed now and then. The problems of one C enter
when those of the previous C are nearly solved. At the end fresh scores verify the solution, and `fit` reports it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evalkit.solver.passes import FeatureMatrix
from evalkit.solver.preconditioner import SampledHessian
from evalkit.solver.problem import BinaryProblems, Solution, dual_variables, squared_hinge_loss
from evalkit.solver.subspace import minimize_in_subspaces

_MAX_ATTEMPTS = 4  # times that fresh scores may send problems back: once is rare
_WARM_START_ERROR = 2e-3  # relative error at which the solution at one C is a good start for the next
_RECOMPUTE_EVERY = 16  # iterations, after which the rounding of recurred scores would show beside a tol of 1e-6
_MAX_ITERATIONS = 500
_TREND_STEPS = 4  # enough to average the unevenness of single steps
_SAFETY = 4.0  # at large C the sample sees as little as 1/3.4 of the error, measured on 4,000 and 10,000 rows
_HISTORY_PAIRS = 10  # L-BFGS pairs kept


@dataclass(frozen=True)
class Tolerance:
    """When a problem has converged; both bounds are relative to the objective.

    Attributes:
        tol: upper bound on the error estimate.
        gap: upper bound on the duality gap, None for no bound.
        max_iterations: number of iterations after which a problem is left as it is, which the caller can tell from its
            estimate and gap.
    """

    tol: float
    gap: float | None = None
    max_iterations: int = _MAX_ITERATIONS


def solve_primal(
    matrix: FeatureMatrix,
    problems: BinaryProblems,
    hessian: SampledHessian,
    *,
    classes: Tensor,
    tolerance: Tolerance,
    progress: Callable[[str], None] | None = None,
) -> Solution:
    """Minimizes the objective of every problem from zero weights; `classes` (P,) holds the class of each problem."""
    weights = problems.signs.new_zeros(len(classes), matrix.num_weights)
    objective = torch.full((len(classes),), torch.inf, dtype=torch.float64, device=weights.device)
    solution = Solution(weights, objective, objective.clone(), objective.clone(), torch.zeros_like(classes))
    groups = list(torch.arange(len(classes), device=classes.device).split(int(classes.max()) + 1))
    for _ in range(_MAX_ATTEMPTS):
        solver = BlockLBFGS(
            matrix, problems, hessian, solution, classes=classes, tolerance=tolerance, progress=progress
        )
        solver.run(groups)
        groups = [_verify(matrix, problems, hessian, solution, torch.cat(groups), tolerance)]
        if len(groups[0]) == 0:
            break
    return solution


def _verify(
    matrix: FeatureMatrix,
    problems: BinaryProblems,
    hessian: SampledHessian,
    solution: Solution,
    index: Tensor,
    tolerance: Tolerance,
) -> Tensor:
    """Computes objective and rigorous gap of the weights from fresh scores; returns the problems out of tolerance."""
    selected, weights = problems.select(index), solution.weights[index]
    scores = matrix.scores(weights)
    gradient, objective = gradient_and_objective(matrix, selected, weights, scores)
    increase = (objective - solution.objective[index]).clamp(min=0) / objective
    solution.objective[index] = objective
    solution.duality_gap[index] = hessian.duality_gap(selected, scores, gradient) / objective
    solution.error_estimate[index] = torch.maximum(solution.error_estimate[index], increase)
    error = torch.fmin(solution.error_estimate, solution.duality_gap)[index]
    largest_gap = torch.inf if tolerance.gap is None else tolerance.gap
    return index[(error > tolerance.tol) | (solution.duality_gap[index] > largest_gap)]


class BlockLBFGS:
    """L-BFGS on groups of problems, which starts from the weights in `solution` and stores the results there.

    A group consists of all classes at one C. It enters when the previous group is near its optimum, and starts from
    there: at large C the way from zero is long. It does not wait for that group to converge, so that each pass serves
    many problems.
    """

    def __init__(
        self,
        matrix: FeatureMatrix,
        problems: BinaryProblems,
        hessian: SampledHessian,
        solution: Solution,
        *,
        classes: Tensor,
        tolerance: Tolerance,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.matrix, self.problems, self.hessian, self.solution = matrix, problems, hessian, solution
        self.classes, self.tolerance, self.progress = classes, tolerance, progress
        self.history = LBFGSHistory()

    def run(self, groups: list[Tensor]) -> None:
        """Iterates until every problem of the groups has converged."""
        self.waiting, self.newest = groups[1:], groups[0]
        self.iterates = self._initial_iterates(self.newest, self.solution.weights[self.newest], 0)
        self.hessian.initialize(self.iterates.problems, self.iterates.scores)
        for iteration in range(self.tolerance.max_iterations + 1):
            direction = -self.history.apply_inverse(self.iterates.gradient, self.hessian.apply_inverse)
            estimate, gap, unconverged = check_convergence(
                self.iterates, direction, self.hessian, tolerance=self.tolerance
            )
            self._store_iterates(gap, estimate, iteration)
            self._report_progress(iteration, estimate, unconverged)
            newest = torch.isin(self.iterates.index, self.newest)
            warm = not bool((unconverged & (estimate > _WARM_START_ERROR) & newest).any())
            if not (unconverged.any() or self.waiting) or iteration == self.tolerance.max_iterations:
                return
            direction = self._drop_converged(unconverged, direction)
            if len(direction):
                self._step(direction, recompute=iteration % _RECOMPUTE_EVERY == _RECOMPUTE_EVERY - 1)
            if self.waiting and warm:
                self._start_next_group(iteration + 1)
            self.hessian.update(self.iterates.scores)

    def _initial_iterates(self, index: Tensor, weights: Tensor, iteration: int) -> "Iterates":
        problems = self.problems.select(index)
        scores = self.matrix.scores(weights)
        gradient, objective = gradient_and_objective(self.matrix, problems, weights, scores)
        gap_check_at, first_iteration = (
            torch.full_like(objective, self.tolerance.tol),
            torch.full_like(index, iteration),
        )
        return Iterates(problems, index, weights, scores, gradient, objective, gap_check_at, first_iteration)

    def _store_iterates(self, gap: Tensor, estimate: Tensor, iteration: int) -> None:
        index = self.iterates.index
        self.solution.weights[index] = self.iterates.weights
        self.solution.objective[index] = self.iterates.objective
        self.solution.duality_gap[index] = gap
        self.solution.error_estimate[index] = estimate
        self.solution.iterations[index] = iteration - self.iterates.first_iteration

    def _report_progress(self, iteration: int, estimate: Tensor, unconverged: Tensor) -> None:
        if self.progress is not None:
            count = int(unconverged.sum()) + sum(len(group) for group in self.waiting)
            self.progress(f"step {iteration}: {count} problems left, error {float(estimate.max()):.1e}")

    def _drop_converged(self, unconverged: Tensor, direction: Tensor) -> Tensor:
        """Keeps iterating on the unconverged problems only; returns their directions."""
        if bool(unconverged.all()):
            return direction
        index = unconverged.nonzero()[:, 0]
        self.iterates = self.iterates.select(index)
        self.history.select(index)
        self.hessian.select(index)
        return direction[index]

    def _step(self, direction: Tensor, *, recompute: bool) -> None:
        """Moves to the minimum in the subspaces of the directions; `recompute` takes fresh scores from the weights."""
        now, matrix = self.iterates, self.matrix
        weights, now.scores = minimize_in_subspaces(
            now.problems,
            self.classes[now.index],
            weights=now.weights,
            scores=now.scores,
            directions=direction,
            direction_scores=matrix.scores(direction),
            ranks=matrix.ranks,
        )
        if recompute:
            now.scores = matrix.scores(weights)
        gradient, now.objective = gradient_and_objective(matrix, now.problems, weights, now.scores)
        self.history.add(weights - now.weights, gradient - now.gradient)
        now.weights, now.gradient = weights, gradient
        self.solution.weights[now.index] = weights

    def _start_next_group(self, iteration: int) -> None:
        """Starts the next group from the current weights of the newest one."""
        previous, self.newest = self.newest, self.waiting.pop(0)
        entering = self._initial_iterates(self.newest, self.solution.weights[previous], iteration)
        self.iterates = self.iterates.append(entering)
        self.history.append_empty(len(self.newest))
        self.hessian.append(self.problems.select(self.newest))


@dataclass
class Iterates:
    """The current iterate of each of P problems.

    Attributes:
        problems: the binary problems.
        index: position of each problem in the solution, (P,).
        weights: (P, D or D + 1).
        scores: (N, P).
        gradient: (P, D or D + 1).
        objective: float64 (P,).
        gap_check_at: error estimate at which the duality gap is next computed, (P,).
        first_iteration: iteration in which the problem entered, (P,).
        objectives: objectives of all iterations so far, each (P,), NaN before a problem entered.
    """

    problems: BinaryProblems
    index: Tensor
    weights: Tensor
    scores: Tensor
    gradient: Tensor
    objective: Tensor
    gap_check_at: Tensor
    first_iteration: Tensor
    objectives: list[Tensor] = field(default_factory=list)

    def select(self, index: Tensor) -> "Iterates":
        """The problems with these indices."""
        return Iterates(
            self.problems.select(index),
            self.index[index],
            self.weights[index],
            self.scores[:, index],
            self.gradient[index],
            self.objective[index],
            self.gap_check_at[index],
            self.first_iteration[index],
            [objective[index] for objective in self.objectives],
        )

    def append(self, other: "Iterates") -> "Iterates":
        """These problems followed by those of `other`, which have no earlier objectives."""
        signs, costs = zip(self.problems.tensors(), other.problems.tensors(), strict=True)
        return Iterates(
            BinaryProblems(torch.cat(signs, 1), torch.cat(costs, 1)),
            torch.cat([self.index, other.index]),
            torch.cat([self.weights, other.weights]),
            torch.cat([self.scores, other.scores], 1),
            torch.cat([self.gradient, other.gradient]),
            torch.cat([self.objective, other.objective]),
            torch.cat([self.gap_check_at, other.gap_check_at]),
            torch.cat([self.first_iteration, other.first_iteration]),
            [torch.cat([objective, torch.full_like(other.objective, torch.nan)]) for objective in self.objectives],
        )


class LBFGSHistory:
    """Limited-memory BFGS pairs (Liu & Nocedal 1989) of every problem."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, step: Tensor, change: Tensor) -> None:
        """Stores a step of the weights and the change of the gradient that it caused, both (P, D or D + 1)."""
        product = (step * change).sum(1)
        usable = product > 1e-12 * (change * change).sum(1)
        inverse = torch.where(usable, 1 / torch.where(usable, product, 1), 0)
        self.pairs = [*self.pairs[1 - _HISTORY_PAIRS :], (step, change, inverse)]

    def select(self, index: Tensor) -> None:
        """Keeps only the problems with these indices."""
        self.pairs = [(step[index], change[index], inverse[index]) for step, change, inverse in self.pairs]

    def append_empty(self, problems: int) -> None:
        """Adds problems that have no pairs yet."""
        self.pairs = [
            (_with_zero_rows(step, problems), _with_zero_rows(change, problems), _with_zero_rows(inverse, problems))
            for step, change, inverse in self.pairs
        ]

    def apply_inverse(self, gradient: Tensor, initial_inverse: Callable[[Tensor], Tensor]) -> Tensor:
        """The approximate inverse Hessian applied to the gradient, by the two-loop recursion."""
        vector = gradient.clone()
        alphas = []
        for step, change, inverse in reversed(self.pairs):
            alphas.append(inverse * (step * vector).sum(1))
            vector -= alphas[-1][:, None] * change
        vector = initial_inverse(vector)
        for (step, change, inverse), alpha in zip(self.pairs, reversed(alphas), strict=True):
            vector += (alpha - inverse * (change * vector).sum(1))[:, None] * step
        return vector


def check_convergence(
    iterates: Iterates, direction: Tensor, hessian: SampledHessian, *, tolerance: Tolerance
) -> tuple[Tensor, Tensor, Tensor]:
    """The error estimate and the duality gap of each problem, relative to its objective, and which are unconverged."""
    iterates.objectives.append(iterates.objective)
    decrement = -0.5 * rowwise_dot(iterates.gradient, direction)
    decrease = torch.maximum(decrement, remaining_decrease(iterates.objectives, direction.dtype))
    estimate = _SAFETY * decrease / iterates.objective
    near = estimate <= iterates.gap_check_at
    gap = _gap_where_needed(iterates, hessian, near, tolerance)
    if tolerance.gap is None:
        return estimate, gap, ~near
    unconverged = ~(near & (gap <= tolerance.gap))
    next_check = estimate * (0.5 * tolerance.gap / gap).clamp(0.1, 0.7)
    iterates.gap_check_at = torch.where(near & unconverged, next_check, iterates.gap_check_at)
    return estimate, gap, unconverged


def _gap_where_needed(iterates: Iterates, hessian: SampledHessian, near: Tensor, tolerance: Tolerance) -> Tensor:
    """The relative duality gap of the problems that are near, if the tolerance bounds it; infinite for all others."""
    gap = torch.full_like(iterates.objective, torch.inf)
    if tolerance.gap is not None and bool(near.any()):
        index = near.nonzero()[:, 0]
        gap[index] = hessian.duality_gap(
            iterates.problems.select(index), iterates.scores[:, index], iterates.gradient[index]
        )
    return gap / iterates.objective


def remaining_decrease(objectives: list[Tensor], dtype: torch.dtype) -> Tensor:
    """How much the objective will still decrease, by the geometric series of its last eight steps, (P,).

    The decrement g^T H^-1 g / 2 alone covers about the next step only: with slow convergence it was 20 times too small.
    Steps smaller than the rounding of scores in `dtype` carry no information and count as zero, as do fewer than eight.
    """
    if len(objectives) <= 2 * _TREND_STEPS:
        return torch.zeros_like(objectives[-1])
    earlier, middle, last = objectives[-1 - 2 * _TREND_STEPS], objectives[-1 - _TREND_STEPS], objectives[-1]
    recent = (middle - last).clamp(min=0)
    before = (earlier - middle).clamp(min=torch.finfo(recent.dtype).tiny)
    ratio = (recent / before).clamp(max=0.9)
    noise = torch.finfo(dtype).eps * last
    return torch.where(recent > noise, recent * ratio / (1 - ratio), 0).nan_to_num(0)


def gradient_and_objective(
    matrix: FeatureMatrix, problems: BinaryProblems, weights: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient (P, D or D + 1) and objective (P,) at these weights and scores."""
    gradient = weights - matrix.weighted_rows(problems.signs * dual_variables(problems, scores))
    return gradient, 0.5 * rowwise_dot(weights, weights) + matrix.ranks.sum(squared_hinge_loss(problems, scores))


def rowwise_dot(left: Tensor, right: Tensor) -> Tensor:
    """Scalar product of each row of `left` with the same row of `right`, summed in float64, (P,)."""
    return (left * right).sum(1, dtype=torch.float64)


def _with_zero_rows(tensor: Tensor, rows: int) -> Tensor:
    """The tensor followed by `rows` rows of zeros."""
    return torch.cat([tensor, tensor.new_zeros(rows, *tensor.shape[1:])])
