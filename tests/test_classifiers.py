"""Classifiers under a protocol: each against scikit-learn on the same rows, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import feature_set
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from evalkit.errors import ConvergenceError, EvalkitError
from evalkit.evaluation.evaluate import evaluate
from evalkit.evaluation.protocol import Protocol
from evalkit.probes import classifiers
from evalkit.probes.classifiers import (
    CLASSIFIERS,
    NEIGHBOURS,
    SVM,
    Predictions,
    SolverOptions,
    classifier_named,
    predict_knn,
    predict_logistic,
)


@pytest.mark.parametrize("block", [13, 2048])
def test_reference_knn_equals_scikit_learn(monkeypatch, block):
    monkeypatch.setattr(classifiers, "_KNN_BLOCK", block)
    features = feature_set()
    rows, test = features.rows("train")[::2], features.rows("test")
    predictions = predict_knn(features.features, features.labels, [rows], NEIGHBOURS, test, SolverOptions()).labels
    for index, k in enumerate(NEIGHBOURS):
        expected = KNeighborsClassifier(k).fit(features.features[rows], features.labels[rows])
        assert np.array_equal(predictions[0, index], expected.predict(features.features[test])), k


def test_knn_of_a_training_row_is_its_own_label_and_k_beyond_the_rows_takes_all():
    features = feature_set()
    rows = np.arange(30)
    predictions = predict_knn(features.features, features.labels, [rows], (1, 50), rows, SolverOptions()).labels[0]
    assert np.array_equal(predictions[0], features.labels[rows])
    assert set(predictions[1]) == {0}  # ten of each of three classes: the smallest label of equals


def test_reference_logistic_regression_equals_scikit_learn_without_warm_start():
    features = feature_set()
    subsets = [features.rows("train")[:90], features.rows("train")[90:]]
    test, Cs = features.rows("test"), (1.0, 0.01)
    predictions = predict_logistic(features.features, features.labels, subsets, Cs, test, SolverOptions()).labels
    for number, rows in enumerate(subsets):
        for index, C in enumerate(Cs):
            model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(
                features.features[rows], features.labels[rows]
            )
            agree = predictions[number, index] == model.predict(features.features[test])
            assert agree.mean() >= 0.99  # scikit-learn's default tolerance may turn an image on the border


def test_a_logistic_regression_that_does_not_converge_is_refused(monkeypatch):
    monkeypatch.setattr(classifiers, "_MAX_ITERATIONS", 2)
    with pytest.raises(
        ConvergenceError,
        match=r"logistic regression at C = 0.001: lbfgs failed to converge .*; bring the features to a common scale ",
    ):
        evaluate(feature_set(), Protocol(), classifier="logistic", device="cpu")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_runs_under_both_protocols(name):
    features = feature_set(count=150)
    for protocol in (Protocol(), Protocol(labels_per_class=5, num_selection_subsets=2, num_test_subsets=3)):
        evaluation = evaluate(features, protocol, classifier=name, device="cpu")
        correct = evaluation.predictions == evaluation.test_labels
        assert evaluation.result.value == pytest.approx(100 * correct.mean())
        assert 50 < evaluation.result.value <= 100
        assert evaluation.result.classifier == classifier_named(name).display_name
        assert evaluation.result.hyperparameter.startswith(classifier_named(name).hyperparameter + " = ")
        assert evaluation.result.search_range.startswith(
            "extended " if classifier_named(name).extend_search else "fixed "
        )
        values, scores = zip(*evaluation.validation_curve, strict=True)
        assert evaluation.result.validation_percent == max(scores)
        assert list(values) == sorted(values)


def test_tested_fits_are_more_exact_than_those_that_select():
    asked = []

    def recorded(features, labels, subsets, values, rows, options):
        asked.append((len(subsets), len(values), options.tol))
        return SVM.predict(features, labels, subsets, values, rows, options)

    protocol = Protocol(labels_per_class=5, num_selection_subsets=2, num_test_subsets=3)
    result = evaluate(
        feature_set(count=150), protocol, classifier=replace(SVM, predict=recorded, extend_search=False)
    ).result
    assert asked == [(2, 7, 1e-5), (3, 1, None)]
    assert result.error_estimate <= 1e-6


@pytest.mark.parametrize(("few", "calls"), [(200, [7, 1]), (100, [3, 1])])
def test_many_rows_are_not_fitted_at_every_value(few, calls, monkeypatch):
    monkeypatch.setattr("evalkit.evaluation.selection.FEW_ROWS", few)
    asked = []

    def best_at_the_second(features, labels, subsets, values, rows, options):
        asked.append(len(values))
        right = labels[rows][None, None].repeat(len(values), 1)
        for place, value in enumerate(values):
            right[0, place, : 0 if value == 2e-4 else 10] = -1
        return Predictions(right)

    features = feature_set()
    features.features[:] *= 10  # as large as a network's: no further candidates
    evaluation = evaluate(features, Protocol(), classifier=replace(SVM, predict=best_at_the_second))
    assert asked == calls
    assert evaluation.result.C == 2e-4
    assert len(evaluation.validation_curve) == calls[0]


@pytest.mark.parametrize(("tol", "named"), [(1e-30, "1.0e-30"), (0.0, "0.0e")])
def test_the_svm_is_fitted_to_the_tolerance_asked_for(tol, named):
    features = feature_set()
    rows, test = features.rows("train"), features.rows("test")
    with pytest.raises(ConvergenceError, match=f"expected at most {named}"):
        SVM.predict(features.features, features.labels, [rows], (1.0,), test, SolverOptions(tol=tol))


def test_an_unknown_classifier_lists_the_known():
    with pytest.raises(EvalkitError, match="svn: no such classifier; choose svm, knn, logistic"):
        evaluate(feature_set(), Protocol(), classifier="svn", device="cpu")
