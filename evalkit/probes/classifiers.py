"""Classifiers on frozen features: the L2-SVM, k nearest neighbours and logistic regression behind one interface.

Each has a hyperparameter that `evaluate` selects on validation, and a `predict` that makes many fits in one call. The
estimator for users of scikit-learn is `probes.l2svm`; the supervised CNN of the tables is `probes.supervised`.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from evalkit.errors import ConvergenceError, EvalkitError
from evalkit.neighbors import NearestNeighbors
from evalkit.solver import l2svm_subsets
from evalkit.solver.fit import TOL

RELEASE_C_GRID = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)  # the release's SVHN script
LOGISTIC_C_GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # ours; the search goes on beyond an end that is best
NEIGHBOURS = (1, 2, 5, 10, 20, 50)
_SCALE = "bring the features to a common scale with --scaling standardise (scaling='standardise')"
_KNN_BLOCK = 2048  # rows of either side at a time
_MAX_ITERATIONS = 5000  # of logistic regression
_CHUNK = 10_000  # rows that logistic regression predicts at a time


@dataclass(frozen=True)
class Predictions:
    """Predicted labels int64 (subsets, values, rows); the fits' worst duality gap and error estimate, where known."""

    labels: np.ndarray
    duality_gap: float = float("nan")
    error_estimate: float = float("nan")


@dataclass(frozen=True)
class SolverOptions:
    """How fits are computed.

    Attributes:
        device: as torch names it.
        memory: memory budget, e.g. "4GB"; None takes what the rows need.
        tol: largest relative error of a fit's objective, for classifiers that have one; None for their default.
        progress: called with a line at every step.
    """

    device: str = "cpu"
    memory: str | None = None
    tol: float | None = None
    progress: Callable[[str], None] | None = None


class Predict(Interface):
    """Fits every subset (row numbers) at every value of the hyperparameter, and predicts `evaluate_rows`."""

    def __call__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        subsets: Sequence[np.ndarray],
        values: Sequence[float],
        evaluate_rows: np.ndarray,
        options: SolverOptions,
    ) -> Predictions: ...


@dataclass(frozen=True)
class Classifier:
    """A classifier on frozen features.

    Attributes:
        display_name: its name in tables.
        hyperparameter: name of what validation selects, e.g. "C".
        candidates: values to try.
        predict: fits and predicts.
        extend_search: whether the search may go beyond an end of the candidates.
        bounds: values beyond which there is nothing to search.
    """

    display_name: str
    hyperparameter: str
    candidates: Sequence[float]
    predict: Predict
    extend_search: bool = True
    bounds: tuple[float, float] = (0.0, math.inf)


def classifier_named(name: str) -> Classifier:
    """A classifier by name.

    Raises:
        EvalkitError: no such classifier; the message lists them.
    """
    if name not in CLASSIFIERS:
        raise EvalkitError(f"{name}: no such classifier; choose {', '.join(CLASSIFIERS)}")
    return CLASSIFIERS[name]


def predict_svm(
    features: np.ndarray,
    labels: np.ndarray,
    subsets: Sequence[np.ndarray],
    values: Sequence[float],
    evaluate_rows: np.ndarray,
    options: SolverOptions,
) -> Predictions:
    """One L2-SVM for every subset and C, sharing what can be shared.

    Raises:
        ConvergenceError: a fit missed its tolerance.
    """
    try:
        fits = l2svm_subsets(
            features,
            labels,
            subsets,
            values,
            evaluate_rows=evaluate_rows,
            tol=TOL if options.tol is None else options.tol,
            device=options.device,
            memory=options.memory,
            progress=options.progress,
        )
    except ConvergenceError as error:
        raise ConvergenceError(f"{str(error).partition('; ')[0]}; {_SCALE}") from None
    except torch.linalg.LinAlgError:
        raise ConvergenceError(f"L2-SVM at C = {max(values):g}: the equations cannot be solved; {_SCALE}") from None
    return Predictions(fits.predictions, float(fits.duality_gap.max()), float(fits.error_estimate.max()))


