"""Few rows: every C of a path from one Gram matrix, with certificates from the weights themselves. Used by path."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evalkit.probes.l2svm.gram import gram_matrix
from evalkit.probes.l2svm.kernel import KernelSolution, kernel_gap, solve_kernel
from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.problem import Columns, Solution, losses
from evalkit.probes.l2svm.rows import Rows


def solve_few(passes: Passes, problems: Sequence[Columns], tol: float) -> Solution:
    """All C from one Gram matrix, each starting from the solution at the C before; the same on every rank."""
    ranks, rows = passes.ranks, passes.rows
    everything = torch.arange(rows.count, device=rows.device)
    stored = ranks.concatenate(rows.take(everything)).to(rows.dtype)
    gathered = Passes(Rows(stored), constant=passes.constant)
    gram = gram_matrix(stored, constant=passes.constant)
    whole = [Columns(ranks.concatenate(each.signs), ranks.concatenate(each.costs)) for each in problems]
    solutions: list[KernelSolution] = []
    for columns in whole:
        start = solutions[-1] if solutions else None
        solutions.append(solve_kernel(gram, columns, start=start, tol=tol, exact=rows.dtype == torch.float64))
    columns = Columns(torch.cat([each.signs for each in whole], 1), torch.cat([each.costs for each in whole], 1))
    beta = torch.cat([each.beta for each in solutions], 1)
    weights = gathered.weighted_rows(beta.to(rows.dtype))
    solution = _proven(gathered, gram, columns, weights, beta, torch.cat([each.steps for each in solutions]))
    passes.count += gathered.count
    return solution


def _proven(gathered: Passes, gram: Tensor, columns: Columns, weights: Tensor, beta: Tensor, steps: Tensor) -> Solution:
    """Objective and gap of the weights themselves, from their own scores, free of the Gram matrix's rounding."""
    scores = gathered.scores(weights).double()
    objective = 0.5 * weights.double().square().sum(1) + losses(columns, scores)
    gap = kernel_gap(columns, beta, scores, gram) / objective
    return Solution(weights, objective, gap, gap, steps)
