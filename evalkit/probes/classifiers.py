"""What a protocol needs of a classifier: its name, the settings to choose from, and predictions of many fits.

The L2-SVM behind the classifiers' common interface.

k nearest neighbours by Euclidean distance, with k chosen on validation; bounded memory whatever the features.

Multinomial logistic regression (scikit-learn's, L-BFGS), with C chosen on validation.

Probes: classifiers on frozen features.
"""

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
from evalkit.solver import l2svm_subsets
from evalkit.solver.fit import TOL


@dataclass(frozen=True)
class Predictions:
    """Predicted labels int64 (draws, values, rows); the fits' worst duality gap and error estimate where there are."""

    labels: np.ndarray
    duality_gap: float = float("nan")
    error_estimate: float = float("nan")


@dataclass(frozen=True)
class SolverOptions:
    """How fits run: device by name, memory budget ("4GB"; None takes what the rows need), a display of steps.

    `tol` is the largest relative error of a fit's objective, where a classifier has one; None: its own.
    """

    device: str = "cpu"
    memory: str | None = None
    tol: float | None = None
    progress: Callable[[str], None] | None = None


class Predict(Interface):
    """Fits every draw (row numbers) at every value and predicts `evaluate_rows`."""

    def __call__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        draws: Sequence[np.ndarray],
        values: Sequence[float],
        evaluate_rows: np.ndarray,
        options: SolverOptions,
    ) -> Predictions: ...


@dataclass(frozen=True)
class Classifier:
    """A classifier on frozen features.

    Attributes:
        label: as tables name it.
        letter: name of the setting that validation chooses.
        values: its grid; extends: whether a grid may go on beyond an end.
        predict: fits and predicts.
    """

    display_name: str
    hyperparameter: str
    candidates: Sequence[float]
    predict: Predict
    extend_search: bool = True


RELEASE_C_GRID = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)  # the release's SVHN script


def predict_svm(
    features: np.ndarray,
    labels: np.ndarray,
    draws: Sequence[np.ndarray],
    values: Sequence[float],
    evaluate_rows: np.ndarray,
    options: SolverOptions,
) -> Predictions:
    """One fit for every draw and C, sharing what can be shared.

    Raises:
        ConvergenceError: a fit missed its tolerance.
    """
    fitted = l2svm_subsets(
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


SVM = Classifier("L2-SVM", "C", RELEASE_C_GRID, predict_svm)
NEIGHBOURS = (1, 2, 5, 10, 20, 50)
_BLOCK = 2048  # rows of either side at a time


def predict_knn(
    features: np.ndarray,
    labels: np.ndarray,
    draws: Sequence[np.ndarray],
    values: Sequence[float],
    evaluate_rows: np.ndarray,
    options: SolverOptions,
) -> Predictions:
    """The most frequent label of the k nearest, the smallest label of equals, for every draw and k.

    A k beyond the size of a draw takes all its rows.
    """
    found = np.empty((len(draws), len(values), len(evaluate_rows)), np.int64)
    classes = int(labels.max()) + 1
    for number, rows in enumerate(draws):
        for first in range(0, len(evaluate_rows), _BLOCK):
            part = slice(first, first + _BLOCK)
            near = nearest(features, evaluate_rows[part], rows, count=int(max(values)), device=options.device)
            votes = np.eye(classes, dtype=np.int32)[labels[near]]
            for index, k in enumerate(values):
                found[number, index, part] = votes[:, : int(k)].sum(1).argmax(1)
        if options.progress:
            options.progress(f"draw {number + 1} of {len(draws)}")
    return Predictions(found)


def nearest(features: np.ndarray, of: np.ndarray, among: np.ndarray, *, count: int, device: str = "cpu") -> np.ndarray:
    """Row numbers of the `count` rows `among` that are nearest to each row `of`, int64 (of, count), nearest first."""
    queries = _read(features, of, device)
    best = torch.full((len(of), 0), 0.0, device=device)
    index = torch.full((len(of), 0), 0, dtype=torch.int64, device=device)
    for first in range(0, len(among), _BLOCK):
        rows = among[first : first + _BLOCK]
        block = _read(features, rows, device)
        distances = torch.addmm(block.square().sum(1), queries, block.T, alpha=-2)  # without |query|^2, equal for all
        numbers = torch.as_tensor(rows, device=device).expand(len(of), -1)
        best, index = torch.cat([best, distances], 1), torch.cat([index, numbers], 1)
        order = torch.sort(best, dim=1, stable=True).indices[:, :count]
        best, index = best.gather(1, order), index.gather(1, order)
    return index.cpu().numpy()


def _read(features: np.ndarray, rows: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(np.asarray(features[rows], np.float32)).to(device)


KNN = Classifier("kNN", "k", NEIGHBOURS, predict_knn, extend_search=False)
GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # ours; validation goes on beyond an end
_ITERATIONS = 5000
_CHUNK = 10_000  # rows predicted at a time


def predict_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    draws: Sequence[np.ndarray],
    values: Sequence[float],
    evaluate_rows: np.ndarray,
    options: SolverOptions,
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
CLASSIFIERS = {"svm": SVM, "knn": KNN, "logistic": LOGISTIC}


def classifier_named(name: str) -> Classifier:
    """A classifier by name.

    Raises:
        EvalkitError: no such classifier; the message lists them.
    """
    if name not in CLASSIFIERS:
        raise EvalkitError(f"{name}: no such classifier; choose {', '.join(CLASSIFIERS)}")
    return CLASSIFIERS[name]
