"""Many small training sets at once: the label draws of a protocol, each with every C. Uses the kernel solver.

Rows of all draws are read once, each draw costs one Gram matrix, and all weights are scored in one pass over the rows
to evaluate.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evalkit.probes.l2svm.fit import LinearFit, score_rows, to_labels
from evalkit.probes.l2svm.path import TOL, l2svm_path


@dataclass(frozen=True)
class DrawFits:
    """Predictions and certificates of every draw and C.

    Attributes:
        Cs: the C values, in the order given.
        predictions: labels (draws, Cs, evaluated rows).
        objective: float64 (draws, Cs, K) as in LinearFit.
        duality_gap: float64 (draws, Cs, K), rigorous and relative to the objective.
        error_estimate: float64 (draws, Cs, K).
        seconds: wall time of the call.
    """

    Cs: list[float]
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
        features: (N, D) numpy array, memory map or torch tensor.
        labels: of all N rows.
        draws: row numbers of each training set, all with the same classes.
        Cs: weights of the losses.
        evaluate_rows: row numbers to predict.
        tol, device, class_weight, fit_intercept, intercept_scaling, progress: as for `l2svm_path`.
    """
    start = time.perf_counter()
    fits: list[list[LinearFit]] = []
    for number, rows in enumerate(draws):
        fits.append(
            l2svm_path(
                features,
                np.asarray(labels)[rows],
                Cs,
                rows=rows,
                tol=tol,
                device=device,
                class_weight=class_weight,
                fit_intercept=fit_intercept,
                intercept_scaling=intercept_scaling,
            )
        )
        if progress is not None:
            progress(f"draw {number + 1} of {len(draws)}")
    flat = [fit for draw in fits for fit in draw]
    coef, intercept = np.concatenate([f.coef for f in flat]), np.concatenate([f.intercept for f in flat])
    scores = score_rows(features, coef, intercept, rows=evaluate_rows, device=device)
    shape = (len(draws), len(Cs), -1)
    scores = scores.T.reshape(*shape, len(evaluate_rows)).swapaxes(2, 3)
    classes = flat[0].classes
    return DrawFits(
        Cs=[float(C) for C in Cs],
        predictions=to_labels(classes, scores[..., 0] if len(classes) == 2 else scores),
        objective=np.stack([f.objective for f in flat]).reshape(shape),
        duality_gap=np.stack([f.duality_gap for f in flat]).reshape(shape),
        error_estimate=np.stack([f.error_estimate for f in flat]).reshape(shape),
        seconds=time.perf_counter() - start,
    )
