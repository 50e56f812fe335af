"""FeatureSet.from_arrays against arrays made by hand and imported files; what it refuses; what importing it loads."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from evalkit import FeatureSet, describe_features, export_features, import_features, load_features
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.featureset import as_feature_set

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([1, 0, 1, 0, 1, 1])


def test_value_of_training_and_test_arrays():
    features = FeatureSet.from_arrays(X[:4], Y[:4], X[4:], Y[4:], name="mine", encoder="theirs")
    assert np.array_equal(features.features, X)
    assert features.labels.tolist() == [1, 0, 1, 0, 1, 1]
    assert features.splits == {"train": (0, 4), "test": (4, 6)}
    assert (features.dataset, features.encoder, features.path) == ("mine", "theirs", None)
    assert features.class_names == ["0", "1"]


def test_the_hash_is_that_of_the_same_features_on_disk(tmp_path):
    np.savez(tmp_path / "mine.npz", X_train=X[:4], y_train=Y[:4], X_test=X[4:], y_test=Y[4:])
    imported = import_features(tmp_path / "mine.npz", out=tmp_path / "mine")
    assert FeatureSet.from_arrays(X[:4], Y[:4], X[4:], Y[4:]).sha256 == imported.sha256
    assert FeatureSet.from_arrays(X[:4] + 1, Y[:4], X[4:], Y[4:]).sha256 != imported.sha256


def test_names_of_splits_order_the_rows():
    features = FeatureSet.from_arrays(X, Y, splits=["train", "test", "train", "train", "test", "train"])
    assert features.splits == {"train": (0, 4), "test": (4, 6)}
    assert np.array_equal(features.features, X[[0, 2, 3, 5, 1, 4]])
    assert features.labels.tolist() == [1, 1, 0, 1, 0, 1]


def test_ranges_of_splits_leave_other_rows_out():
    features = FeatureSet.from_arrays(X, Y, splits={"test": (4, 6), "train": (0, 3)})
    assert features.splits == {"test": (0, 2), "train": (2, 5)}
    assert np.array_equal(features.features, X[[4, 5, 0, 1, 2]])


@pytest.mark.parametrize(
    ("given", "kept"),
    [("float16", "float16"), ("float32", "float32"), ("uint8", "uint8"), ("float64", "float32"), ("int64", "float32")],
)
def test_types_that_stay_and_types_that_become_float32(given, kept):
    features = FeatureSet.from_arrays(X.astype(given), Y)
    assert features.features.dtype == kept
    assert np.array_equal(features.features, X)
    assert features.splits == {"train": (0, 6)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_that_require_gradients_are_taken(dtype):
    tensor = torch.from_numpy(X).to(dtype).requires_grad_()
    features = FeatureSet.from_arrays(tensor, torch.from_numpy(Y))
    assert np.array_equal(features.features, X)
    assert features.features.dtype == np.float32


def test_names_as_labels_and_class_names():
    assert FeatureSet.from_arrays(X[:2], ["dog", "cat"]).labels.tolist() == [1, 0]
    features = FeatureSet.from_arrays(X[:3], [2, -1, 0], class_names=["a", "b", "c"])
    assert features.labels.tolist() == [2, -1, 0]
    assert features.class_names == ["a", "b", "c"]


WRONG = {
    "maps": ((np.zeros((6, 2, 2)), Y), r"X: features of shape \(6, 2, 2\), expected \(N, D\).*reshape"),
    "lengths": ((X, Y[:5]), "y: 5 labels for 6 rows of features"),
    "columns": ((X, Y, X[:, :1], Y), "X_test: rows of 1 numbers, expected 2 as in X"),
    "one-hot": ((X, np.eye(6)), r"y: labels of shape \(6, 6\), expected one label per row; argmax"),
    "no labels": ((X, Y, X), "X_test and y_test: one of them is missing"),
    "mixed labels": ((X, Y, X[:1], ["dog"]), "labels are numbers in one part and names in another"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays_are_one_line(case):
    arrays, message = WRONG[case]
    with pytest.raises(EvalkitError, match=message):
        FeatureSet.from_arrays(*arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_in_float32_are_refused(value):
    wrong = X.astype(np.float64)
    wrong[4, 1] = value
    with pytest.raises(ArtifactError, match="mine: number 1 of row 4 is (nan|inf) as float32, expected finite numbers"):
        FeatureSet.from_arrays(wrong, Y, name="mine")


def test_splits_go_with_one_array():
    with pytest.raises(EvalkitError, match="X_test and splits: expected one of them"):
        FeatureSet.from_arrays(X, Y, X, Y, splits={"train": (0, 6)})
    with pytest.raises(EvalkitError, match="splits: expected splits as .* within 6 rows"):
        FeatureSet.from_arrays(X, Y, splits={"train": (0, 7)})
    with pytest.raises(EvalkitError, match=r"splits are <U5 \(2,\), expected the name of a split for each of 6 rows"):
        FeatureSet.from_arrays(X, Y, splits=["train", "test"])


def test_features_by_object_arrays_directory_name_or_latest(tmp_path):
    features = FeatureSet.from_arrays(X, Y)
    assert as_feature_set(features) is features
    assert as_feature_set((X, Y)).sha256 == features.sha256
    np.savez(tmp_path / "mine.npz", X_train=X[:4], y_train=Y[:4], X_test=X[4:], y_test=Y[4:])
    imported = import_features(tmp_path / "mine.npz", home=tmp_path / "home", name="one")
    assert as_feature_set(imported.path).path == imported.path
    assert as_feature_set("one", home=tmp_path / "home").path == imported.path
    assert load_features(home=tmp_path / "home").path == imported.path
    with pytest.raises(EvalkitError, match="no features: expected a feature set's directory, or home="):
        load_features()
    with pytest.raises(EvalkitError, match="int: expected a FeatureSet, a name or path, or arrays"):
        as_feature_set(3)


def test_features_in_memory_are_described_and_exported(tmp_path):
    features = FeatureSet.from_arrays(X[:4], Y[:4], X[4:], Y[4:])
    lines = describe_features(features).splitlines()
    assert lines[:2] == ["in memory", "6 x 2 float32, 0.00 GB"]
    assert lines[-1].split() == ["all", "0-1", f"{X.mean():.4f}", f"{X.std():.4f}", "0"]
    again = import_features(export_features(features, tmp_path / "a.npz"), out=tmp_path / "again")
    assert again.sha256 == features.sha256
    assert again.splits == features.splits


def test_imported_features_without_a_workspace_leave_no_file_behind(tmp_path):
    np.savez(tmp_path / "mine.npz", X_train=X[:4], y_train=Y[:4], X_test=X[4:], y_test=Y[4:])
    features = import_features(tmp_path / "mine.npz")
    assert np.array_equal(np.load(features.path / "features.npy"), X)
    folder = features.path.parents[1]
    assert folder.is_dir()
    del features
    assert not folder.exists()


def test_importing_featureset_loads_neither_torch_nor_encoders():
    script = "import sys; from evalkit import FeatureSet; print(*(name for name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    wrong = ("torch", "sklearn", "evalkit.gan", "evalkit.encoders", "evalkit.images")
    assert [name for name in loaded if name.startswith(wrong)] == []
