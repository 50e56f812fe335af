"""Uncertainty of a result: over several fits, or over the test images of a single fit; each has its type.

`evaluate` and `nn_error` call `uncertainty_of` with what was predicted correctly, `verify` does it again.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Uncertainty:
    """A mean accuracy and its uncertainty, all as fractions.

    Attributes:
        mean: mean over fits.
        half_width, type: the ± of the published tables and its name.
        std: sample standard deviation over fits (n - 1); NaN for one fit.
        low, high, interval_type: a 95 % interval and its name.
    """

    mean: float
    half_width: float
    type: str
    std: float
    low: float
    high: float
    interval_type: str

    def columns(self) -> dict[str, Any]:
        """The columns of a result, in percent."""
        return {
            "value": 100 * self.mean,
            "uncertainty": 100 * self.half_width,
            "uncertainty_type": self.type,
            "std": 100 * self.std,
            "interval_low": 100 * self.low,
            "interval_high": 100 * self.high,
            "interval_type": self.interval_type,
        }


def uncertainty_of(correct: np.ndarray) -> Uncertainty:
    """Mean accuracy and uncertainty of fits; `correct` is bool (fits, test images)."""
    accuracies = correct.mean(axis=1)
    return over_fits(accuracies) if len(accuracies) > 1 else over_images(float(accuracies[0]), correct.shape[1])


def over_fits(accuracies: np.ndarray) -> Uncertainty:
    """Several fits: 1.96 std as in the release (ddof 0, of single fits), and Student's t interval of the mean."""
    count, mean = len(accuracies), float(accuracies.mean())
    std = float(accuracies.std(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * std / math.sqrt(count)
    return Uncertainty(
        mean=mean,
        half_width=1.96 * float(accuracies.std()),
        type="1.96 std over label subsets",
        std=std,
        low=mean - half,
        high=mean + half,
        interval_type="95% t interval of the mean",
    )


def over_images(accuracy: float, count: int) -> Uncertainty:
    """One fit on `count` test images: the binomial half width, and the bootstrap's percentiles.

    The number of correct images in a resample is binomial, so its percentiles need no resampling.
    """
    low, high = stats.binom.ppf([0.025, 0.975], count, accuracy) / count
    return Uncertainty(
        mean=accuracy,
        half_width=1.96 * float(np.sqrt(accuracy * (1 - accuracy) / count)),
        type="95% binomial interval over test images",
        std=float("nan"),
        low=float(low),
        high=float(high),
        interval_type="95% bootstrap interval over test images",
    )
