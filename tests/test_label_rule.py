"""Labels of every split are checked by one rule before a row is fitted or counted; what a split lacks is said."""

import dataclasses
import logging

import numpy as np
import pytest
from helpers import feature_set, striped_arrays, write_image_set

from evalkit import EvalkitError, Protocol, ablate, baseline, compare, evaluate, label_curve
from evalkit.evaluation.labels import check_labels
from evalkit.evaluation.protocol import BaselineOptions
from evalkit.evaluation.training_probe import TrainingProbe
from evalkit.results import write_card


def with_test_labels(label, rows):
    features = feature_set()
    features.labels[features.rows("test")[rows]] = label
    return features


UNLABELLED = {
    "all": (-1, slice(None)),
    "one": (-1, slice(0, 1)),
    "every second": (-1, slice(0, None, 2)),
    "another negative": (-100, slice(3, 5)),
}


@pytest.mark.parametrize("which", UNLABELLED)
@pytest.mark.parametrize("classifier", ["svm", "knn", "logistic"])
def test_test_rows_without_label_are_refused_by_every_classifier(which, classifier):
    with pytest.raises(EvalkitError, match="made: test split: .* of 100 images have no label; expected a class for"):
        evaluate(with_test_labels(*UNLABELLED[which]), classifier=classifier, device="cpu")


def test_test_labels_out_of_range_are_refused():
    with pytest.raises(EvalkitError, match="made: test split: labels 0 to 7, expected 0 to 2"):
        evaluate(with_test_labels(7, slice(0, 1)), device="cpu")


@pytest.mark.parametrize("protocol", [Protocol(folds=3), Protocol(select_on="test"), Protocol(5, num_test_subsets=2)])
def test_every_protocol_refuses_test_rows_without_label(protocol):
    with pytest.raises(EvalkitError, match="test split: 100 of 100 images have no label"):
        evaluate(with_test_labels(-1, slice(None)), protocol, device="cpu")


def test_ablation_and_curve_refuse_test_rows_without_label():
    features = with_test_labels(-1, slice(0, 9))
    with pytest.raises(EvalkitError, match="test split: 9 of 100 images have no label"):
        list(ablate(features, device="cpu"))
    with pytest.raises(EvalkitError, match="test split: 9 of 100 images have no label"):
        label_curve(features, labels=[2], device="cpu")


def test_the_network_trained_on_labels_refuses_test_images_without_label(tmp_path):
    images, labels = striped_arrays(60)
    labels = np.where(np.arange(60) >= 50, -1, labels)
    write_image_set(tmp_path / "images/stripes", images, labels, {"train": (0, 40), "test": (40, 60)})
    options = BaselineOptions(trials=1, updates=1)
    with pytest.raises(EvalkitError, match="stripes: test split: 10 of 20 images have no label"):
        baseline("cnn", "stripes", home=tmp_path, options=options, device="cpu")


def test_the_training_probe_refuses_training_images_without_label(tmp_path):
    images, labels = striped_arrays(60)
    labels[:3] = -1
    image_set = write_image_set(tmp_path / "stripes", images, labels, {"train": (0, 60)})
    with pytest.raises(EvalkitError, match="stripes: training images: 3 of 60 images have no label"):
        TrainingProbe(image_set, labels_per_class=2, device="cpu")


def test_cards_of_rows_without_label_are_not_compared(tmp_path):
    content = {"result": {}, "labels_sha256": "", "label_subsets_sha256": "", "class_names": ["a", "b"]}
    labels = np.array([0, 1, 255])  # as an unsigned type holds -1
    card = write_card(tmp_path / "results.csv", content, predictions=labels[None], labels=labels)
    with pytest.raises(EvalkitError, match="test rows of this run card: labels 0 to 255, expected 0 to 1"):
        compare(card, card, home=tmp_path)


@pytest.mark.parametrize("labels", [[0, np.nan, 1], [0, 1.5, 1], [-1.0, 0, 1]])
def test_labels_that_are_no_whole_number_are_no_labels(labels):
    with pytest.raises(EvalkitError, match="here: 1 of 3 images have no label"):
        check_labels(np.array(labels), 2, "here")


def test_no_rows_are_refused():
    features = dataclasses.replace(feature_set(), splits={"train": (0, 200), "test": (200, 200)})
    with pytest.raises(EvalkitError, match="made: test split: no rows"):
        evaluate(features, device="cpu")


def test_rows_without_label_in_a_split_of_their_own_do_not_matter():
    features = feature_set()
    expected = evaluate(dataclasses.replace(features, splits={"train": (0, 200), "test": (200, 250)}), device="cpu")
    features.labels[250:] = -1
    splits = {"train": (0, 200), "test": (200, 250), "unlabelled": (250, 300)}
    assert evaluate(dataclasses.replace(features, splits=splits), device="cpu").value == expected.value


def test_classes_that_a_split_lacks_are_said(caplog):
    features = feature_set(names=["cat", "dog", "bird"])
    features.labels[:200] = features.labels[:200] % 2
    with caplog.at_level(logging.WARNING, "evalkit"):
        evaluate(features, device="cpu")
    assert "made: the train split has no images of 1 classes of the test split (bird; 34 images there)" in caplog.text
    assert "count as errors" in caplog.text
