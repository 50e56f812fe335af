"""Many small training sets at once: the label draws of a protocol, each with every C. Uses path.

Rows are read and checked once for all draws that fit the memory budget together. Each draw costs one Gram matrix; on a
CPU every thread takes draws of its own, which the small products and factors of a draw use better than all threads
together. The weights of those draws and all C are scored together, in one pass over the rows to evaluate.
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
from evalkit.solver.rows import as_matrix, check_rows, open_rows, single_threads, storage_type


@dataclass(frozen=True)
class SubsetFits:
    """Predictions and certificates of every draw and C.

    Attributes:
        Cs: the C values, in the order given.
        classes: (K,) sorted labels.
        predictions: labels (draws, Cs, evaluated rows).
        objective: float64 (draws, Cs, K), as in LinearFit.
        duality_gap: float64 (draws, Cs, K), rigorous and relative to the objective.
        error_estimate: float64 (draws, Cs, K).
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
    """Fits every draw at every C and predicts the rows to evaluate.

    Args:
        features: (N, D) numpy array, memory map, torch tensor or feature set.
        labels: of all N rows.
        draws: row numbers of each training set, all with the same classes.
        Cs: weights of the losses.
        evaluate_rows: row numbers to predict.
        memory: bytes (or "4GB") that all may take, 4 GB when None and draws are of up to 4,000 rows; where the rows of
            all draws exceed it, rows that several draws share may be read more than once.
        tol, device, class_weight, fit_intercept, intercept_scaling: as for `l2svm_path`.
        progress: called with a line of text after every draw, and at every step of the block solver.

    Raises:
        EvalkitError: wrong input.
        ConvergenceError: a fit missed `tol`.
    """
    start = time.perf_counter()
    features = as_matrix(features)
    labels, classes = _checked(labels, subsets, len(features))
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
    found = []
    for fits in _fits(features, labels, subsets, fit, classes=len(classes), memory=memory, progress=progress):
        found.append((_predictions(features, fits, evaluate_rows, device), *_certificates(fits)))
    shape = (len(subsets), len(Cs), -1)
    labels, objective, gap, estimate = (np.concatenate(each).reshape(shape) for each in zip(*found, strict=True))
    values = [float(C) for C in Cs]
    return SubsetFits(values, classes, labels, objective, gap, estimate, time.perf_counter() - start)


def _checked(labels: Any, subsets: Sequence[np.ndarray], total: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels as an array, and the classes, the same in every draw."""
    labels = np.asarray(labels)
    encode_labels(labels, total)
    classes = [np.unique(labels[check_rows(rows, total)]) for rows in subsets]
    for number, each in enumerate(classes):
        if not np.array_equal(each, classes[0]):
            given, expected = each.tolist(), classes[0].tolist()
            raise InputError(f"draw {number} has classes {given}, the first draw has {expected}; draw from every class")
    return labels, classes[0]


def _fits(
    features: Any,
    labels: np.ndarray,
    subsets: Sequence[np.ndarray],
    fit: partial[list[LinearFit]],
    *,
    classes: int,
    memory: int | str | None,
    progress: Callable[[str], None] | None,
) -> Iterator[list[LinearFit]]:
    """The fits of all C of some draws, in order, group by group as the memory allows."""
    if max(map(len, subsets)) > FEW_ROWS:
        for rows in subsets:
            yield fit(features, labels[rows], rows=rows, memory=memory, progress=progress)
        return
    device = torch.device(fit.keywords["device"])
    threads = min(torch.get_num_threads() if device.type == "cpu" else 1, len(subsets))
    width, columns = features.shape[1], len(fit.keywords["Cs"]) * classes
    row_bytes = width * storage_type(features, "auto").itemsize
    budget = parse_memory(memory)
    count = 0
    for group in group_subsets(subsets, width, columns, row_bytes=row_bytes, threads=threads, memory=budget):
        fits: list[LinearFit] = []
        for found in _in_threads(_from_pool(features, labels, group, fit, device), group, threads):
            fits += found
            count += 1
            if progress is not None:
                progress(f"draw {count} of {len(subsets)}")
        yield fits


def _from_pool(
    features: Any,
    labels: np.ndarray,
    subsets: Sequence[np.ndarray],
    fit: partial[list[LinearFit]],
    device: torch.device,
) -> Callable[[np.ndarray], list[LinearFit]]:
    """Fits of a draw from the distinct rows of all draws, read and checked here."""
    numbers = np.unique(np.concatenate(subsets))
    pool = open_rows(features, numbers, device=device)
    check_finite(pool, numbers)
    return lambda rows: fit(pool.stored, labels[rows], rows=np.searchsorted(numbers, rows))


def _certificates(fits: list[LinearFit]) -> tuple[np.ndarray, ...]:
    """Objectives, gaps and estimates, each (fits, K)."""
    columns = zip(*((fit.objective, fit.duality_gap, fit.error_estimate) for fit in fits), strict=True)
    return tuple(np.stack(each) for each in columns)


def _in_threads(
    fit: Callable[[np.ndarray], list[LinearFit]], subsets: Sequence[np.ndarray], threads: int
) -> Iterator[list[LinearFit]]:
    """The fits of each draw in order; several threads take draws of their own, each on one of torch's."""
    if threads == 1:
        yield from map(fit, subsets)
        return
    with single_threads(threads) as pool:
        yield from pool.map(fit, subsets)


def _predictions(features: Any, fits: list[LinearFit], rows: np.ndarray, device: str | torch.device) -> np.ndarray:
    """Labels (fits, rows) from one pass over the rows."""
    coef = np.concatenate([fit.coef for fit in fits])
    intercept = np.concatenate([fit.intercept for fit in fits])
    scores = score_rows(features, coef, intercept, rows=rows, device=device)
    scores = scores.reshape(len(scores), len(fits), -1).swapaxes(0, 1)
    classes = fits[0].classes
    return to_labels(classes, scores[..., 0] if len(classes) == 2 else scores)
