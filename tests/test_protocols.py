"""Protocols: splits and draws by invariance, C by value, figures against scikit-learn, refusals."""

import numpy as np
import pytest
from helpers import feature_set
from sklearn.svm import LinearSVC

from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import evaluate, search_hyperparameter
from evalkit.evaluation.label_subsets import make_label_subsets, sample_label_subset, split_validation
from evalkit.evaluation.protocol import Protocol
from evalkit.probes.classifiers import RELEASE_C_GRID


def test_validation_is_stratified_disjoint_and_a_function_of_the_seed():
    features = feature_set()
    fit, validation = split_validation(features.labels, features.rows("train"), Protocol(seed=1))
    assert len(validation) == 40 and sorted([*fit, *validation]) == list(range(200))
    assert np.bincount(features.labels[validation]).tolist() in ([14, 13, 13], [13, 14, 13], [13, 13, 14])
    again = split_validation(features.labels, features.rows("train"), Protocol(seed=1))[1]
    other = split_validation(features.labels, features.rows("train"), Protocol(seed=2))[1]
    assert np.array_equal(validation, again) and not np.array_equal(validation, other)


def test_draws_have_equal_classes_and_differ():
    labels, rows = np.arange(90) % 3, np.arange(10, 80)
    first, second = (sample_label_subset(labels, rows, 7, seed=(0, i)) for i in (0, 1))
    assert np.bincount(labels[first]).tolist() == [7, 7, 7] and len(set(first)) == 21
    assert set(first) <= set(rows) and not np.array_equal(first, second)


def test_value_of_the_chosen_C():
    scores = dict(zip(RELEASE_C_GRID, (0.5, 0.6, 0.7, 0.7, 0.6, 0.5, 0.4), strict=True))
    chosen = search_hyperparameter(lambda Cs: [scores[C] for C in Cs], RELEASE_C_GRID)
    assert (chosen.value, chosen.search_range) == (5e-4, "extended 0.0001..0.01")  # the smaller of equals
    assert chosen.scores == scores


@pytest.mark.parametrize(("peak", "search_range"), [(2e-6, "extended 1e-06..0.01"), (0.05, "extended 0.0001..0.1")])
def test_value_of_a_grid_that_goes_on_beyond_its_end(peak, search_range):
    def score(Cs):
        return [1 - abs(np.log(C / peak)) / 100 for C in Cs]

    chosen = search_hyperparameter(score, RELEASE_C_GRID, grid="extended")
    assert chosen.value == pytest.approx(peak, rel=1e-9) and chosen.search_range == search_range
    chosen = search_hyperparameter(score, RELEASE_C_GRID, grid="release")
    assert chosen.value in (1e-4, 1e-2) and chosen.search_range == "release 0.0001..0.01"


def test_value_of_the_smallest_of_equals_beyond_an_end():
    chosen = search_hyperparameter(lambda Cs: [0.6 if C in (5e-5, 1e-4) else 0.5 for C in Cs], RELEASE_C_GRID)
    assert chosen.value == 5e-5 and list(chosen.scores) == [2e-5, 5e-5, *RELEASE_C_GRID]


@pytest.mark.parametrize(
    ("peak", "tried"),
    [
        (2e-4, [RELEASE_C_GRID[:3]]),
        (5e-4, [RELEASE_C_GRID[:3], RELEASE_C_GRID[3:6]]),
        (2e-5, [RELEASE_C_GRID[:3], (5e-5,), (2e-5,), (1e-5,)]),
        (1e-2, [RELEASE_C_GRID[:3], RELEASE_C_GRID[3:6], RELEASE_C_GRID[6:], (2e-2,)]),
    ],
)
def test_values_beyond_a_clear_fall_are_left_out_where_a_few_are_tried_at_once(peak, tried):
    calls = []

    def score(Cs):
        calls.append(tuple(Cs))
        return [1 - abs(np.log(C / peak)) / 100 for C in Cs]

    assert search_hyperparameter(score, RELEASE_C_GRID, at_once=3).value == pytest.approx(peak) and calls == tried
    calls.clear()
    search_hyperparameter(score, RELEASE_C_GRID, grid="release", at_once=3)
    assert calls == [RELEASE_C_GRID]


def test_values_go_on_where_the_fall_may_be_chance():
    scores = dict(zip(RELEASE_C_GRID, (0.5, 0.603, 0.6, 0.605, 0.61, 0.609, 0.6), strict=True))
    assert search_hyperparameter(lambda Cs: [scores[C] for C in Cs], RELEASE_C_GRID, at_once=3).scores == scores


