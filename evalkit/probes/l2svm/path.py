"""Fits along C: one call takes all C values and shares the work. Uses rows, the kernel solver and the block solver.

Few rows go to the kernel solver, many to the block solver; both give the same optimum, and both prove it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import ConvergenceError
from evalkit.probes.l2svm.fit import LinearFit
from evalkit.probes.l2svm.kernel import KernelSolution, gram_matrix, kernel_gap, solve_kernel
from evalkit.probes.l2svm.memory import parse_memory, plan_memory
from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.preconditioner import SampledHessian
from evalkit.probes.l2svm.primal import Goal, Solution, solve_primal
from evalkit.probes.l2svm.problem import (
    Columns,
    InputError,
    Labels,
    check_costs,
    class_weights,
    encode_labels,
    losses,
    make_columns,
)
from evalkit.probes.l2svm.ranks import Ranks
from evalkit.probes.l2svm.rows import Rows, as_matrix, check_finite, open_rows, storage_type

TOL = 1e-6  # relative to the objective; test accuracy is settled from 1e-5 on
POLISHED_GAP = 1e-4  # rigorous gap that `polish` reaches
FEW_ROWS = 4000  # up to here one Gram matrix is cheaper than passes


def l2svm_path(
    features: Any,
    labels: Any,
    Cs: Sequence[float],
    *,
    rows: np.ndarray | None = None,
    tol: float = TOL,
    memory: int | str | None = None,
    device: str | torch.device = "cpu",
    storage: str = "auto",
    polish: bool = False,
    class_weight: Mapping | str | None = None,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    intercept_scaling: float = 1.0,
    distributed: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[LinearFit]:
    """One fit for each C, in the order given, each within `tol` of its optimum.

    Args:
        features: (N, D) numpy array, memory map, torch tensor or feature set; float16 stays float16 in memory.
        labels: one label for each row of `features`, or for each of `rows`.
        Cs: weights of the losses, the larger the less regularised; positive.
        rows: numbers of the training rows; all when None.
        tol: largest relative error of each objective, by rigorous gap or by the solver's own estimate.
        memory: bytes (or "4GB") the whole fit may take; features beyond it stream from their file.
        device: where to compute.
        storage: type rows are held in: "auto", "float16" or "float32".
        polish: go on until the rigorous gap, too, is small: 1e-4, or `tol` if that is larger.
        class_weight: None, "balanced", or a mapping of label to weight, with LinearSVC's meaning.
        sample_weight: one weight for each label.
        fit_intercept: whether to learn an intercept; it is penalised, as in liblinear.
        intercept_scaling: value of the constant feature whose weight makes the intercept.
        distributed: divide the work among the ranks of the default process group; each gives its own rows.
        progress: called with a line of text at every step of the block solver.

    Nothing is random: the sample of rows that speeds up the block solver is always the same one.

    Raises:
        EvalkitError: wrong input.
        ConvergenceError: a fit missed `tol`.
    """
    start = time.perf_counter()
    ranks = Ranks(distributed=distributed)
    values = sorted(check_costs(Cs))
    features = as_matrix(features)
    rows, labels, sample_weight = _chosen(rows, len(features), labels, sample_weight)
    encoded = encode_labels(labels, len(features) if rows is None else len(rows), ranks)
    total = sum(ranks.objects(len(encoded.index)))
    weights = class_weights(encoded, class_weight, sample_weight, ranks)
    stored = storage_type(features, storage)
    count = len(values) * encoded.columns
    plan = plan_memory(
        len(encoded.index), features.shape[1], count, encoded.columns, stored=stored, memory=parse_memory(memory)
    )
    source = open_rows(features, rows, device=torch.device(device), storage=storage, resident=plan.resident)
    check_finite(source)
    passes = Passes(source, constant=intercept_scaling if fit_intercept else None, ranks=ranks)

    def columns_of(some: Sequence[float], dtype: torch.dtype) -> Columns:
        return make_columns(
            encoded, some, weights=weights, sample_weight=sample_weight, device=source.device, dtype=dtype
        )

    if total <= FEW_ROWS:
        solution = solve_few(passes, [columns_of([C], torch.float64) for C in values], tol)
    else:
        gap = max(tol, POLISHED_GAP) if polish else None
        some = max(1, plan.group // encoded.columns)
        groups = [columns_of(values[first : first + some], source.dtype) for first in range(0, len(values), some)]
        solution = _solve_many(passes, groups, encoded.columns, plan.sample, goal=Goal(tol, gap), progress=progress)
    fits = make_fits(solution, values, encoded, passes, time.perf_counter() - start)
    for fit in fits:
        check_converged(fit, tol)
    return [fits[values.index(float(C))] for C in Cs]


def _chosen(
    rows: np.ndarray | None, total: int, labels: Any, sample_weight: Any
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Row numbers sorted (files are read in order), with the labels and weights of exactly those rows."""
    labels = np.asarray(labels)
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weights is not None and (weights.shape != labels.shape or not np.isfinite(weights).all() or weights.min() < 0):
        raise InputError("sample_weight: expected one finite weight of at least 0 for each label")
    if rows is None:
        return None, labels, weights
    rows = np.asarray(rows)
    if rows.ndim != 1 or len(rows) == 0 or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= total:
        raise InputError(f"rows: expected row numbers from 0 to {total - 1}, at least one")
    order = np.argsort(rows, kind="stable")
    if len(labels) not in (total, len(rows)):
        raise InputError(f"{len(labels)} labels for {len(rows)} chosen rows of {total}; give one label for each row")
    pick = rows[order] if len(labels) == total else order
    return rows[order], labels[pick], None if weights is None else weights[pick]


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
        solutions.append(solve_kernel(gram, columns, start=solutions[-1] if solutions else None, tol=tol))
    columns = Columns(torch.cat([each.signs for each in whole], 1), torch.cat([each.costs for each in whole], 1))
    beta = torch.cat([each.beta for each in solutions], 1)
    weights = gathered.weighted_rows(beta.to(rows.dtype))
    passes.count += gathered.count
    return _proven(gathered, gram, columns, weights, beta, torch.cat([each.steps for each in solutions]))


