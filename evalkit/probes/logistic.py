"""Multinomial logistic regression (scikit-learn's, L-BFGS), with C chosen on validation."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from evalkit.errors import ConvergenceError
from evalkit.probes.classifier import Classifier, FitOptions, Predictions

GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # ours; validation goes on beyond an end
_ITERATIONS = 5000
_CHUNK = 10_000  # rows predicted at a time


def predict_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    draws: Sequence[np.ndarray],
    values: Sequence[float],
    evaluate_rows: np.ndarray,
    options: FitOptions,
) -> Predictions:
    """One fit for every draw and C, each starting from the solution at the C before; on the CPU, draws in memory.

    Raises:
        ConvergenceError: a fit did not converge.
    """
    found = np.empty((len(draws), len(values), len(evaluate_rows)), np.int64)
    for number, rows in enumerate(draws):
        drawn = np.asarray(features[rows], np.float32)
        model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
        for index, C in sorted(enumerate(values), key=lambda pair: pair[1]):
            _fit(model.set_params(C=C), drawn, labels[rows])
            for first in range(0, len(evaluate_rows), _CHUNK):
                part = slice(first, first + _CHUNK)
                found[number, index, part] = model.predict(np.asarray(features[evaluate_rows[part]], np.float32))
            if options.progress:
                options.progress(f"draw {number + 1} of {len(draws)}, C {C:g}")
    return Predictions(found)


def _fit(model: LogisticRegression, features: np.ndarray, labels: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(features, labels)
        except ConvergenceWarning as warning:
            why = str(warning).splitlines()[0]
            raise ConvergenceError(f"logistic regression at C = {model.C:g}: {why}; scale the features") from None


LOGISTIC = Classifier("logistic regression", "C", GRID, predict_logistic)
