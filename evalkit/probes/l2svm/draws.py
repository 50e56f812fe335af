"""Many small training sets at once: the label draws of a protocol, each with every C. Uses the kernel solver.

Each draw costs one read of its rows and one Gram matrix; on a CPU every thread takes draws of its own, which the small
products and factors of a draw use better than all threads together. The weights of all draws and C are scored together,
in one pass over the rows to evaluate.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evalkit.probes.l2svm.fit import LinearFit, score_rows, to_labels
from evalkit.probes.l2svm.path import TOL, l2svm_path
from evalkit.probes.l2svm.problem import InputError


@dataclass(frozen=True)
class DrawFits:
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


def l2svm_draws(
    features: Any,
    labels: Any,
    draws: Sequence[np.ndarray],
    Cs: Sequence[float],
    *,
    evaluate_rows: np.ndarray,
    tol: float = TOL,
    device: str | torch.device = "cpu",
    class_weight: Mapping | str | None = None,
    fit_intercept: bool = True,
    intercept_scaling: float = 1.0,
    progress: Callable[[str], None] | None = None,
) -> DrawFits:
    """Fits every draw at every C and predicts the rows to evaluate.

    Args:
        features: (N, D) numpy array, memory map, torch tensor or feature set.
        labels: of all N rows.
        draws: row numbers of each training set, all with the same classes.
        Cs: weights of the losses.
        evaluate_rows: row numbers to predict.
        tol, device, class_weight, fit_intercept, intercept_scaling: as for `l2svm_path`.
        progress: called with a line of text after every draw.

    Raises:
        EvalkitError: wrong input.
        ConvergenceError: a fit missed `tol`.
    """
    start = time.perf_counter()
    labels = np.asarray(labels)

    def fit(rows: np.ndarray) -> list[LinearFit]:
        return l2svm_path(
            features,
            labels[rows],
            Cs,
            rows=rows,
            tol=tol,
            device=device,
            class_weight=class_weight,
            fit_intercept=fit_intercept,
            intercept_scaling=intercept_scaling,
        )

    fits: list[LinearFit] = []
    for number, found in enumerate(_in_threads(fit, draws, device)):
        fits += found
        if not np.array_equal(fits[-1].classes, fits[0].classes):
            given, expected = fits[-1].classes.tolist(), fits[0].classes.tolist()
            raise InputError(f"draw {number} has classes {given}, the first draw has {expected}; draw from every class")
        if progress is not None:
            progress(f"draw {number + 1} of {len(draws)}")
    shape = (len(draws), len(Cs), -1)
    return DrawFits(
        Cs=[float(C) for C in Cs],
        classes=fits[0].classes,
        predictions=_predictions(features, fits, evaluate_rows, device).reshape(*shape[:2], len(evaluate_rows)),
        objective=np.stack([fit.objective for fit in fits]).reshape(shape),
        duality_gap=np.stack([fit.duality_gap for fit in fits]).reshape(shape),
        error_estimate=np.stack([fit.error_estimate for fit in fits]).reshape(shape),
        seconds=time.perf_counter() - start,
    )


def _in_threads(
    fit: Callable[[np.ndarray], list[LinearFit]], draws: Sequence[np.ndarray], device: str | torch.device
) -> Iterator[list[LinearFit]]:
    """The fits of each draw in order; on a CPU as many draws at a time as torch has threads, each on one of them."""
    threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    if threads == 1 or len(draws) == 1:
        yield from map(fit, draws)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(fit, draws)
    finally:
        torch.set_num_threads(threads)  # the workers' setting is also that of threads that start later


def _predictions(features: Any, fits: list[LinearFit], rows: np.ndarray, device: str | torch.device) -> np.ndarray:
    """Labels (fits, rows) from one pass over the rows."""
    coef = np.concatenate([fit.coef for fit in fits])
    intercept = np.concatenate([fit.intercept for fit in fits])
    scores = score_rows(features, coef, intercept, rows=rows, device=device)
    scores = scores.reshape(len(scores), len(fits), -1).swapaxes(0, 1)
    classes = fits[0].classes
    return to_labels(classes, scores[..., 0] if len(classes) == 2 else scores)