def _proven(gathered: Passes, gram: Tensor, columns: Columns, weights: Tensor, beta: Tensor, steps: Tensor) -> Solution:
    """Objective and gap of the weights themselves, from their own scores, free of the Gram matrix's rounding."""
    scores = gathered.scores(weights).double()
    objective = 0.5 * weights.double().square().sum(1) + losses(columns, scores)
    gap = kernel_gap(columns, beta, scores, gram) / objective
    return Solution(weights, objective, gap, gap, steps)


def _solve_many(
    passes: Passes,
    groups: Sequence[Columns],
    classes: int,
    sample: int,
    *,
    goal: Goal,
    progress: Callable[[str], None] | None,
) -> Solution:
    """Group after group of C values; the columns of a group share each pass."""
    hessian = SampledHessian(passes, size=sample)
    parts: list[Solution] = []
    for columns in groups:
        number = torch.arange(columns.signs.shape[1], device=columns.signs.device) % classes
        parts.append(solve_primal(passes, columns, hessian, classes=number, goal=goal, progress=progress))
    return Solution(*(torch.cat(each) for each in zip(*(part.tensors() for part in parts), strict=True)))


def make_fits(solution: Solution, Cs: list[float], labels: Labels, passes: Passes, seconds: float) -> list[LinearFit]:
    """A LinearFit for each C from the solution's columns, which are C by C, classes inside."""
    weights, objective, gap, estimate, steps = (part.detach().cpu().numpy() for part in solution.tensors())
    constant, features = passes.constant, passes.rows.features
    fits = []
    for number, C in enumerate(Cs):
        where = slice(number * labels.columns, (number + 1) * labels.columns)
        bias = np.zeros(labels.columns) if constant is None else weights[where, -1].astype(np.float64) * constant
        fit = LinearFit(
            C=C,
            classes=labels.classes,
            coef=weights[where, :features].copy(),
            intercept=bias,
            objective=objective[where],
            duality_gap=gap[where],
            error_estimate=estimate[where],
            n_iterations=int(steps[where].max()),
            n_passes=passes.count,
            seconds=seconds,
        )
        fits.append(fit)
    return fits


def check_converged(fit: LinearFit, tol: float) -> None:
    """Raises ConvergenceError unless every problem of the fit is within `tol` by gap or estimate."""
    error = np.fmin(fit.duality_gap, fit.error_estimate)
    if not (error <= tol).all():
        worst = int(np.argmax(np.nan_to_num(error, nan=np.inf)))
        label = fit.classes[worst if len(fit.classes) > 2 else 1]
        raise ConvergenceError(
            f"L2-SVM at C = {fit.C:g}, class {label}: relative error {error[worst]:.1e}, expected at most {tol:.1e}; "
            "use a smaller C, a larger tol, or scale the features down"
        )
