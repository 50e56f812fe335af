"""Spreads of a figure, each with its name: over fits on several draws, or over the test pictures of a single fit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Spread:
    """A mean accuracy and how far it can be trusted; all are shares, not percent.

    Attributes:
        mean: over fits.
        half_width, kind: the ± of the published tables and its name.
        std: sample standard deviation over fits (n - 1); NaN for one fit.
        low, high, interval_kind: a 95 % interval and its name.
    """

    mean: float
    half_width: float
    kind: str
    std: float
    low: float
    high: float
    interval_kind: str

    def columns(self) -> dict[str, Any]:
        """What a figure says of it, in percent."""
        return {
            "value": 100 * self.mean,
            "spread": 100 * self.half_width,
            "spread_kind": self.kind,
            "std": 100 * self.std,
            "interval_low": 100 * self.low,
            "interval_high": 100 * self.high,
            "interval_kind": self.interval_kind,
        }


def spread_of(correct: np.ndarray) -> Spread:
    """Spreads of fits that were right on test pictures where `correct` (fits, pictures) says so."""
    accuracies = correct.mean(axis=1)
    return over_fits(accuracies) if len(accuracies) > 1 else over_pictures(float(accuracies[0]), correct.shape[1])


def over_fits(accuracies: np.ndarray) -> Spread:
    """Several fits: 1.96 std as the release states it (n under the root, of single fits), and Student's interval."""
    count, mean = len(accuracies), float(accuracies.mean())
    std = float(accuracies.std(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * std / np.sqrt(count)
    released = 1.96 * float(accuracies.std())
    return Spread(mean, released, "1.96 std over draws", std, mean - half, mean + half, "95% t interval of the mean")


def over_pictures(accuracy: float, count: int) -> Spread:
    """One fit on `count` test pictures: the binomial half width, and the bootstrap's percentiles.

    The number right in a resample of the pictures is binomial, so its percentiles need no resampling.
    """
    half = 1.96 * float(np.sqrt(accuracy * (1 - accuracy) / count))
    low, high = stats.binom.ppf([0.025, 0.975], count, accuracy) / count
    kinds = "95% binomial interval over test pictures", "95% bootstrap interval over test pictures"
    return Spread(accuracy, half, kinds[0], float("nan"), float(low), float(high), kinds[1])
