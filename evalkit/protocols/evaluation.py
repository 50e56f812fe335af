"""Evaluation: a figure with everything that led to it, for run cards and paired comparisons."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evalkit.protocols.draws import Draws
from evalkit.results import Figure


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        figure: the row of results.csv.
        C_curve: (value, validation accuracy in percent) of every C tried, in order (of every k, for kNN).
        draws: the rows validated on and drawn.
        predictions: int64 (fits, test rows), predicted labels.
        test_rows, test_labels: int64 (test rows,).
        seconds: wall time by stage: "draw", "choose", "test".
    """

    figure: Figure
    C_curve: tuple[tuple[float, float], ...]
    draws: Draws
    predictions: np.ndarray
    test_rows: np.ndarray
    test_labels: np.ndarray
    seconds: Mapping[str, float]
