"""Run cards: round trip, names that follow the content, what `evalkit svm` writes, refusals."""

import json

import numpy as np
import pytest
from helpers import feature_set

from evalkit.errors import ArtifactError
from evalkit.evaluation.evaluate import evaluate
from evalkit.evaluation.protocol import Protocol
from evalkit.evaluation.record import command_line
from evalkit.results import card_path, read_card, read_predictions, read_results, write_card
from evalkit.workspace import Workspace

PREDICTIONS, LABELS = np.array([[0, 1, 2, 1], [0, 0, 2, 1]]), np.array([0, 1, 2, 2])


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results.csv"


def test_round_trip_and_a_name_that_follows_the_content(results):
    name = write_card(results, {"seed": 3}, predictions=PREDICTIONS, labels=LABELS)
    card = read_card(results, name)
    assert card["seed"] == 3
    assert card["kind"] == "run card"
    predictions, labels = read_predictions(results, name, card)
    assert np.array_equal(predictions, PREDICTIONS)
    assert np.array_equal(labels, LABELS)
    assert write_card(results, {"seed": 3}, predictions=PREDICTIONS, labels=LABELS) == name
    assert write_card(results, {"seed": 4}, predictions=PREDICTIONS, labels=LABELS) != name
    assert write_card(results, {"seed": 3}, predictions=PREDICTIONS[::-1], labels=LABELS) != name
    assert sorted(path.suffix for path in results.parent.glob("cards/*")) == [".json"] * 3 + [".npz"] * 3


def test_a_recorded_result_leads_to_its_card(tmp_path):
    workspace, features = Workspace(tmp_path), feature_set()
    protocol = Protocol(labels_per_class=5, num_selection_subsets=2, num_test_subsets=4)
    evaluation = evaluate(features, protocol, home=workspace, device="cpu")
    row = read_results(workspace.results).iloc[0]
    assert row["card"] == evaluation.result.card
    card = read_card(workspace.results, row["card"])
    predictions, labels = read_predictions(workspace.results, row["card"], card)
    assert 100 * (predictions == labels).mean() == pytest.approx(card["result"]["value"]) == evaluation.result.value
    assert card["protocol"]["num_test_subsets"] == 4
    assert card["protocol"]["seed"] == 0
    assert card["label_subsets_sha256"] == row["label_subsets_sha256"]
    assert card["features_sha256"] == "f"
    assert dict(card["validation_curve"])[row["C"]] == pytest.approx(row["validation_percent"], abs=0.005)
    assert set(card["seconds"]) == {"label_subsets", "selection", "test"}
    assert card["versions"]["python"]
    assert card["solver"]["duality_gap"] <= 1e-6
    assert card["hardware"]["cores"] >= 1


def write(change):
    def tamper(results, name):
        path = card_path(results, name)
        path.write_text(change(path.read_text()))

    return tamper


def changed_predictions(results, name):
    np.savez_compressed(card_path(results, name).with_suffix(".npz"), predictions=PREDICTIONS + 1, labels=LABELS)


def broken_predictions(results, name):
    path = card_path(results, name).with_suffix(".npz")
    path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda results, name: card_path(results, name).unlink(), "no such run card; copy the cards folder along"),
        (write(lambda text: text[:40]), "not readable as a run card"),
        (write(lambda text: json.dumps(["a", "list"])), "not a run card; measure the result again"),
        (write(lambda text: text.replace('"format": 2', '"format": 1')), "a run card of format 1, this evalkit reads"),
        (write(lambda text: text.replace('"seed": 3', '"seed": 4')), "changed since it was written"),
        (changed_predictions, "its predictions are not those of the run card"),
        (broken_predictions, "not readable as predictions"),
        (lambda results, name: card_path(results, name).with_suffix(".npz").unlink(), "no such predictions"),
    ],
)
def test_a_changed_or_incomplete_card_is_refused(results, tamper, message):
    name = write_card(results, {"seed": 3}, predictions=PREDICTIONS, labels=LABELS)
    tamper(results, name)
    with pytest.raises(ArtifactError, match=message):
        read_predictions(results, name, read_card(results, name))


def test_the_recorded_command_has_no_absolute_paths(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/lib/evalkit/__main__.py", "--home", "/mine/a home", "svm", "--C", "1e-4"])
    assert command_line() == "evalkit --home 'a home' svm --C 1e-4"
