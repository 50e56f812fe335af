"""Protocols by name, folds, selection on test, and label subsets as files: invariances, round trip, refusals."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner
from helpers import feature_set
from torchvision.datasets import SVHN

from evalkit.artifacts import sha256_json
from evalkit.cli import main
from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import evaluate
from evalkit.evaluation.label_subsets import make_label_subsets, read_label_subsets, write_label_subsets
from evalkit.evaluation.protocol import Protocol, protocol_named
from evalkit.features.pooling import Layer
from evalkit.results import read_results

FEW = Protocol(labels_per_class=5, num_selection_subsets=3, num_test_subsets=4)


def test_value_of_protocols_by_name():
    assert protocol_named("cifar10") == Protocol(dataset="cifar10")
    assert protocol_named("cifar10-jpeg:400") == Protocol(400, dataset="cifar10-jpeg")
    svhn = protocol_named("svhn:1000")  # 1,000 in total: Radford et al. 2016, table 2
    assert (svhn.dataset, svhn.labels_per_class, svhn.validation) == ("svhn", 100, 10_000)
    assert (svhn.c_grid, svhn.num_selection_subsets, svhn.num_test_subsets) == ("release", 10, 100)
    for wrong in ("cifar10:", "cifar10:many", "cifar10:0", ":5"):
        with pytest.raises(EvalkitError, match="expected DATASET or DATASET:LABELS_PER_CLASS, such as cifar10, "):
            protocol_named(wrong)


def test_all_labels_are_one_subset_of_all_rows():
    label_subsets = make_label_subsets(feature_set(), Protocol())
    assert np.array_equal(label_subsets.test[0], np.arange(200))
    assert np.array_equal(np.union1d(label_subsets.select[0], label_subsets.validation[0]), np.arange(200))
    assert len(np.intersect1d(label_subsets.select[0], label_subsets.validation[0])) == 0


@pytest.mark.parametrize(
    "protocol", [Protocol(folds=4), Protocol(labels_per_class=5, num_selection_subsets=8, num_test_subsets=2, folds=4)]
)
def test_folds_partition_the_training_rows_and_are_fitted_without_themselves(protocol):
    label_subsets = make_label_subsets(feature_set(), protocol)
    assert np.array_equal(np.sort(np.concatenate(label_subsets.validation)), np.arange(200))
    assert len(label_subsets.validation) == 4
    for number, rows in enumerate(label_subsets.select):
        assert len(np.intersect1d(rows, label_subsets.validation[number % 4])) == 0
    assert evaluate(feature_set(), protocol, label_subsets=label_subsets, device="cpu").result.n_validation == 50


def test_selection_on_test_says_so_and_is_the_best_on_test():
    """On test the best value of the curve is the result itself: the selection is biased, and the row shows it."""
    biased = evaluate(feature_set(), Protocol(select_on="test"), device="cpu").result
    assert biased.select_on == "test"
    assert biased.value == pytest.approx(biased.validation_percent)
    honest = evaluate(feature_set(), Protocol(), device="cpu").result
    assert biased.value >= honest.value
    assert honest.select_on == "validation"


@pytest.mark.parametrize("protocol", [Protocol(), FEW, Protocol(folds=3), Protocol(select_on="test")])
def test_round_trip_of_a_file_gives_the_same_result(tmp_path, protocol):
    features = feature_set()
    first = evaluate(features, protocol, device="cpu")
    path = write_label_subsets(tmp_path / "subsets", first.label_subsets)
    assert write_label_subsets(tmp_path / "subsets", first.label_subsets) == path
    assert first.label_subsets.sha256[:12] in path.name
    label_subsets = read_label_subsets(path, features)
    assert label_subsets.sha256 == first.label_subsets.sha256
    # another seed and number of labels in the settings: the file's rows are what counts
    again = evaluate(features, Protocol(labels_per_class=2, seed=9), label_subsets=label_subsets, device="cpu")
    assert np.array_equal(again.predictions, first.predictions)
    assert again.result.label_subsets_sha256 == first.result.label_subsets_sha256
    assert again.result.protocol == first.result.protocol


def test_the_hash_is_that_of_canonical_json(tmp_path):
    path = write_label_subsets(tmp_path, make_label_subsets(feature_set(), FEW))
    content = json.loads(path.read_text())
    del content["kind"]
    assert content.pop("sha256") == sha256_json(content)


def changed(tmp_path, **changes):
    """A file of label subsets with some values changed and its hash made right again."""
    path = write_label_subsets(tmp_path, make_label_subsets(feature_set(), FEW))
    content = json.loads(path.read_text()) | changes
    del content["sha256"]
    kind = content.pop("kind")
    path.write_text(json.dumps({"kind": kind, **content, "sha256": sha256_json(content)}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": [[250, 251]]}, "2 validation rows outside the split .* test images are neither fitted nor"),
        ({"test": [[1, 2, 3], [4, 250]]}, "1 training rows outside the split they belong to"),
        ({"test": []}, "0 training rows outside the split they belong to, or none at all"),
        (
            {"select": [[1, 2], [3, 4]], "validation": [[4, 5]]},
            "selection subset 1 is fitted on rows that it is val",
        ),
        ({"labels_sha256": "0"}, "label subsets of other labels .made., the features are of made"),
        ({"extra": 1}, "not a file of label subsets"),
    ],
)
def test_label_subsets_that_would_spoil_a_result_are_refused(tmp_path, changes, message):
    with pytest.raises(EvalkitError, match=message):
        read_label_subsets(changed(tmp_path, **changes), feature_set())


def test_a_changed_or_broken_file_of_label_subsets_is_refused(tmp_path):
    path = write_label_subsets(tmp_path, make_label_subsets(feature_set(), FEW))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(EvalkitError, match="its rows do not hash to its sha256; it was changed, get it again"):
        read_label_subsets(path, feature_set())
    path.write_text("rows")
    with pytest.raises(EvalkitError, match="not readable as label subsets"):
        read_label_subsets(path, feature_set())


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"folds": 1}, "folds = 1, expected at least 2"),
        ({"folds": 80}, "80 folds, 66 rows in the smallest class: use fewer folds"),
        (
            {"num_test_subsets": 5},
            "a number of label subsets, but all labels are used; give the labels per class",
        ),
        ({"select_on": "train"}, "select_on 'train', expected validation or test"),
    ],
)
def test_protocols_that_make_no_sense_are_refused(protocol, message):
    with pytest.raises(EvalkitError, match=message):
        evaluate(feature_set(), Protocol(**protocol), device="cpu")


def test_layers_are_columns_and_unknown_ones_are_listed():
    features = feature_set()
    features.layers[:] = [Layer("conv1", 8, 1, 0, 8), Layer("conv2", 4, 1, 8, 4), Layer("conv3", 8, 1, 12, 8)]
    result = evaluate(features, FEW, layers="conv2..conv3", device="cpu").result
    assert (result.layers, result.num_features) == ("conv2..conv3", 12)
    alone = dataclasses.replace(features, features=np.ascontiguousarray(features.features[:, 8:]))
    assert evaluate(alone, FEW, device="cpu").result.value == result.value
    for wrong in ("conv4", "conv3..conv1", "conv1.."):
        with pytest.raises(EvalkitError, match="no layers of gaussian; choose conv1, conv2, conv3, or FIRST..LAST"):
            evaluate(features, FEW, layers=wrong, device="cpu")


def test_svhn_1000_from_the_official_files_form_to_an_error_rate(tmp_path, monkeypatch):
    """End to end on made images in SVHN's own format: the named protocol with fewer labels; errors in %."""
    random = np.random.default_rng(0)
    sums = dict(SVHN.split_list)
    (tmp_path / "home/downloads").mkdir(parents=True)
    for split, count in (("train", 300), ("test", 100)):
        labels = np.arange(count) % 10 + 1  # the files call the digit 0 ten
        pixels = random.integers(0, 120, (count, 32, 32, 3)) + 13 * (labels[:, None, None, None] * np.arange(1, 4) % 11)
        path = tmp_path / f"home/downloads/{split}_32x32.mat"
        scipy.io.savemat(path, {"X": pixels.astype(np.uint8).transpose(1, 2, 3, 0), "y": labels[:, None]})
        sums[split] = [*sums[split][:2], hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", sums)
    home = ["--home", str(tmp_path / "home")]
    options = [
        "--protocol",
        "svhn:1000",
        "--labels-per-class",
        "10",
        "--num-selection-subsets",
        "2",
        "--num-test-subsets",
        "3",
    ]
    result = CliRunner().invoke(main, [*home, "baseline", "pixels", *options])
    assert result.exit_code == 0
    assert result.stdout.startswith("svhn, pixels, L2-SVM, labels per class: 10: test error ")
    row = read_results(tmp_path / "home/results.csv").iloc[0]
    assert (row["n_train"], row["n"], row["n_validation"], row["n_test"]) == (100, 3, 60, 100)
    assert row["metric"] == "error_percent"
    assert row["search_range"] == "release (upper end best) 0.0001..0.01"
    assert row["value"] < 50


@pytest.mark.parametrize("name", ["../../../x", "a/b", "/tmp/x", ".hidden"])
def test_a_data_sets_name_from_a_manifest_becomes_no_path(tmp_path, name):
    features = feature_set()
    features.manifest["settings"]["dataset"] = name
    with pytest.raises(EvalkitError):
        evaluate(features, home=tmp_path / "a/b/c/home", device="cpu")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
