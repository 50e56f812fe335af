"""Fits along C: one call takes all C values and shares the work. Uses rows, the kernel solver and the block solver.

Few rows go to the kernel solver, many to the block solver; both give the same optimum, and both prove it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from evalkit.distributed import Ranks
from evalkit.probes.l2svm.convergence import Goal
from evalkit.probes.l2svm.few import solve_few
from evalkit.probes.l2svm.finite import check_finite
from evalkit.probes.l2svm.fit import LinearFit, check_converged, make_fits
from evalkit.probes.l2svm.memory import Plan, parse_memory, plan_memory
from evalkit.probes.l2svm.opening import as_matrix, check_rows, open_rows, storage_type
from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.preconditioner import SampledHessian
from evalkit.probes.l2svm.primal import solve_primal
from evalkit.probes.l2svm.problem import (
    Columns,
    InputError,
    Labels,
    Solution,
    check_costs,
    class_weights,
    encode_labels,
    make_columns,
)
from evalkit.probes.l2svm.rows import Rows

TOL = 1e-6  # relative to the objective; test accuracy is settled from 1e-5 on
POLISHED_GAP = 1e-4  # rigorous gap that `polish` reaches
FEW_ROWS = 4000  # up to here one Gram matrix is cheaper than passes
_CONVERTED_BYTES = 2e9  # rows that take less as float32 are converted once, not at every pass: a sixth of a pass's time


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
        features: (N, D) numpy array, memory map, torch tensor or feature set; float16 stays float16 beyond 2 GB.
        labels: one label for each row of `features`, or for each of `rows`.
        Cs: weights of the losses, the larger the less regularised; positive.
        rows: numbers of the training rows; all when None.
        tol: largest relative error of each objective, by rigorous gap or by the solver's own estimate.
        memory: bytes (or "4GB") the whole fit may take, on a GPU what is free there when None; features beyond it
            stream from their file.
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
    weights = class_weights(encoded, class_weight, sample_weight, ranks)
    source, plan = _opened(
        features, rows, encoded, count=len(values), device=device, storage=storage, memory=parse_memory(memory)
    )
    check_finite(source, rows)
    passes = Passes(source, constant=intercept_scaling if fit_intercept else None, ranks=ranks)
    columns_of = partial(make_columns, encoded, weights=weights, sample_weight=sample_weight, device=source.device)
    if sum(ranks.objects(len(encoded.index))) <= FEW_ROWS:
        solution = solve_few(passes, [columns_of([C], dtype=torch.float64) for C in values], tol)
    else:
        some = max(1, plan.group // encoded.columns)
        groups = [columns_of(values[i : i + some], dtype=source.dtype) for i in range(0, len(values), some)]
        goal = Goal(tol, max(tol, POLISHED_GAP) if polish else None)
        solution = _solve_many(passes, groups, encoded.columns, plan.sample, goal=goal, progress=progress)
    fits = make_fits(solution, values, encoded, passes, time.perf_counter() - start)
    for fit in fits:
        check_converged(fit, tol)
    return [fits[values.index(float(C))] for C in Cs]


def _opened(
    features: Any,
    rows: np.ndarray | None,
    labels: Labels,
    *,
    count: int,
    device: str | torch.device,
    storage: str,
    memory: int | None,
) -> tuple[Rows, Plan]:
    """The rows, as far in memory as the budget allows, and the plan that says so; `count` is the number of C values."""
    total, width, device = len(labels.index), features.shape[1], torch.device(device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    converted = _CONVERTED_BYTES if free is None else free / 3
    small = total <= FEW_ROWS or (memory is None and 4 * total * width <= converted)
    if storage == "auto" and small and storage_type(features, storage) == torch.float16:
        storage = "float32"
    dtype = storage_type(features, storage)
    budget = free if memory is None else memory
    plan = plan_memory(total, width, count * labels.columns, labels.columns, stored=dtype, memory=budget)
    return open_rows(features, rows, device=device, storage=storage, resident=plan.resident), plan


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
    rows = check_rows(rows, total)
    order = np.argsort(rows, kind="stable")
    if len(labels) not in (total, len(rows)):
        raise InputError(f"{len(labels)} labels for {len(rows)} chosen rows of {total}; give one label for each row")
    pick = rows[order] if len(labels) == total else order
    return rows[order], labels[pick], None if weights is None else weights[pick]


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
