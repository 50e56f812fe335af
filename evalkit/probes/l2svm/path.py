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
from evalkit.probes.l2svm.kernel import gram_matrix, solve_kernel
from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.preconditioner import SampledHessian
from evalkit.probes.l2svm.primal import solve_primal
from evalkit.probes.l2svm.problem import Columns, Labels, check_costs, class_weights, encode_labels, make_columns
from evalkit.probes.l2svm.rows import as_matrix, check_finite, resident_rows

TOL = 1e-6  # relative to the objective; test accuracy is settled from 1e-5 on
FEW_ROWS = 4000  # up to here one Gram matrix is cheaper than passes
SAMPLE_ROWS = 6000  # of the sampled Hessian

Solved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # weights, objective, duality gap, error estimate, iterations


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
    progress: Callable[[str], None] | None = None,
) -> list[LinearFit]:
    """One fit for each C, in the order given, each proven to be within `tol` of its optimum.

    Args:
        features: (N, D) numpy array, memory map or torch tensor; float16 stays float16 in memory.
        labels: one label for each row chosen (of `rows` when given, else of all), or one for each row of `features`.
        Cs: weights of the losses, the larger the less regularised; positive.
        rows: numbers of the training rows; all when None.
        tol: largest relative error of each objective, by the solver's own estimate.
        memory: bytes (or "4GB") that features may take; beyond it they stream from the file.
        device: where to compute.
        storage: type rows are held in: "auto", "float16" or "float32".
        polish: go on until the rigorous duality gap, too, is at most 1e-4 (or `tol`, if larger).
        class_weight: None, "balanced", or a mapping of label to weight, with LinearSVC's meaning.
        sample_weight: one weight for each row chosen.
        fit_intercept: whether to learn an intercept; it is penalised, as in liblinear.
        intercept_scaling: value of the constant feature whose weight makes the intercept.
        progress: called with a line of text now and then.

    Nothing is random: the sample of rows that speeds the solver up is always the same one.
    Raises EvalkitError for wrong input, ConvergenceError when `tol` is missed.
    """
    start = time.perf_counter()
    values = check_costs(Cs)
    features = as_matrix(features)
    source = resident_rows(features, rows, device=torch.device(device), storage=storage)
    check_finite(source)
    encoded = encode_labels(chosen_labels(labels, rows, len(features)), source.count)
    passes = Passes(source, constant=intercept_scaling if fit_intercept else None)
    few = source.count <= FEW_ROWS
    columns = make_columns(
        encoded,
        sorted(values),
        weights=class_weights(encoded, class_weight, sample_weight),
        sample_weight=sample_weight,
        device=source.device,
        dtype=torch.float64 if few else source.dtype,
    )
    solved = _solve_few(passes, columns, tol) if few else _solve_many(passes, columns, tol, progress)
    seconds = time.perf_counter() - start
    fits = _fits(solved, sorted(values), encoded, passes, seconds)
    for fit in fits:
        check_converged(fit, tol)
    return [fits[sorted(values).index(C)] for C in values]


def chosen_labels(labels: Any, rows: np.ndarray | None, total: int) -> np.ndarray:
    """Labels of the chosen rows, from labels of all rows or of the chosen ones."""
    labels = np.asarray(labels)
    return labels[rows] if rows is not None and len(labels) == total != len(rows) else labels


def _solve_few(passes: Passes, columns: Columns, tol: float) -> Solved:
    """All columns from one Gram matrix, each C starting from the solution of the C below."""
    everything = torch.arange(passes.rows.count, device=passes.rows.device)
    gram = gram_matrix(passes.rows.take(everything), constant=passes.constant)
    solution = solve_kernel(gram, columns, tol=tol)
    weights = passes.weighted_rows(solution.beta.to(passes.rows.dtype))
    return weights, solution.objective, solution.duality_gap, solution.duality_gap, solution.steps


def _solve_many(passes: Passes, columns: Columns, tol: float, progress: Callable[[str], None] | None) -> Solved:
    hessian = SampledHessian(passes, size=min(SAMPLE_ROWS, passes.rows.count))
    start = columns.signs.new_zeros(columns.signs.shape[1], passes.width)
    solution = solve_primal(passes, columns, hessian, start=start, tol=tol)
    return (
        solution.weights,
        solution.objective,
        solution.duality_gap,
        solution.error_estimate,
        solution.iterations,
    )


def _fits(solved: Solved, Cs: list[float], labels: Labels, passes: Passes, seconds: float) -> list[LinearFit]:
    weights, objective, gap, estimate, steps = (part.detach().cpu().numpy() for part in solved)
    constant = passes.constant
    fits = []
    for number, C in enumerate(Cs):
        where = slice(number * labels.columns, (number + 1) * labels.columns)
        intercept = np.zeros(labels.columns) if constant is None else weights[where, -1].astype(np.float64) * constant
        fits.append(
            LinearFit(
                C=C,
                classes=labels.classes,
                coef=weights[where, : passes.rows.features].copy(),
                intercept=intercept,
                objective=objective[where].copy(),
                duality_gap=gap[where].copy(),
                error_estimate=estimate[where].copy(),
                n_iterations=int(steps[where].max()),
                n_passes=passes.count,
                seconds=seconds,
            )
        )
    return fits


def check_converged(fit: LinearFit, tol: float) -> None:
    """Raises ConvergenceError unless every problem of the fit is within `tol` by gap or estimate."""
    error = np.minimum(fit.duality_gap, fit.error_estimate)
    if not (error <= tol).all():
        worst = int(np.argmax(np.nan_to_num(error, nan=np.inf)))
        label = fit.classes[worst if len(fit.classes) > 2 else 1]
        raise ConvergenceError(
            f"L2-SVM at C = {fit.C:g}, class {label}: relative error {error[worst]:.1e}, expected at most {tol:.1e}; "
            "use a smaller C, a larger tol, or scale the features down"
        )