def test_reference_all_labels_figure_equals_scikit_learn():
    features = feature_set()
    figure = evaluate(features, Protocol(), device="cpu").result
    train, test = features.rows("train"), features.rows("test")
    fit, validation = split_validation(features.labels, train, Protocol())

    def fitted(C, rows):
        svm = LinearSVC(C=C, tol=1e-8, max_iter=100_000, random_state=0)
        return svm.fit(features.features[rows], features.labels[rows])

    best = fitted(figure.C, fit).score(features.features[validation], features.labels[validation])
    assert figure.validation_percent == pytest.approx(100 * best)
    for C in RELEASE_C_GRID:
        assert fitted(C, fit).score(features.features[validation], features.labels[validation]) <= best
    accuracy = fitted(figure.C, train).score(features.features[test], features.labels[test])
    assert figure.value == pytest.approx(100 * accuracy)
    assert figure.uncertainty == pytest.approx(196 * np.sqrt(accuracy * (1 - accuracy) / 100))
    assert (figure.n, figure.n_train, figure.n_validation, figure.n_test) == (1, 200, 40, 100)
    assert figure.duality_gap <= 1e-6


def test_reference_each_fold_is_judged_on_its_own_rows():
    features, protocol = feature_set(), Protocol(folds=3)
    figure, draws, shares = (
        evaluate(features, protocol, device="cpu").result,
        make_label_subsets(feature_set(), protocol),
        [],
    )
    for fit, judged in zip(draws.select, draws.validation, strict=True):
        svm = LinearSVC(C=figure.C, tol=1e-8, max_iter=100_000, random_state=0)
        svm.fit(features.features[fit], features.labels[fit])
        shares.append(svm.score(features.features[judged], features.labels[judged]))
    assert figure.validation_percent == pytest.approx(100 * np.mean(shares))


def test_reference_few_labels_figure_equals_scikit_learn():
    features = feature_set()
    protocol = Protocol(labels_per_class=5, num_selection_subsets=3, num_test_subsets=6)
    figure = evaluate(features, protocol, device="cpu").result
    test, (fit, _) = features.rows("test"), split_validation(features.labels, features.rows("train"), protocol)
    accuracies = []
    for i in range(3, 9):  # the draws after those that chose C
        rows = sample_label_subset(features.labels, fit, 5, seed=(0, i))
        svm = LinearSVC(C=figure.C, tol=1e-8, max_iter=100_000, random_state=0)
        svm.fit(features.features[rows], features.labels[rows])
        accuracies.append(svm.score(features.features[test], features.labels[test]))
    assert figure.value == pytest.approx(100 * np.mean(accuracies))
    assert figure.uncertainty == pytest.approx(196 * np.std(accuracies))
    assert (figure.n, figure.n_train, figure.protocol) == (6, 15, "5")


def test_test_labels_do_not_move_the_choice_of_C():
    features = feature_set()
    figure = evaluate(features, Protocol(), device="cpu").result
    features.labels[features.rows("test")] = 0
    again = evaluate(features, Protocol(), device="cpu").result
    assert (figure.C, figure.validation_percent) == (again.C, again.validation_percent)


def test_svhn_figures_are_errors():
    features = feature_set()
    accuracy = evaluate(features, Protocol(), device="cpu").result.value
    features.manifest["settings"]["dataset"] = "svhn"
    figure = evaluate(features, Protocol(), device="cpu").result
    assert figure.metric == "error_percent" and figure.value == pytest.approx(100 - accuracy)


def test_default_draws_are_the_releases_unless_a_draw_is_large():
    assert (
        Protocol(100).with_counts(10).num_test_subsets == 100
        and Protocol(100).with_counts(10).num_selection_subsets == 10
    )
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
        (label_out_of_range, {}, "training labels 0 to 7, expected 0 to 2"),
        (feature_set, {"labels_per_class": 60}, "draws 60 labels a class, class 0 has 53 outside validation"),
        (feature_set, {"labels_per_class": 0}, "labels_per_class = 0, expected at least 1"),
        (feature_set, {"c_grid": "all"}, "c_grid 'all', expected extended or release"),
    ],
)
def test_what_cannot_be_measured_is_refused(features, protocol, message):
    with pytest.raises(EvalkitError, match=message):
        evaluate(features(), Protocol(**protocol), device="cpu")
