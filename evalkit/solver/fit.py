"""Linear L2-SVM fits along C: `l2svm_path` takes all C values in one call and shares the work between them.

It opens the rows (`rows`), sends few rows to the dual solver (`dual`) and many to the primal solver (`primal`), and
checks that each fit is within its tolerance; both solvers find the same optimum, with a certificate. `score_rows`
scores rows with one or many fitted classifiers in a single pass. The estimator `L2SVM`, the classifiers and `subsets`
build on it.
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
from evalkit.solver.dual import solve_dual
from evalkit.solver.memory import MemoryPlan, parse_memory, plan_memory
from evalkit.solver.passes import FeatureMatrix
from evalkit.solver.preconditioner import SampledHessian
from evalkit.solver.primal import Tolerance, solve_primal
from evalkit.solver.problem import (
    BinaryProblems,
    EncodedLabels,
    InputError,
    Solution,
    check_C_values,
    compute_class_weights,
    encode_labels,
    make_binary_problems,
)
from evalkit.solver.rows import FeatureRows, as_matrix, check_rows, open_rows, storage_type

TOL = 1e-6  # relative to the objective; test accuracy no longer changes from 1e-5 on
POLISHED_GAP = 1e-4  # rigorous gap that `polish` reaches
FEW_ROWS = 4000  # up to this many, one Gram matrix is cheaper than passes
_MAX_CONVERTED_BYTES = 2e9  # smaller features are converted to float32 once, not in every pass: a sixth of its time
_LARGEST_NORM = 1e18  # squares of larger values, summed over features, overflow float32


@dataclass(frozen=True)
class LinearFit:
    """An L2-SVM for all classes at one C.

    Attributes:
        C: weight of the losses.
        classes: (K,) sorted labels.
        coef: float32 (K, D), or (1, D) for two classes; float64 for small float64 features.
        intercept: float64 (K,) or (1,).
        objective: 0.5 ||w||^2 + C sum of squared losses of each problem (including the intercept's weight), float64.
        duality_gap: rigorous bound on (objective - optimum) / objective of each problem.
        error_estimate: estimate of the same quantity, usually close, but not a bound.
        n_iterations: Newton or L-BFGS iterations of the slowest class.
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
        """Scores of all rows, or of the given row indices: float32 (N, K), or (N,) for two classes."""
        scores = score_rows(features, self.coef, self.intercept, rows=rows)
        return scores[:, 0] if len(self.classes) == 2 else scores

    def predict(self, features: Any, rows: np.ndarray | None = None) -> np.ndarray:
        """The label with the highest score for each row, (N,)."""
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
    """Fits an L2-SVM for each C; returns the fits in the order of `Cs`, each within `tol` of its optimum.

    Args:
        features: (N, D) numpy array, memory map, torch tensor or feature set; float16 stays float16 beyond 2 GB.
        labels: one label for each row of `features`, or for each of `rows`.
        Cs: weights of the losses, positive; the larger, the weaker the regularization.
        rows: indices of the training rows; all if None.
        tol: largest relative error of each objective, by the rigorous gap or by the solver's own estimate.
        memory: bytes (or "4GB") that the whole fit may use, by default no limit on a CPU and the free memory of a GPU;
            features beyond it stream from their file.
        device: where to compute.
        storage: type the rows are stored in: "auto", "float16" or "float32".
        polish: whether to continue until the rigorous gap is small, too: 1e-4, or `tol` if that is larger.
        class_weight: None, "balanced", or a mapping from label to weight, with the same meaning as in LinearSVC.
        sample_weight: one weight for each label.
        fit_intercept: whether to fit an intercept; it is penalized, as in liblinear.
        intercept_scaling: value of the constant feature whose weight gives the intercept.
        distributed: whether to divide the work among the ranks of the default process group, each of which passes its
            own rows.
        progress: called with a line of text at every iteration of the primal solver.

    Nothing is random: the sample of rows that speeds up the primal solver is always the same.

    Raises:
        EvalkitError: invalid input.
        ConvergenceError: a fit missed `tol`.
    """
    start = time.perf_counter()
    ranks = Ranks(distributed=distributed)
    values = sorted(check_C_values(Cs))
    features = as_matrix(features)
    rows, labels, sample_weight = _select_rows(rows, len(features), labels, sample_weight)
    encoded = encode_labels(labels, len(features) if rows is None else len(rows), ranks)
    weights = compute_class_weights(encoded, class_weight, sample_weight, ranks)
    source, plan = _open_features(
        features, rows, encoded, num_C=len(values), device=device, storage=storage, memory=parse_memory(memory)
    )
    check_finite(source, rows)
    matrix = FeatureMatrix(source, intercept_scaling=intercept_scaling if fit_intercept else None, ranks=ranks)
    problems_at = partial(
        make_binary_problems, encoded, weights=weights, sample_weight=sample_weight, device=source.device
    )
    if sum(ranks.objects(len(encoded.class_index))) <= FEW_ROWS:
        solution = solve_dual(matrix, [problems_at([C], dtype=torch.float64) for C in values], tol)
    else:
        step = max(1, plan.group_size // encoded.num_problems)
        groups = [problems_at(values[i : i + step], dtype=source.dtype) for i in range(0, len(values), step)]
        tolerance = Tolerance(tol, max(tol, POLISHED_GAP) if polish else None)
        solution = _solve_primal_groups(
            matrix, groups, encoded.num_problems, plan.sample_rows, tolerance=tolerance, progress=progress
        )
    fits = make_fits(solution, values, encoded, matrix, time.perf_counter() - start)
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

    The scores are float32, or float64 for small float64 features.
    """
    features = as_matrix(features)
    if features.shape[1] != coef.shape[1]:
        raise InputError(f"features have {features.shape[1]} columns, the fit was made on {coef.shape[1]}")
    source = open_rows(features, rows, device=torch.device(device), resident_rows=0)
    scores = FeatureMatrix(source, intercept_scaling=None).scores(
        torch.as_tensor(coef, dtype=source.dtype, device=source.device)
    )
    if not torch.isfinite(scores).all():
        check_finite(source, rows)
    biases = torch.as_tensor(intercept, dtype=scores.dtype, device=scores.device)
    return (scores + biases).cpu().numpy()


def to_labels(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Labels from scores (..., K), or from (...) for two classes, of which the second is positive."""
    return classes[(scores > 0).astype(np.int64) if len(classes) == 2 else scores.argmax(-1)]


def check_converged(fit: LinearFit, tol: float) -> None:
    """Raises ConvergenceError unless every problem of the fit is within `tol` by its gap or estimate."""
    error = np.fmin(fit.duality_gap, fit.error_estimate)
    if not (error <= tol).all():
        worst = int(np.argmax(np.nan_to_num(error, nan=np.inf)))
        label = fit.classes[worst if len(fit.classes) > 2 else 1]
        raise ConvergenceError(
            f"L2-SVM at C = {fit.C:g}, class {label}: relative error {error[worst]:.1e}, expected at most {tol:.1e}; "
            "use a smaller C, a larger tol, or scale the features down"
        )


def check_finite(rows: FeatureRows, indices: np.ndarray | None = None) -> Tensor:
    """Squared norm of each row, (N,); raises for NaN, infinite and overflowing features and names their place.

    `indices` are the original indices of the rows, if they were selected from more.
    """
    norms = torch.empty(rows.num_rows, dtype=rows.dtype, device=rows.device)
    for where, chunk in rows.chunks():
        norms[where] = torch.linalg.vector_norm(chunk, dim=1)
        if not torch.isfinite(norms[where]).all() or norms[where].max() > _LARGEST_NORM:
            _raise_for_bad_value(chunk, np.arange(rows.num_rows)[where] if indices is None else indices[where])
    return norms.square_()


def _raise_for_bad_value(chunk: Tensor, indices: np.ndarray) -> None:
    bad = (~torch.isfinite(chunk)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        kind = "NaN" if chunk[row, column].isnan() else "infinity"
        raise InputError(f"features row {indices[row]}, column {column} is {kind}; remove or fix that row")
    row, column = divmod(int(chunk.abs().argmax()), chunk.shape[1])
    raise InputError(
        f"features row {indices[row]}, column {column} is {chunk[row, column]:.3g}: float32 overflows in the products; "
        "divide the features by a constant (and multiply C by its square)"
    )


def _select_rows(
    rows: np.ndarray | None, total: int, labels: Any, sample_weight: Any
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Row indices in sorted order (files are read in order), with the labels and weights of exactly those rows."""
    labels = np.asarray(labels)
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weights is not None and (weights.shape != labels.shape or not np.isfinite(weights).all() or weights.min() < 0):
        raise InputError("sample_weight: expected one finite weight of at least 0 for each label")
    if rows is None:
        return None, labels, weights
    rows = check_rows(rows, total)
    order = np.argsort(rows, kind="stable")
    if len(labels) not in (total, len(rows)):
        raise InputError(f"{len(labels)} labels for {len(rows)} selected rows of {total}; give one label for each row")
    pick = rows[order] if len(labels) == total else order
    return rows[order], labels[pick], None if weights is None else weights[pick]


def _open_features(
    features: Any,
    rows: np.ndarray | None,
    labels: EncodedLabels,
    *,
    num_C: int,
    device: str | torch.device,
    storage: str,
    memory: int | None,
) -> tuple[FeatureRows, MemoryPlan]:
    """The rows, in memory as far as the budget allows, and the memory plan behind it."""
    total, num_features, device = len(labels.class_index), features.shape[1], torch.device(device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    convertible = _MAX_CONVERTED_BYTES if free is None else free / 3
    small = total <= FEW_ROWS or (memory is None and 4 * total * num_features <= convertible)
    if storage == "auto" and small and storage_type(features, storage) == torch.float16:
        storage = "float32"
    dtype = storage_type(features, storage)
    budget = free if memory is None else memory
    problems = num_C * labels.num_problems
    plan = plan_memory(total, num_features, problems, labels.num_problems, stored=dtype, memory=budget)
    return open_rows(features, rows, device=device, storage=storage, resident_rows=plan.resident_rows), plan


def _solve_primal_groups(
    matrix: FeatureMatrix,
    groups: Sequence[BinaryProblems],
    num_classes: int,
    sample_rows: int,
    *,
    tolerance: Tolerance,
    progress: Callable[[str], None] | None,
) -> Solution:
    """Solves one group of C values after another; the problems of a group share each pass."""
    hessian = SampledHessian(matrix, sample_rows=sample_rows)
    solutions: list[Solution] = []
    for problems in groups:
        classes = torch.arange(problems.signs.shape[1], device=problems.signs.device) % num_classes
        solutions.append(
            solve_primal(matrix, problems, hessian, classes=classes, tolerance=tolerance, progress=progress)
        )
    return Solution(*(torch.cat(each) for each in zip(*(part.tensors() for part in solutions), strict=True)))


def make_fits(
    solution: Solution, Cs: list[float], labels: EncodedLabels, matrix: FeatureMatrix, seconds: float
) -> list[LinearFit]:
    """A LinearFit for each C from the solution, which is ordered by C first and by class within each C."""
    weights, objective, gap, estimate, iterations = (part.detach().cpu().numpy() for part in solution.tensors())
    scaling, num_features, count = matrix.intercept_scaling, matrix.rows.num_features, labels.num_problems
    fits = []
    for number, C in enumerate(Cs):
        where = slice(number * count, (number + 1) * count)
        intercept = np.zeros(count) if scaling is None else weights[where, -1].astype(np.float64) * scaling
        fit = LinearFit(
            C=C,
            classes=labels.classes,
            coef=weights[where, :num_features].copy(),
            intercept=intercept,
            objective=objective[where],
            duality_gap=gap[where],
            error_estimate=estimate[where],
            n_iterations=int(iterations[where].max()),
            n_passes=matrix.num_passes,
            seconds=seconds,
        )
        fits.append(fit)
    return fits
