"""evaluate on arrays, feature sets and workspaces: results against scikit-learn, what is recorded, and where."""

import gc
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from helpers import feature_set
from sklearn.svm import LinearSVC

import evalkit
from evalkit import EvalkitError, FeatureSet, Protocol, ablate, compare, evaluate, label_curve
from evalkit.evaluation.label_subsets import make_label_subsets
from evalkit.results import read_results
from evalkit.workspace import Workspace


def arrays(count=300, columns=12, seed=0):
    """(X, y, X_test, y_test) of three Gaussian classes that overlap."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % 3
    X = (random.normal(size=(3, columns))[y] + 1.5 * random.normal(size=(count, columns))).astype("f4")
    half = count // 2
    return X[:half], y[:half], X[half:], y[half:]


@pytest.fixture
def no_files(tmp_path, monkeypatch):
    """Fails the test if it leaves a file in the current folder or in the folder of temporary files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_reference_arrays_equal_linear_svc(no_files):
    X, y, X_test, y_test = arrays()
    evaluation = evaluate(FeatureSet.from_arrays(X, y, X_test, y_test), device="cpu")
    svm = LinearSVC(C=evaluation.C, tol=1e-8, max_iter=100_000, random_state=0).fit(X, y)
    assert evaluation.value == pytest.approx(100 * svm.score(X_test, y_test))
    np.testing.assert_array_equal(evaluation.predictions[0], svm.predict(X_test))


def test_arrays_and_a_feature_set_of_them_give_the_same_result(no_files):
    made, given = (evaluate(x, labels_per_class=5, device="cpu") for x in (FeatureSet.from_arrays(*arrays()), arrays()))
    np.testing.assert_array_equal(given.predictions, made.predictions)
    assert given.result.features_sha256 == made.result.features_sha256


def test_scaled_arrays_leave_no_file(no_files):
    X, y, X_test, y_test = arrays()
    scaled = evaluate((X, y, X_test, y_test), scaling="standardise", device="cpu")
    mean, std = X.mean(0), X.std(0)
    by_hand = evaluate(((X - mean) / std, y, (X_test - mean) / std, y_test), device="cpu")
    assert scaled.result.scaling == "standardised"
    assert scaled.value == by_hand.value


def test_labels_per_class_is_short_for_a_protocol():
    short = evaluate(arrays(), labels_per_class=5, device="cpu")
    whole = evaluate(arrays(), Protocol(labels_per_class=5), device="cpu")
    assert short.result.label_subsets_sha256 == whole.result.label_subsets_sha256


def test_properties_are_those_of_the_row():
    evaluation = evaluate(arrays(), Protocol(5, num_test_subsets=3, num_selection_subsets=2), device="cpu")
    accuracies = 100 * (evaluation.predictions == evaluation.test_labels).mean(axis=1)
    low, high = evaluation.interval
    assert evaluation.value == pytest.approx(accuracies.mean())
    assert evaluation.uncertainty == pytest.approx(1.96 * accuracies.std())
    assert low < evaluation.value < high
    assert evaluation.result.hyperparameter == f"C = {evaluation.C:g}"


def test_a_workspace_gets_row_card_and_label_subsets(tmp_path):
    evaluation = evaluate(arrays(), home=tmp_path, device="cpu")
    row = read_results(tmp_path / "results.csv").iloc[0]
    assert (row["dataset"], row["encoder"]) == ("arrays", "arrays")
    assert (tmp_path / f"cards/{row['card']}.json").is_file()
    assert row["card"] == evaluation.result.card
    (file,) = Workspace(tmp_path).label_subsets.iterdir()
    assert file.name.startswith("arrays--all--")


def test_results_may_be_recorded_in_a_table_of_the_callers(tmp_path):
    evaluation = evaluate(arrays(), results=tmp_path / "mine.csv", device="cpu")
    assert read_results(tmp_path / "mine.csv")["card"].tolist() == [evaluation.result.card]
    assert not (tmp_path / "results.csv").exists()


def test_features_of_another_data_set_than_the_protocols_are_refused():
    with pytest.raises(EvalkitError, match="the protocol is for cifar10, the features are of arrays; run"):
        evaluate(arrays(), Protocol(dataset="cifar10"), device="cpu")


def test_no_features_and_no_workspace_are_refused():
    with pytest.raises(EvalkitError, match="no features: expected "):
        evaluate()


def test_ablation_and_curve_of_arrays_leave_no_file(no_files):
    features = feature_set()
    (layer,) = ablate(features, Protocol(), device="cpu")
    assert layer.value == evaluate(features, device="cpu").value
    curve = label_curve(features, labels=[2, None], num_test_subsets=2, num_selection_subsets=1, device="cpu")
    assert [result.n_train for result in curve.results] == [6, 200]
    assert (curve.csv, curve.png) == (None, None)


def test_the_ablation_samples_its_label_subsets_once(monkeypatch):
    features, calls = feature_set(), []
    features.layers[:] = [replace(features.layers[0], name=name) for name in "ab"]

    def counted(*arguments):
        calls.append(arguments)
        return make_label_subsets(*arguments)

    for module in ("ablation", "evaluate", "record"):
        monkeypatch.setattr(f"evalkit.evaluation.{module}.make_label_subsets", counted)
    assert len(list(ablate(features, Protocol(), device="cpu"))) == 2
    assert len(calls) == 1


def test_evaluations_are_compared_without_a_workspace():
    one = evaluate(arrays(), device="cpu")
    X, y, X_test, y_test = arrays()
    other = evaluate((X[:, :3], y, X_test[:, :3], y_test), device="cpu")
    comparison = compare(one, other)
    assert comparison.difference == pytest.approx(one.value - other.value)
    assert comparison.test == "McNemar's exact test over 150 test images"
    with pytest.raises(EvalkitError, match="arrays on arrays and gaussian on made: different test images"):
        compare(one, evaluate(feature_set(), device="cpu"))


def test_the_door_lists_what_the_commands_call():
    names = {
        "ablate",
        "baseline",
        "compare",
        "evaluate",
        "label_curve",
        "nn_error",
        "verify",
        "Protocol",
        "TrainingProbe",
    }
    assert names <= set(evalkit.__all__)
