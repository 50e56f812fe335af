"""What a protocol needs of a classifier: its name, the settings to choose from, and predictions of many fits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Predicted labels int64 (draws, values, rows); the fits' worst duality gap and error estimate where there are."""

    labels: np.ndarray
    duality_gap: float = float("nan")
    error_estimate: float = float("nan")


@dataclass(frozen=True)
class FitOptions:
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
        options: FitOptions,
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

    label: str
    letter: str
    values: Sequence[float]
    predict: Predict
    extends: bool = True