def predict_knn(
    features: np.ndarray,
    labels: np.ndarray,
    subsets: Sequence[np.ndarray],
    values: Sequence[float],
    evaluate_rows: np.ndarray,
    options: SolverOptions,
) -> Predictions:
    """The most frequent label of the k nearest rows, of equals the smallest label, for every subset and k.

    Distances are Euclidean, memory is bounded. A k beyond the size of a subset takes all its rows.
    """
    predictions = np.empty((len(subsets), len(values), len(evaluate_rows)), np.int64)
    classes = int(labels.max()) + 1
    for number, rows in enumerate(subsets):
        for first in range(0, len(evaluate_rows), _KNN_BLOCK):
            block = slice(first, first + _KNN_BLOCK)
            neighbours = nearest(features, evaluate_rows[block], rows, count=int(max(values)), device=options.device)
            votes = np.eye(classes, dtype=np.int32)[labels[neighbours]]
            for index, k in enumerate(values):
                predictions[number, index, block] = votes[:, : int(k)].sum(1).argmax(1)
        if options.progress:
            options.progress(f"label subset {number + 1} of {len(subsets)}")
    return Predictions(predictions)


def nearest(features: np.ndarray, of: np.ndarray, among: np.ndarray, *, count: int, device: str = "cpu") -> np.ndarray:
    """The `count` of the rows `among` that are nearest to each of the rows `of`, int64 (of, count), nearest first."""
    neighbors = NearestNeighbors(_read(features, of, device), count=min(count, len(among)), distance="relative")
    for first in range(0, len(among), _KNN_BLOCK):
        rows = among[first : first + _KNN_BLOCK]
        neighbors.update(_read(features, rows, device), torch.as_tensor(rows, device=device))
    return neighbors.ids.cpu().numpy()


def _read(features: np.ndarray, rows: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(np.asarray(features[rows], np.float32)).to(device)


def predict_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    subsets: Sequence[np.ndarray],
    values: Sequence[float],
    evaluate_rows: np.ndarray,
    options: SolverOptions,
) -> Predictions:
    """One multinomial logistic regression (scikit-learn's, L-BFGS) for every subset and C; on the CPU, in memory.

    Each fit starts from the solution at the C before.

    Raises:
        ConvergenceError: a fit did not converge.
    """
    predictions = np.empty((len(subsets), len(values), len(evaluate_rows)), np.int64)
    for number, rows in enumerate(subsets):
        train = np.asarray(features[rows], np.float32)
        model = LogisticRegression(max_iter=_MAX_ITERATIONS, warm_start=True)
        for index, C in sorted(enumerate(values), key=lambda pair: pair[1]):
            _fit_logistic(model.set_params(C=C), train, labels[rows])
            for first in range(0, len(evaluate_rows), _CHUNK):
                chunk = slice(first, first + _CHUNK)
                test = np.asarray(features[evaluate_rows[chunk]], np.float32)
                predictions[number, index, chunk] = model.predict(test)
            if options.progress:
                options.progress(f"label subset {number + 1} of {len(subsets)}, C {C:g}")
    return Predictions(predictions)


def _fit_logistic(model: LogisticRegression, features: np.ndarray, labels: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(features, labels)
        except ConvergenceWarning as warning:
            why = str(warning).splitlines()[0]
            raise ConvergenceError(f"logistic regression at C = {model.C:g}: {why}; {_SCALE}") from None


SVM = Classifier("L2-SVM", "C", RELEASE_C_GRID, predict_svm)
KNN = Classifier("kNN", "k", NEIGHBOURS, predict_knn, extend_search=False, bounds=(1, math.inf))
LOGISTIC = Classifier("logistic regression", "C", LOGISTIC_C_GRID, predict_logistic)
CLASSIFIERS = {"svm": SVM, "knn": KNN, "logistic": LOGISTIC}
