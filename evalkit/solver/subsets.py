"""L2-SVM fits of many small training sets: the label subsets of a few-label protocol, each at every C.

Rows are read and checked once for all subsets that fit the memory budget together. Each subset costs one Gram matrix;
on a CPU every thread solves subsets of its own with `l2svm_path`, which suits the small products and factors of a
subset better than all threads together. The fits of those subsets at all C are scored together, in one pass over the
evaluated rows.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from evalkit.solver.fit import FEW_ROWS, TOL, LinearFit, check_finite, l2svm_path, score_rows, to_labels
from evalkit.solver.memory import group_subsets, parse_memory
from evalkit.solver.problem import InputError, encode_labels
from evalkit.solver.rows import as_matrix, check_rows, open_rows, single_threaded_pool, storage_type


@dataclass(frozen=True)
class SubsetFits:
    """Predictions and certificates of S label subsets at every C.

    Attributes:
        Cs: the C values, in the order given.
        classes: (K,) sorted labels.
        predictions: labels (S, len(Cs), evaluated rows).
        objective: float64 (S, len(Cs), K), as in LinearFit.
        duality_gap: float64 (S, len(Cs), K), rigorous and relative to the objective.
        error_estimate: float64 (S, len(Cs), K).
        seconds: wall time of the call.
    """

    Cs: list[float]
    classes: np.ndarray
    predictions: np.ndarray
    objective: np.ndarray
    duality_gap: np.ndarray
    error_estimate: np.ndarray
    seconds: float


def l2svm_subsets(
    features: Any,
    labels: Any,
    subsets: Sequence[np.ndarray],
    Cs: Sequence[float],
    *,
    evaluate_rows: np.ndarray,
    tol: float = TOL,
    memory: int | str | None = None,
    device: str | torch.device = "cpu",
    class_weight: Mapping | str | None = None,
    fit_intercept: bool = True,
    intercept_scaling: float = 1.0,
    progress: Callable[[str], None] | None = None,
) -> SubsetFits:
    """Fits an L2-SVM on every subset at every C and predicts the labels of the rows to evaluate.

    Args:
        features: (N, D) numpy array, memory map, torch tensor or feature set.
        labels: the labels of all N rows.
        subsets: row indices of each training set; all have the same classes.
        Cs: weights of the losses.
        evaluate_rows: indices of the rows to predict.
        memory: bytes (or "4GB") that the whole call may use, 4 GB if None and the subsets have up to 4,000 rows; if the
            rows of all subsets exceed it, rows that several subsets share may be read more than once.
        tol, device, class_weight, fit_intercept, intercept_scaling: as for `l2svm_path`.
        progress: called with a line of text after every subset, and at every iteration of the primal solver.

    Raises:
        EvalkitError: invalid input.
        ConvergenceError: a fit missed `tol`.
    """
    start = time.perf_counter()
    features = as_matrix(features)
    labels, classes = _check_subsets(labels, subsets, len(features))
    evaluate_rows = check_rows(evaluate_rows, len(features))
    fit = partial(
        l2svm_path,
        Cs=Cs,
        tol=tol,
        device=device,
        class_weight=class_weight,
        fit_intercept=fit_intercept,
        intercept_scaling=intercept_scaling,
    )
    results = []
    for fits in _fit_subsets(features, labels, subsets, fit, classes=len(classes), memory=memory, progress=progress):
        results.append((_predict(features, fits, evaluate_rows, device), *_certificates(fits)))
    shape = (len(subsets), len(Cs), -1)
    predictions, objective, gap, estimate = (np.concatenate(each).reshape(shape) for each in zip(*results, strict=True))
    values = [float(C) for C in Cs]
    return SubsetFits(values, classes, predictions, objective, gap, estimate, time.perf_counter() - start)


def _check_subsets(labels: Any, subsets: Sequence[np.ndarray], total: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels as an array, and the classes; raises unless every subset has the same classes."""
    labels = np.asarray(labels)
    encode_labels(labels, total)
    classes = [np.unique(labels[check_rows(rows, total)]) for rows in subsets]
    for number, each in enumerate(classes):
        if not np.array_equal(each, classes[0]):
            given, expected = each.tolist(), classes[0].tolist()
            raise InputError(
                f"subset {number} has classes {given}, the first subset has {expected}; sample from every class"
            )
    return labels, classes[0]


def _fit_subsets(
    features: Any,
    labels: np.ndarray,
    subsets: Sequence[np.ndarray],
    fit: partial[list[LinearFit]],
    *,
    classes: int,
    memory: int | str | None,
    progress: Callable[[str], None] | None,
) -> Iterator[list[LinearFit]]:
    """The fits at all C of some subsets, in order, one group of subsets after another as the memory allows."""
    if max(map(len, subsets)) > FEW_ROWS:
        for rows in subsets:
            yield fit(features, labels[rows], rows=rows, memory=memory, progress=progress)
        return
    device = torch.device(fit.keywords["device"])
    threads = min(torch.get_num_threads() if device.type == "cpu" else 1, len(subsets))
    num_features, problems = features.shape[1], len(fit.keywords["Cs"]) * classes
    row_bytes = num_features * storage_type(features, "auto").itemsize
    budget = parse_memory(memory)
    count = 0
    for group in group_subsets(subsets, num_features, problems, row_bytes=row_bytes, threads=threads, memory=budget):
        fits: list[LinearFit] = []
        fit_subset = _fit_from_shared_rows(features, labels, group, fit, device)
        for subset_fits in _map_in_threads(fit_subset, group, threads):
            fits += subset_fits
            count += 1
            if progress is not None:
                progress(f"subset {count} of {len(subsets)}")
        yield fits


def _fit_from_shared_rows(
    features: Any,
    labels: np.ndarray,
    subsets: Sequence[np.ndarray],
    fit: partial[list[LinearFit]],
    device: torch.device,
) -> Callable[[np.ndarray], list[LinearFit]]:
    """A function that fits one subset, from the distinct rows of all subsets, which are read and checked here."""
    indices = np.unique(np.concatenate(subsets))
    shared = open_rows(features, indices, device=device)
    check_finite(shared, indices)
    return lambda rows: fit(shared.stored, labels[rows], rows=np.searchsorted(indices, rows))


def _map_in_threads(
    fit: Callable[[np.ndarray], list[LinearFit]], subsets: Sequence[np.ndarray], threads: int
) -> Iterator[list[LinearFit]]:
    """The fits of each subset in order; each thread solves subsets of its own on a single core."""
    if threads == 1:
        yield from map(fit, subsets)
        return
    with single_threaded_pool(threads) as pool:
        yield from pool.map(fit, subsets)


def _predict(features: Any, fits: list[LinearFit], rows: np.ndarray, device: str | torch.device) -> np.ndarray:
    """Labels predicted by each fit, (fits, rows), from one pass over the rows."""
    coef = np.concatenate([fit.coef for fit in fits])
    intercept = np.concatenate([fit.intercept for fit in fits])
    scores = score_rows(features, coef, intercept, rows=rows, device=device)
    scores = scores.reshape(len(scores), len(fits), -1).swapaxes(0, 1)
    classes = fits[0].classes
    return to_labels(classes, scores[..., 0] if len(classes) == 2 else scores)


def _certificates(fits: list[LinearFit]) -> tuple[np.ndarray, ...]:
    """Objectives, gaps and estimates, each (fits, K)."""
    columns = zip(*((fit.objective, fit.duality_gap, fit.error_estimate) for fit in fits), strict=True)
    return tuple(np.stack(each) for each in columns)
