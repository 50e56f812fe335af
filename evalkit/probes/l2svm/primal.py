"""Many rows: all columns share each pass over the features. A descent, then a check from fresh scores. Used by path."""

from collections.abc import Callable

import torch
from torch import Tensor

from evalkit.probes.l2svm.convergence import Goal
from evalkit.probes.l2svm.descent import Descent
from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.preconditioner import SampledHessian
from evalkit.probes.l2svm.problem import Columns, Solution
from evalkit.probes.l2svm.state import evaluate

_ATTEMPTS = 4  # times that fresh scores may send columns back: once is rare


def solve_primal(
    passes: Passes,
    columns: Columns,
    hessian: SampledHessian,
    *,
    classes: Tensor,
    goal: Goal,
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
    passes: Passes, columns: Columns, hessian: SampledHessian, done: Solution, number: Tensor, goal: Goal
) -> Tensor:
    """Objective and rigorous gap of the weights themselves, from fresh scores; the numbers of columns that miss."""
    chosen, weights = columns.take(number), done.weights[number]
    scores = passes.scores(weights)
    gradient, objective = evaluate(passes, chosen, weights, scores)
    risen = (objective - done.objective[number]).clamp(min=0) / objective
    done.objective[number] = objective
    done.duality_gap[number] = hessian.gap(chosen, scores, gradient) / objective
    done.error_estimate[number] = torch.maximum(done.error_estimate[number], risen)
    error = torch.fmin(done.error_estimate, done.duality_gap)[number]
    missed = (error > goal.tol) | (done.duality_gap[number] > (torch.inf if goal.gap is None else goal.gap))
    return number[missed]
