"""Fits along C: one call takes all C values and shares the work. Uses rows, the kernel solver and the block solver.

Few rows go to the kernel solver, many to the block solver; both give the same optimum, and both prove it.

A fitted linear classifier on all classes, and scoring with one or many of them in a single pass over the rows.

Refuses features that no fit can use: NaN, infinite, or so large that float32 overflows. Used by path and fit.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import ConvergenceError
from evalkit.runtime import Ranks
from evalkit.solver.dual import solve_few
from evalkit.solver.memory import Plan, parse_memory, plan_memory
from evalkit.solver.passes import FeatureMatrix
from evalkit.solver.preconditioner import SampledHessian
from evalkit.solver.primal import Tolerance, solve_primal
from evalkit.solver.problem import (
    BinaryProblems,
    InputError,
    Labels,
    Solution,
    check_costs,
    class_weights,
    encode_labels,
    make_binary_problems,
)
from evalkit.solver.rows import Rows, as_matrix, check_rows, open_rows, storage_type

TOL = 1e-6  # relative to the objective; test accuracy is settled from 1e-5 on
POLISHED_GAP = 1e-4  # rigorous gap that `polish` reaches
FEW_ROWS = 4000  # up to here one Gram matrix is cheaper than passes
_CONVERTED_BYTES = 2e9  # rows that take less as float32 are converted once, not at every pass: a sixth of a pass's time


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
    passes: FeatureMatrix,
    groups: Sequence[BinaryProblems],
    classes: int,
    sample: int,
    *,
    goal: Tolerance,
    progress: Callable[[str], None] | None,
) -> Solution:
    """Group after group of C values; the columns of a group share each pass."""
    hessian = SampledHessian(passes, size=sample)
    parts: list[Solution] = []
    for columns in groups:
        number = torch.arange(columns.signs.shape[1], device=columns.signs.device) % classes
        parts.append(solve_primal(passes, columns, hessian, classes=number, goal=goal, progress=progress))
    return Solution(*(torch.cat(each) for each in zip(*(part.tensors() for part in parts), strict=True)))


@dataclass(frozen=True)
class LinearFit:
    """One L2-SVM on all classes at one C.

    Attributes:
        C: weight of the losses.
        classes: (K,) sorted labels.
        coef: float32 (K, D), or (1, D) for two classes; float64 for small float64 features.
        intercept: float64 (K,) or (1,).
        objective: 0.5 ||w||^2 + C sum of squared losses of each problem (intercept's weight included), float64.
        duality_gap: rigorous bound on (objective - optimum) / objective of each problem.
        error_estimate: estimate of the same quantity, usually close, but no bound.
        n_iterations: Newton or L-BFGS steps of the slowest class.
        n_passes: passes over the training rows, shared by all C of the call.
        seconds: wall time of the call, shared likewise.
    """

    C: float
    classes: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    objective: np.ndarray
    duality_gap: np.ndarray
    error_estimate: np.ndarray
    n_iterations: int
    n_passes: int
    seconds: float

    def decision_function(self, features: Any, rows: np.ndarray | None = None) -> np.ndarray:
        """Scores float32 (N, K), or (N,) for two classes, of all rows or of those numbered in `rows`."""
        scores = score_rows(features, self.coef, self.intercept, rows=rows)
        return scores[:, 0] if len(self.classes) == 2 else scores

    def predict(self, features: Any, rows: np.ndarray | None = None) -> np.ndarray:
        """The label of the highest score of each row (N,)."""
        return to_labels(self.classes, self.decision_function(features, rows))


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
    passes = FeatureMatrix(source, constant=intercept_scaling if fit_intercept else None, ranks=ranks)
    columns_of = partial(
        make_binary_problems, encoded, weights=weights, sample_weight=sample_weight, device=source.device
    )
    if sum(ranks.objects(len(encoded.index))) <= FEW_ROWS:
        solution = solve_few(passes, [columns_of([C], dtype=torch.float64) for C in values], tol)
    else:
        some = max(1, plan.group // encoded.columns)
        groups = [columns_of(values[i : i + some], dtype=source.dtype) for i in range(0, len(values), some)]
        goal = Tolerance(tol, max(tol, POLISHED_GAP) if polish else None)
        solution = _solve_many(passes, groups, encoded.columns, plan.sample, goal=goal, progress=progress)
    fits = make_fits(solution, values, encoded, passes, time.perf_counter() - start)
    for fit in fits:
        check_converged(fit, tol)
    return [fits[values.index(float(C))] for C in Cs]


def score_rows(
    features: Any,
    coef: np.ndarray,
    intercept: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """features @ coef.T + intercept for many weight vectors (k, D) in one pass over the rows, (N, k).

    float32, but float64 for small float64 features.
    """
    features = as_matrix(features)
    if features.shape[1] != coef.shape[1]:
        raise InputError(f"features have {features.shape[1]} columns, the fit was made on {coef.shape[1]}")
    source = open_rows(features, rows, device=torch.device(device), resident=0)
    scores = FeatureMatrix(source, constant=None).scores(
        torch.as_tensor(coef, dtype=source.dtype, device=source.device)
    )
    if not torch.isfinite(scores).all():
        check_finite(source, rows)
    biases = torch.as_tensor(intercept, dtype=scores.dtype, device=scores.device)
    return (scores + biases).cpu().numpy()


def to_labels(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Labels from scores (..., K), or from (...) for two classes, where the second is positive."""
    return classes[(scores > 0).astype(np.int64) if len(classes) == 2 else scores.argmax(-1)]


def make_fits(
    solution: Solution, Cs: list[float], labels: Labels, passes: FeatureMatrix, seconds: float
) -> list[LinearFit]:
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


_LARGEST = 1e18  # squares of larger values, summed over features, leave float32


def check_finite(rows: Rows, numbers: np.ndarray | None = None) -> Tensor:
    """Squared length of each row (N,); refuses NaN, infinite and overflowing features, naming the place.

    `numbers` are the rows' own, where they were chosen out of more.
    """
    lengths = torch.empty(rows.count, dtype=rows.dtype, device=rows.device)
    for where, chunk in rows.chunks():
        lengths[where] = torch.linalg.vector_norm(chunk, dim=1)
        if not torch.isfinite(lengths[where]).all() or lengths[where].max() > _LARGEST:
            _refuse(chunk, np.arange(rows.count)[where] if numbers is None else numbers[where])
    return lengths.square_()


def _refuse(chunk: Tensor, numbers: np.ndarray) -> None:
    bad = (~torch.isfinite(chunk)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        kind = "NaN" if chunk[row, column].isnan() else "infinity"
        raise InputError(f"features row {numbers[row]}, column {column} is {kind}; remove or mend that row")
    row, column = divmod(int(chunk.abs().argmax()), chunk.shape[1])
    raise InputError(
        f"features row {numbers[row]}, column {column} is {chunk[row, column]:.3g}: float32 overflows in the products; "
        "divide the features by a constant (and multiply C by its square)"
    )
