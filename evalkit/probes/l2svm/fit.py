"""A fitted linear classifier on all classes, and scoring with one or many of them in a single pass over the rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evalkit.errors import ConvergenceError
from evalkit.probes.l2svm.finite import check_finite
from evalkit.probes.l2svm.opening import as_matrix, open_rows
from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.problem import InputError, Labels, Solution


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
    scores = Passes(source, constant=None).scores(torch.as_tensor(coef, dtype=source.dtype, device=source.device))
    if not torch.isfinite(scores).all():
        check_finite(source, rows)
    biases = torch.as_tensor(intercept, dtype=scores.dtype, device=scores.device)
    return (scores + biases).cpu().numpy()


def to_labels(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Labels from scores (..., K), or from (...) for two classes, where the second is positive."""
    return classes[(scores > 0).astype(np.int64) if len(classes) == 2 else scores.argmax(-1)]


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
