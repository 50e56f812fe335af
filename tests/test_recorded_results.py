"""Finding a recorded result again: whatever defines it is compared, each by itself."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import feature_set

from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import evaluate
from evalkit.evaluation.label_curve import default_labels
from evalkit.evaluation.label_subsets import make_label_subsets
from evalkit.evaluation.protocol import Protocol
from evalkit.evaluation.record import recorded_result
from evalkit.workspace import Workspace

FEATURES = feature_set()
FEW = Protocol(labels_per_class=5, num_selection_subsets=2, num_test_subsets=4)
ALL = Protocol()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = Workspace(tmp_path_factory.mktemp("measured"))
    for protocol in (FEW, ALL):
        evaluate(FEATURES, protocol, home=made, device="cpu")
    return made


def is_measured(workspace, features, protocol, **options):
    return recorded_result(features, protocol, results=workspace.results, **options) is not None


def test_the_same_features_and_protocol_are_found(workspace):
    assert is_measured(workspace, FEATURES, FEW)
    assert is_measured(workspace, FEATURES, ALL)
    assert is_measured(workspace, FEATURES, replace(ALL, validation=5_000))  # a fifth of 200 rows either way
    assert not is_measured(Workspace(workspace.home / "empty"), FEATURES, ALL)


@pytest.mark.parametrize(
    "change",
    [
        {"labels_per_class": 6},
        {"num_test_subsets": 5},
        {"num_selection_subsets": 3},
        {"c_grid": "release"},
        {"validation": 20},
        {"seed": 1},
        {"folds": 2},
        {"select_on": "test"},
    ],
    ids=str,
)
def test_another_protocol_is_another_result(workspace, change):
    assert not is_measured(workspace, FEATURES, replace(FEW, **change))
    if set(change) & {"c_grid", "validation", "seed", "folds", "select_on"}:
        assert not is_measured(workspace, FEATURES, replace(ALL, **change))


def test_unusable_labels_are_refused_before_label_subsets_are_made(workspace):
    unlabelled = replace(FEATURES, labels=FEATURES.labels - 1)
    for attempt in (lambda: is_measured(workspace, unlabelled, ALL), lambda: default_labels(unlabelled, ALL)):
        with pytest.raises(
            EvalkitError, match="made: train split: 67 of 200 images have no label; expected a class for each"
        ):
            attempt()


def test_other_features_layers_labels_or_label_subsets_are_another_result(workspace):
    assert not is_measured(workspace, FEATURES, FEW, layers="a")
    others = [{"features.npy": {"sha256": "other"}}, FEATURES.manifest["files"]]
    for files, encoder in zip(others, ("gaussian", "other"), strict=True):
        settings = FEATURES.manifest["settings"] | {"encoder": encoder}
        manifest = FEATURES.manifest | {"files": files, "settings": settings}
        assert not is_measured(workspace, replace(FEATURES, manifest=manifest), FEW)
    relabelled = replace(FEATURES, labels=np.roll(FEATURES.labels, 1))
    assert not is_measured(workspace, relabelled, FEW)
    subsets = make_label_subsets(FEATURES, FEW)
    assert is_measured(workspace, FEATURES, FEW, label_subsets=subsets)
    assert not is_measured(workspace, FEATURES, FEW, label_subsets=replace(subsets, test=subsets.test[::-1]))
