"""The search for C follows the features' scale: results against scikit-learn, what is tried, and what is reported."""

import logging

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from evalkit import EvalkitError, Protocol, evaluate
from evalkit.errors import ConvergenceError
from evalkit.evaluation.selection import Scale, further_candidates, scale_of, search_hyperparameter
from evalkit.probes.classifiers import LOGISTIC_C_GRID, RELEASE_C_GRID


def arrays(shares, columns=24, sep=0.5, count=300):
    """(X, y, X_test, y_test) of overlapping Gaussian classes with these shares of the rows."""
    random = np.random.default_rng(0)
    y = random.choice(len(shares), 2 * count, p=shares)
    X = sep * random.normal(size=(len(shares), columns))[y] + random.normal(size=(2 * count, columns))
    return X[:count].astype("f4"), y[:count], X[count:].astype("f4"), y[count:]


def softmax(X):
    powers = np.exp(X - X.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


FORMS = {
    "norm 1": lambda X: X / np.linalg.norm(X, axis=1, keepdims=True),
    "softmax": softmax,
    "times 0.01": lambda X: X / 100,
    "times 300": lambda X: X * 300,
    "centered norm 0.3": lambda X: 0.3 * (X - X.mean()) / np.linalg.norm(X, axis=1, keepdims=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_reference_features_of_any_scale_are_no_worse_than_linear_svc_at_its_best(form):
    X, y, X_test, y_test = arrays((0.25, 0.75))
    X, X_test = FORMS[form](X), FORMS[form](X_test)
    evaluation = evaluate((X, y, X_test, y_test), device="cpu")
    scale = X.std()
    models = [LinearSVC(C=C, dual=False).fit(X / scale, y) for C in (1e-3, 1e-2, 1e-1)]
    best = max(100 * model.score(X_test / scale, y_test) for model in models)
    assert evaluation.value > best - 5
    assert set(RELEASE_C_GRID) <= {value for value, _ in evaluation.validation_curve}


def test_the_candidates_follow_the_scale_of_the_features():
    X, y, X_test, y_test = arrays((0.25, 0.75))
    unit = FORMS["norm 1"](X), y, FORMS["norm 1"](X_test), y_test
    assert {0.1, 1, 10} <= {value for value, _ in evaluate(unit, device="cpu").validation_curve}
    large = 300 * X, y, 300 * X_test, y_test
    assert {1e-8, 1e-7, 1e-6, 1e-5} <= {value for value, _ in evaluate(large, device="cpu").validation_curve}


def test_a_scale_that_the_solver_cannot_follow_is_refused_and_the_option_helps():
    X, y, X_test, y_test = arrays((0.8, 0.2), columns=20)
    tiny = X * np.float32(1e-6), y, X_test * np.float32(1e-6), y_test
    with pytest.raises(ConvergenceError, match="--scaling standardise"):
        evaluate(tiny, device="cpu")
    standardised = evaluate((X, y, X_test, y_test), scaling="standardise", device="cpu").value
    assert evaluate(tiny, scaling="standardise", device="cpu").value == pytest.approx(standardised, abs=1)


def test_the_released_networks_features_get_no_further_candidates():
    assert further_candidates(RELEASE_C_GRID, Scale(squared_norm=24_900, variance=11_000)) == []
    assert further_candidates(RELEASE_C_GRID, Scale(squared_norm=35_000, variance=14_000)) == []


def test_value_of_further_candidates():
    assert further_candidates(RELEASE_C_GRID, Scale(1, 1)) == [0.1, 1, 10]
    assert further_candidates(RELEASE_C_GRID, Scale(1e6, 1e5)) == [1e-8, 1e-7, 1e-6, 1e-5]
    assert further_candidates(RELEASE_C_GRID, Scale(1e6, 1)) == [1e-8, 1e-7, 1e-6, 1e-5, 0.1, 1, 10]
    assert further_candidates(LOGISTIC_C_GRID, Scale(0.1, 0.1)) == [100]
    assert further_candidates(RELEASE_C_GRID, Scale(5, 0)) == []  # constant features


def test_reference_scale_is_the_second_moment_and_the_variance():
    X = np.random.default_rng(0).normal(3, 2, (300, 7)).astype("f4")
    scale = scale_of(X, np.arange(300))
    assert scale.squared_norm == pytest.approx((X.astype("f8") ** 2).sum(1).mean())
    assert scale.variance == pytest.approx(X.astype("f8").var(0).sum())


def test_a_tie_is_broken_towards_the_middle_of_the_plateau():
    plateau = (5e-4, 1e-3, 2e-3)
    selection = search_hyperparameter(lambda Cs: [0.7 if C in plateau else 0.6 for C in Cs], RELEASE_C_GRID)
    assert selection.value == 1e-3
    release = search_hyperparameter(
        lambda Cs: [0.7 if C in plateau else 0.6 for C in Cs], RELEASE_C_GRID, search_range="release"
    )
    assert (release.value, release.search_range) == (5e-4, "release 0.0001..0.01")


def test_a_tie_of_all_candidates_is_followed_both_ways_until_accuracy_falls():
    selection = search_hyperparameter(lambda Cs: [0.7 if 1e-5 <= C <= 0.1 else 0.6 for C in Cs], RELEASE_C_GRID)
    assert selection.search_range == "extended 5e-06..0.2"
    assert selection.value == 1e-3


@pytest.mark.parametrize(
    ("score", "ends"),
    [
        (lambda C: 0.5 + 1e-6 * np.log(C), "(upper end best)"),
        (lambda C: 0.5 - 1e-6 * np.log(C), "(lower end best)"),
        (lambda C: 0.5, "(lower and upper end best)"),
    ],
)
def test_an_end_that_is_still_best_is_in_the_search_range(score, ends):
    selection = search_hyperparameter(lambda Cs: [score(C) for C in Cs], RELEASE_C_GRID)
    assert ends in selection.search_range
    assert selection.search_range.startswith("extended ")


def rising(values):
    return [0.5 + value / 100 for value in values]


def test_no_end_of_a_search_without_neighbours_is_reported():
    trials = search_hyperparameter(rising, [1, 2, 3], search_range="fixed", bounds=(1, 3))
    assert trials.search_range == "fixed 1..3"
    ks = search_hyperparameter(rising, [1, 2, 3], search_range="fixed", bounds=(1, 9))
    assert ks.search_range == "fixed (upper end best) 1..3"


def test_an_end_that_is_still_best_is_logged_and_the_option_named(caplog):
    X, y, X_test, y_test = arrays((0.5, 0.5))
    unit = X / 1000, y, X_test / 1000, y_test
    with caplog.at_level(logging.WARNING, "evalkit"):
        result = evaluate(unit, Protocol(c_grid="release"), device="cpu").result
    assert "end best" in result.search_range
    assert "; --c-grid extended searches further" in caplog.text


def test_values_whose_fits_do_not_converge_are_left_out():
    def score(Cs):
        if max(Cs) > 2e-3:
            raise ConvergenceError("no")
        return [0.5 - abs(np.log(C / 5e-4)) / 100 for C in Cs]

    selection = search_hyperparameter(score, RELEASE_C_GRID)
    assert (selection.value, selection.search_range) == (5e-4, "extended 0.0001..0.002")
    with pytest.raises(EvalkitError, match="no"):
        search_hyperparameter(score, RELEASE_C_GRID, search_range="release")
    with pytest.raises(EvalkitError, match="no"):
        search_hyperparameter(score, RELEASE_C_GRID, scale=Scale(1, 1))
