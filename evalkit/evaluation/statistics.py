"""Spreads of a figure, each with its name: over fits on several draws, or over the test images of a single fit.

Two figures compared pair by pair: on the same label draws by a t-test, on the same test images by McNemar's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from evalkit.errors import EvalkitError


@dataclass(frozen=True)
class Uncertainty:
    """A mean accuracy and how far it can be trusted; all are shares, not percent.

    Attributes:
        mean: over fits.
        half_width, kind: the ± of the published tables and its name.
        std: sample standard deviation over fits (n - 1); NaN for one fit.
        low, high, interval_kind: a 95 % interval and its name.
    """

    mean: float
    half_width: float
    type: str
    std: float
    low: float
    high: float
    interval_type: str

    def columns(self) -> dict[str, Any]:
        """What a figure says of it, in percent."""
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
    """Spreads of fits that were right on test images where `correct` (fits, images) says so."""
    accuracies = correct.mean(axis=1)
    return over_fits(accuracies) if len(accuracies) > 1 else over_images(float(accuracies[0]), correct.shape[1])


def over_fits(accuracies: np.ndarray) -> Uncertainty:
    """Several fits: 1.96 std as the release states it (n under the root, of single fits), and Student's interval."""
    count, mean = len(accuracies), float(accuracies.mean())
    std = float(accuracies.std(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * std / np.sqrt(count)
    released = 1.96 * float(accuracies.std())
    return Uncertainty(
        mean, released, "1.96 std over draws", std, mean - half, mean + half, "95% t interval of the mean"
    )


def over_images(accuracy: float, count: int) -> Uncertainty:
    """One fit on `count` test images: the binomial half width, and the bootstrap's percentiles.

    The number right in a resample of the images is binomial, so its percentiles need no resampling.
    """
    half = 1.96 * float(np.sqrt(accuracy * (1 - accuracy) / count))
    low, high = stats.binom.ppf([0.025, 0.975], count, accuracy) / count
    kinds = "95% binomial interval over test images", "95% bootstrap interval over test images"
    return Uncertainty(accuracy, half, kinds[0], float("nan"), float(low), float(high), kinds[1])


@dataclass(frozen=True)
class Comparison:
    """A minus B.

    Attributes:
        test: name of the test, with what was paired.
        difference: of accuracies, in percent points.
        low, high: its 95 % interval, in percent points; interval: what that is.
        p_value: two-sided, of no difference.
        pairs: fits, or test images that only one of the two gets right.
    """

    test: str
    difference: float
    low: float
    high: float
    interval: str
    p_value: float
    pairs: int


def compare_predictions(
    a: np.ndarray, b: np.ndarray, labels: np.ndarray, *, draws: tuple[str, str], names: tuple[str, str] = ("A", "B")
) -> Comparison:
    """Compares predictions (fits, test rows) of the same test rows: of several fits each, or of one each.

    Args:
        labels: true labels (test rows,).
        draws: hashes of the label draws that A and B were fitted on.
        names: for messages.

    Raises:
        EvalkitError: several fits on other draws, or not as many fits.
    """
    if len(a) != len(b):
        raise EvalkitError(
            f"{names[0]} has {len(a)} fits, {names[1]} {len(b)}: nothing to pair; measure one with the other's --draws"
        )
    correct = a == labels, b == labels
    if len(a) == 1:
        return mcnemar(correct[0][0], correct[1][0])
    if draws[0] != draws[1] or not draws[0]:
        raise EvalkitError(
            f"{names[0]} and {names[1]} were fitted on other label draws: nothing to pair; "
            "measure one with the other's --draws"
        )
    return paired_fits(correct[0].mean(axis=1), correct[1].mean(axis=1))


def paired_fits(a: np.ndarray, b: np.ndarray) -> Comparison:
    """Student's paired t-test over the accuracies of fits on the same draws (fits,).

    The draws share their test images, so the interval is of the mean over draws on these images.
    """
    if np.ptp(a - b) == 0:  # Student's t divides by the spread
        same, p_value = 100 * float((a - b).mean()), 1.0 if a[0] == b[0] else 0.0
        return Comparison("paired t-test over draws", same, same, same, "95% t interval", p_value, len(a))
    found = stats.ttest_rel(a, b)
    low, high = (100 * float(end) for end in found.confidence_interval(0.95))
    difference = 100 * float((a - b).mean())
    return Comparison("paired t-test over draws", difference, low, high, "95% t interval", float(found.pvalue), len(a))


def mcnemar(a: np.ndarray, b: np.ndarray) -> Comparison:
    """McNemar's exact test over test images that `a` and `b` (bool, one an image) get right."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    pairs, count = only_a + only_b, len(a)
    p_value = float(stats.binomtest(only_a, pairs).pvalue) if pairs else 1.0
    difference = (only_a - only_b) / count
    half = 1.96 * float(np.sqrt(pairs - (only_a - only_b) ** 2 / count)) / count
    ends = 100 * (difference - half), 100 * (difference + half)
    test = f"McNemar's exact test over {count:,} test images"
    return Comparison(test, 100 * difference, *ends, "95% normal interval", p_value, pairs)


def check_comparable(a: Mapping, b: Mapping, labels: tuple[np.ndarray, np.ndarray]) -> None:
    """Refuses run cards of other data sets or test images.

    Raises:
        EvalkitError: names both.
    """
    same = a["labels_sha256"] == b["labels_sha256"] and np.array_equal(*labels)
    if not same:
        named = " and ".join(f"{card['result']['encoder']} on {card['result']['dataset']}" for card in (a, b))
        raise EvalkitError(f"{named}: other test images, nothing to pair")
