"""L-BFGS on groups of columns, which enter and leave one after another. Uses history, subspace and convergence.

One iteration is two passes: scores of the directions, then the gradients. Directions come from limited-memory BFGS
started from the sampled Hessian; the step is exact in the span of all that the columns of one class have found, and
scores follow by recurrence, from fresh ones now and then.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from evalkit.probes.l2svm.convergence import Goal, judge
from evalkit.probes.l2svm.history import History
from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.preconditioner import SampledHessian
from evalkit.probes.l2svm.problem import Columns, Solution
from evalkit.probes.l2svm.state import State, evaluate
from evalkit.probes.l2svm.subspace import minimise_in_spans

_NEAR = 2e-3  # relative error at which one C is a good start for the next
_REFRESH = 16  # iterations from which the rounding of the recurred scores would show beside a tol of 1e-6


class Descent:
    """L-BFGS on groups of columns from where `done` has them; leaves them there as they reach the goal.

    A group is all classes at one C. It enters when the one before it is near its optimum, and starts from there: at
    large C the way from zero is long. Later groups do not wait for it to end, so that passes keep many columns.
    """

    def __init__(
        self,
        passes: Passes,
        columns: Columns,
        hessian: SampledHessian,
        done: Solution,
        *,
        classes: Tensor,
        goal: Goal,
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
            estimate, gap, far = judge(self.state, direction, self.hessian, goal=self.goal)
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
        self.hessian.join(self.columns.take(self.newest))

    def _enter(self, number: Tensor, weights: Tensor, iteration: int) -> State:
        columns = self.columns.take(number)
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
