"""Spreads: each against scipy or numpy where these have the same statistic."""

import numpy as np
import pytest
from scipy import stats

from evalkit.evaluation.statistics import over_fits, over_images, uncertainty_of


def test_reference_over_fits():
    accuracies = np.array([0.61, 0.64, 0.6, 0.66, 0.63])
    found = over_fits(accuracies)
    assert found.std == pytest.approx(stats.tstd(accuracies))
    assert found.half_width == pytest.approx(1.96 * np.std(accuracies)) and found.type == "1.96 std over draws"
    interval = stats.t.interval(0.95, 4, accuracies.mean(), stats.sem(accuracies))
    assert (found.low, found.high) == pytest.approx(interval) and found.interval_type == "95% t interval of the mean"


@pytest.mark.parametrize(("right", "count"), [(731, 1000), (98, 100), (5, 40)])
def test_reference_over_images_is_scipys_bootstrap_without_its_noise(right, count):
    correct = np.arange(count) < right
    found = over_images(right / count, count)
    sampled = stats.bootstrap((correct,), np.mean, n_resamples=20_000, method="percentile", rng=0, batch=2000)
    low, high = sampled.confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=1.01 / count)  # an image: the grid of the means
    assert found.half_width == pytest.approx(1.96 * correct.std() / np.sqrt(count)) and np.isnan(found.std)


def test_all_right_has_no_spread_and_one_fit_is_judged_by_its_images():
    found = uncertainty_of(np.ones((1, 50), bool))
    assert (found.mean, found.half_width, found.low, found.high) == (1, 0, 1, 1)
    assert uncertainty_of(np.ones((2, 50), bool)).interval_type == "95% t interval of the mean"
