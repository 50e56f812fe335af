"""Uncertainty of results: each statistic against scipy or numpy."""

import numpy as np
import pytest
from scipy import stats

from evalkit.evaluation.statistics import over_fits, over_images, uncertainty_of


def test_reference_over_fits():
    accuracies = np.array([0.61, 0.64, 0.6, 0.66, 0.63])
    uncertainty = over_fits(accuracies)
    assert uncertainty.std == pytest.approx(stats.tstd(accuracies))
    assert uncertainty.half_width == pytest.approx(1.96 * np.std(accuracies))
    assert uncertainty.type == "1.96 std over label subsets"
    interval = stats.t.interval(0.95, 4, accuracies.mean(), stats.sem(accuracies))
    assert (uncertainty.low, uncertainty.high) == pytest.approx(interval)
    assert uncertainty.interval_type == "95% t interval of the mean"


@pytest.mark.parametrize(("right", "count"), [(731, 1000), (98, 100), (5, 40)])
def test_reference_over_images_is_scipys_bootstrap_without_its_noise(right, count):
    correct = np.arange(count) < right
    uncertainty = over_images(right / count, count)
    sampled = stats.bootstrap((correct,), np.mean, n_resamples=20_000, method="percentile", rng=0, batch=2000)
    low, high = sampled.confidence_interval
    assert (uncertainty.low, uncertainty.high) == pytest.approx(
        (low, high), abs=1.01 / count
    )  # an image: the grid of the means
    assert uncertainty.half_width == pytest.approx(1.96 * correct.std() / np.sqrt(count))
    assert np.isnan(uncertainty.std)


def test_no_errors_have_no_uncertainty_and_one_fit_gets_an_interval_over_images():
    uncertainty = uncertainty_of(np.ones((1, 50), bool))
    assert (uncertainty.mean, uncertainty.half_width, uncertainty.low, uncertainty.high) == (1, 0, 1, 1)
    assert uncertainty_of(np.ones((2, 50), bool)).interval_type == "95% t interval of the mean"
