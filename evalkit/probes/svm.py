"""The L2-SVM behind the classifiers' common interface."""

from collections.abc import Sequence

import numpy as np

from evalkit.probes.classifier import Classifier, FitOptions, Predictions
from evalkit.probes.l2svm import l2svm_draws
from evalkit.probes.l2svm.path import TOL

RELEASE_GRID = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)  # the release's SVHN script


def predict_svm(
    features: np.ndarray,
    labels: np.ndarray,
    draws: Sequence[np.ndarray],
    values: Sequence[float],
    evaluate_rows: np.ndarray,
    options: FitOptions,
) -> Predictions:
    """One fit for every draw and C, sharing what can be shared.

    Raises:
        ConvergenceError: a fit missed its tolerance.
    """
    fitted = l2svm_draws(
        features,
        labels,
        draws,
        values,
        evaluate_rows=evaluate_rows,
        tol=TOL if options.tol is None else options.tol,
        device=options.device,
        memory=options.memory,
        progress=options.progress,
    )
    gap, estimate = fitted.duality_gap.max(), fitted.error_estimate.max()
    return Predictions(fitted.predictions, float(gap), float(estimate))


SVM = Classifier("L2-SVM", "C", RELEASE_GRID, predict_svm)
