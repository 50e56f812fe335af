"""Protocols: splits and label subsets by invariance, C by value, results against scikit-learn, refusals."""

import numpy as np
import pytest
from helpers import feature_set
from sklearn.svm import LinearSVC

from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import evaluate
from evalkit.evaluation.label_subsets import make_label_subsets, sample_label_subset, split_validation
from evalkit.evaluation.protocol import Protocol
from evalkit.evaluation.selection import search_hyperparameter
from evalkit.probes.classifiers import RELEASE_C_GRID


def test_validation_is_stratified_disjoint_and_a_function_of_the_seed():
    features = feature_set()
    fit, validation = split_validation(features.labels, features.rows("train"), Protocol(seed=1))
    assert len(validation) == 40
    assert sorted([*fit, *validation]) == list(range(200))
    assert np.bincount(features.labels[validation]).tolist() in ([14, 13, 13], [13, 14, 13], [13, 13, 14])
    again = split_validation(features.labels, features.rows("train"), Protocol(seed=1))[1]
    other = split_validation(features.labels, features.rows("train"), Protocol(seed=2))[1]
    assert np.array_equal(validation, again)
    assert not np.array_equal(validation, other)


def test_label_subsets_are_balanced_and_differ():
    labels, rows = np.arange(90) % 3, np.arange(10, 80)
    first, second = (sample_label_subset(labels, rows, 7, seed=(0, i)) for i in (0, 1))
    assert np.bincount(labels[first]).tolist() == [7, 7, 7]
    assert len(set(first)) == 21
    assert set(first) <= set(rows)
    assert not np.array_equal(first, second)


def test_value_of_the_selected_C():
    scores = dict(zip(RELEASE_C_GRID, (0.5, 0.6, 0.7, 0.7, 0.6, 0.5, 0.4), strict=True))
    selection = search_hyperparameter(lambda Cs: [scores[C] for C in Cs], RELEASE_C_GRID)
    assert (selection.value, selection.search_range) == (5e-4, "extended 0.0001..0.01")  # the smaller of equals
    assert selection.scores == scores


@pytest.mark.parametrize(("peak", "search_range"), [(2e-6, "extended 1e-06..0.01"), (0.05, "extended 0.0001..0.1")])
def test_value_of_a_search_that_goes_beyond_an_end_that_is_best(peak, search_range):
    def score(Cs):
        return [1 - abs(np.log(C / peak)) / 100 for C in Cs]

    selection = search_hyperparameter(score, RELEASE_C_GRID, search_range="extended")
    assert selection.value == pytest.approx(peak, rel=1e-9)
    assert selection.search_range == search_range
    selection = search_hyperparameter(score, RELEASE_C_GRID, search_range="release")
    assert selection.value in (1e-4, 1e-2)
    end = "lower" if peak < 1e-4 else "upper"
    assert selection.search_range == f"release ({end} end best) 0.0001..0.01"


def test_value_of_equals_is_the_smallest_beyond_an_end_too():
    selection = search_hyperparameter(lambda Cs: [0.6 if C in (5e-5, 1e-4) else 0.5 for C in Cs], RELEASE_C_GRID)
    assert selection.value == 5e-5
    assert list(selection.scores) == [2e-5, 5e-5, *RELEASE_C_GRID]


@pytest.mark.parametrize(
    ("peak", "tried"),
    [
        (2e-4, [RELEASE_C_GRID[:3]]),
        (5e-4, [RELEASE_C_GRID[:3], RELEASE_C_GRID[3:6]]),
        (2e-5, [RELEASE_C_GRID[:3], (5e-5,), (2e-5,), (1e-5,)]),
        (1e-2, [RELEASE_C_GRID[:3], RELEASE_C_GRID[3:6], RELEASE_C_GRID[6:], (2e-2,)]),
    ],
)
def test_candidates_beyond_a_clear_fall_are_left_out_where_a_few_are_tried_at_once(peak, tried):
    calls = []

    def score(Cs):
        calls.append(tuple(Cs))
        return [1 - abs(np.log(C / peak)) / 100 for C in Cs]

    assert search_hyperparameter(score, RELEASE_C_GRID, at_once=3).value == pytest.approx(peak)
    assert calls == tried
    calls.clear()
    search_hyperparameter(score, RELEASE_C_GRID, search_range="release", at_once=3)
    assert calls == [RELEASE_C_GRID]


def test_search_continues_where_the_fall_may_be_chance():
    scores = dict(zip(RELEASE_C_GRID, (0.5, 0.603, 0.6, 0.605, 0.61, 0.609, 0.6), strict=True))
    assert search_hyperparameter(lambda Cs: [scores[C] for C in Cs], RELEASE_C_GRID, at_once=3).scores == scores


def test_reference_result_of_all_labels_equals_scikit_learn():
    features = feature_set()
    result = evaluate(features, Protocol(), device="cpu").result
    train, test = features.rows("train"), features.rows("test")
    fit, validation = split_validation(features.labels, train, Protocol())

    def fitted(C, rows):
        svm = LinearSVC(C=C, tol=1e-8, max_iter=100_000, random_state=0)
        return svm.fit(features.features[rows], features.labels[rows])

    best = fitted(result.C, fit).score(features.features[validation], features.labels[validation])
    assert result.validation_percent == pytest.approx(100 * best)
    for C in RELEASE_C_GRID:
        assert fitted(C, fit).score(features.features[validation], features.labels[validation]) <= best
    accuracy = fitted(result.C, train).score(features.features[test], features.labels[test])
    assert result.value == pytest.approx(100 * accuracy)
    assert result.uncertainty == pytest.approx(196 * np.sqrt(accuracy * (1 - accuracy) / 100))
    assert (result.n, result.n_train, result.n_validation, result.n_test) == (1, 200, 40, 100)
    assert result.duality_gap <= 1e-6


def test_reference_each_fold_is_scored_on_its_own_rows():
    features, protocol = feature_set(), Protocol(folds=3)
    result, label_subsets, shares = (
        evaluate(features, protocol, device="cpu").result,
        make_label_subsets(feature_set(), protocol),
        [],
    )
    for fit, validation in zip(label_subsets.select, label_subsets.validation, strict=True):
        svm = LinearSVC(C=result.C, tol=1e-8, max_iter=100_000, random_state=0)
        svm.fit(features.features[fit], features.labels[fit])
        shares.append(svm.score(features.features[validation], features.labels[validation]))
    assert result.validation_percent == pytest.approx(100 * np.mean(shares))


def test_reference_result_of_few_labels_equals_scikit_learn():
    features = feature_set()
    protocol = Protocol(labels_per_class=5, num_selection_subsets=3, num_test_subsets=6)
    result = evaluate(features, protocol, device="cpu").result
    test, (fit, _) = features.rows("test"), split_validation(features.labels, features.rows("train"), protocol)
    accuracies = []
    for i in range(3, 9):  # the label subsets after those that selected C
        rows = sample_label_subset(features.labels, fit, 5, seed=(0, i))
        svm = LinearSVC(C=result.C, tol=1e-8, max_iter=100_000, random_state=0)
        svm.fit(features.features[rows], features.labels[rows])
        accuracies.append(svm.score(features.features[test], features.labels[test]))
    assert result.value == pytest.approx(100 * np.mean(accuracies))
    assert result.uncertainty == pytest.approx(196 * np.std(accuracies))
    assert (result.n, result.n_train, result.protocol) == (6, 15, "5")


def test_test_labels_do_not_change_the_selected_C():
    features = feature_set()
    result = evaluate(features, Protocol(), device="cpu").result
    features.labels[features.rows("test")] = 0
    again = evaluate(features, Protocol(), device="cpu").result
    assert (result.C, result.validation_percent) == (again.C, again.validation_percent)


def test_svhn_results_are_error_rates():
    features = feature_set()
    accuracy = evaluate(features, Protocol(), device="cpu").result.value
    features.manifest["settings"]["dataset"] = "svhn"
    result = evaluate(features, Protocol(), device="cpu").result
    assert result.metric == "error_percent"
    assert result.value == pytest.approx(100 - accuracy)


def test_default_numbers_of_label_subsets_are_the_releases_unless_they_are_large():
    assert Protocol(100).with_counts(10).num_test_subsets == 100
    assert Protocol(100).with_counts(10).num_selection_subsets == 10
    assert Protocol(400).with_counts(10).num_test_subsets == 10
    assert Protocol(400, num_test_subsets=25).with_counts(10).num_test_subsets == 25


def one_class():
    features = feature_set(names=["cat", "dog", "bird"])
    features.labels[:] = 1
    return features


def label_out_of_range():
    features = feature_set()
    features.labels[3] = 7
    return features


@pytest.mark.parametrize(
    ("features", "protocol", "message"),
    [
        (one_class, {}, "all 200 training labels are 'dog', a fit needs two classes"),
        (label_out_of_range, {}, "train split: labels 0 to 7, expected 0 to 2"),
        (feature_set, {"labels_per_class": 60}, "needs 60 labels per class, class 0 has 53 outside validation"),
        (feature_set, {"labels_per_class": 0}, "labels_per_class = 0, expected at least 1"),
        (feature_set, {"c_grid": "all"}, "c_grid 'all', expected extended or release"),
    ],
)
def test_labels_and_protocols_that_cannot_be_evaluated_are_refused(features, protocol, message):
    with pytest.raises(EvalkitError, match=message):
        evaluate(features(), Protocol(**protocol), device="cpu")
