"""verify: rows hold on what was measured; every change of number, card, predictions or features is found."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers import feature_set

from evalkit.artifacts import MANIFEST, new_manifest, read_manifest, sha256_file, sha256_json, write_artifact
from evalkit.cli import main
from evalkit.evaluation.evaluate import evaluate
from evalkit.evaluation.label_subsets import make_label_subsets, write_label_subsets
from evalkit.evaluation.protocol import Protocol
from evalkit.evaluation.verify import verify
from evalkit.features.featureset import KIND, load_features
from evalkit.images.imageset import KIND as IMAGES
from evalkit.results import card_path, read_results, write_results
from evalkit.workspace import Workspace

PROTOCOLS = (Protocol(), Protocol(labels_per_class=5, num_selection_subsets=2, num_test_subsets=3))


SETTINGS = {"dataset": "made", "name": "made", "encoder": "gaussian", "batch_norm": "", "weights": ""}
D_FILE = "runs/r/checkpoints/d-00000001/discriminator.safetensors"


def artifact(path, kind, arrays, made_from, settings=SETTINGS, **about):
    """An artifact on disk with arrays and a manifest."""
    with write_artifact(path, settings=settings, made_from=made_from) as writer:
        for name, array in arrays.items():
            with open(writer.path / name, "wb") as file:
                np.save(file, array)
        writer.finish(new_manifest(kind, settings=settings, made_from=made_from) | about)


@pytest.fixture
def home(tmp_path):
    """A workspace with images, features of them, a checkpoint and two results with their cards."""
    made = feature_set()
    splits = {name: list(rows) for name, rows in made.splits.items()}
    about = {"class_names": list(made.class_names), "splits": splits}
    images = {"images.npy": np.zeros((300, 2, 2, 3), np.uint8), "labels.npy": made.labels}
    artifact(tmp_path / "images/made", IMAGES, images, {}, **about)
    networks = {f"{name}.safetensors": np.ones(3) for name in ("discriminator", "generator", "optimizers")}
    settings = {"recipe": {}, "minibatches": 2, "d_updates": 1}
    artifact((tmp_path / D_FILE).parent, "checkpoint", networks, {"images_sha256": ""}, settings)
    made_from = {
        "weights_sha256": sha256_file(tmp_path / D_FILE),
        "images_sha256": sha256_file(tmp_path / "images/made/images.npy"),
    }
    layers = [layer.as_dict() for layer in made.layers]
    arrays = {"features.npy": made.features, "labels.npy": made.labels}
    artifact(tmp_path / "features/made--gaussian", KIND, arrays, made_from, layers=layers, **about)
    features = load_features(tmp_path / "features/made--gaussian")
    for protocol in PROTOCOLS:
        evaluate(features, protocol, home=tmp_path, device="cpu")
    return tmp_path


def verdicts(home, **options):
    return list(verify(home=home, **options))


def change_results(home, **values):
    table = read_results(home / "results.csv")
    write_results(home / "results.csv", table.assign(**values))


def card_of(home, row=0):
    return card_path(home / "results.csv", read_results(home / "results.csv")["card"][row])


def test_what_was_measured_holds_with_every_check(home):
    found = verdicts(home, refit=True, device="cpu")
    assert [verdict.outcome for verdict in found] == ["holds", "holds"]
    names = ["run card", "result from predictions", "weights", "images", "features", "test labels", "label subsets"]
    for verdict in found:
        assert [check.name for check in verdict.checks] == [*names, "refit"]
        assert {check.outcome for check in verdict.checks} == {"holds"}
    assert str(found[0]).startswith(
        "holds: made, 5, gaussian + L2-SVM (at the end of its search): held: run card, result from predictions, "
    )


def test_without_artifacts_the_result_is_still_computed_from_the_predictions(home, tmp_path_factory):
    found = list(verify(home / "results.csv", home=tmp_path_factory.mktemp("empty")))
    assert [verdict.outcome for verdict in found] == ["holds", "holds"]
    line = str(found[1])
    assert "held: run card, result from predictions; not checked: weights (none here with SHA-256 " in line


def flip(path):
    """One bit of the last byte: size and header stay."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_value_in_card(home):
    card = card_of(home)
    card.write_text(card.read_text().replace('"value": ', '"value": 1'))


def card_of_another_row(home):
    names = read_results(home / "results.csv")["card"]
    change_results(home, card=[names[1], names[1]])


def other_predictions(home):
    path = card_of(home).with_suffix(".npz")
    arrays = dict(np.load(path))
    np.savez_compressed(path, predictions=arrays["predictions"][::-1] * 0, labels=arrays["labels"])


def labels_of_the_features(home):
    """Consistent in itself: an artifact made again with other labels, under the same features."""
    path = home / "features/made--gaussian"
    labels = np.load(path / "labels.npy")
    labels[-1] = (labels[-1] + 1) % 3
    np.save(path / "labels.npy", labels)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"]["labels.npy"]["sha256"] = sha256_file(path / "labels.npy")
    (path / MANIFEST).write_text(json.dumps(manifest))
    read_manifest(path, KIND, check_hashes=True)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda home: change_results(home, value=99.0), "run card: value is "),
        (lambda home: change_results(home, seed=5), "run card: seed is '0' in the card, '5' in the row"),
        (lambda home: change_results(home, label_subsets_sha256="0" * 64), "run card: label_subsets_sha256 is "),
        (other_value_in_card, "run card: "),
        (card_of_another_row, "run card: protocol is 'all' in the card, '5' in the row"),
        (other_predictions, "result from predictions: "),
        (lambda home: flip(home / "features/made--gaussian/features.npy"), "features: .*SHA-256 is not the manifest's"),
        (lambda home: flip(home / "images/made/images.npy"), "images: .*SHA-256 is not the manifest's"),
        (lambda home: flip(home / D_FILE), "weights: .*not the manifest's"),
        (labels_of_the_features, "test labels: those beside the predictions are others; "),
    ],
)
def test_tampering_is_found(home, tamper, message):
    tamper(home)
    found = verdicts(home)[0]
    assert found.outcome == "differs"
    assert re.search(f"^differs: made, 5, gaussian . L2-SVM[^:]*: {message}", str(found)), str(found)


def test_a_number_changed_in_row_card_and_its_name_differs_from_the_predictions(home):
    card = json.loads(card_of(home).read_text())
    card["result"]["value"] += 1
    renamed = card_of(home).with_name(f"{sha256_json(card)[:16]}.json")
    renamed.write_text(json.dumps(card))
    card_of(home).with_suffix(".npz").rename(renamed.with_suffix(".npz"))
    table = read_results(home / "results.csv")
    table.loc[0, ["value", "card"]] = [card["result"]["value"], renamed.stem]
    write_results(home / "results.csv", table)
    assert "result from predictions: value is " in str(verdicts(home)[0])


def test_features_that_no_longer_give_the_result_differ_when_fitted_again(home):
    """Features, manifest, row and card changed alike: only fitting again tells."""
    path = home / "features/made--gaussian"
    features = np.load(path / "features.npy")
    np.save(path / "features.npy", features[::-1])
    old = json.loads((path / MANIFEST).read_text())["files"]["features.npy"]["sha256"]
    new = sha256_file(path / "features.npy")
    for changed in (path / MANIFEST, *home.glob("cards/*.json"), home / "results.csv"):
        changed.write_text(changed.read_text().replace(old, new))
    table = read_results(home / "results.csv")
    for card in home.glob("cards/*.json"):
        name = sha256_json(json.loads(card.read_text()))[:16]
        table["card"] = table["card"].replace(card.stem, name)
        card.with_suffix(".npz").rename(card.with_name(f"{name}.npz"))
        card.rename(card.with_name(f"{name}.json"))
    write_results(home / "results.csv", table)
    assert [verdict.outcome for verdict in verdicts(home)] == ["holds", "holds"]
    fitted = verdicts(home, refit=True, device="cpu")
    assert [verdict.outcome for verdict in fitted] == ["differs", "differs"]
    assert "refit: " in str(fitted[0])
    assert " % fitted again, " in str(fitted[0])


def test_label_subsets_from_a_file_are_found_by_their_hash(home):
    features = load_features(home / "features/made--gaussian")
    other = make_label_subsets(features, replace(PROTOCOLS[1], seed=9))
    file = write_label_subsets(home / "elsewhere", other)
    evaluate(features, PROTOCOLS[1], home=home, label_subsets=file, device="cpu")
    assert [str(verdict).count("label subsets") for verdict in verdicts(home)] == [1, 1, 1]
    assert not any("not checked" in str(verdict) for verdict in verdicts(home))
    (Workspace(home).label_subsets / file.name).unlink()
    (verdict,) = (verdict for verdict in verdicts(home) if "they came from a file" in str(verdict))
    assert verdict.outcome == "holds"
    assert "not checked: label subsets (they came from a file" in str(verdict)


# -- the command


def run(home, *arguments):
    return CliRunner().invoke(main, ["--home", str(home), "verify", *map(str, arguments)])


def test_the_command_prints_a_line_per_row_and_fails_if_one_differs(home):
    whole = run(home)
    assert whole.exit_code == 0
    assert whole.stdout.splitlines()[-1] == "2 holds"
    assert len(whole.stdout.splitlines()) == 3
    only = run(home, home / "results.csv", "--only", "made, all", "--refit", "--device", "cpu")
    assert only.stdout.startswith("holds: made, all, ")
    assert only.stdout.endswith("\n1 holds\n")
    other_predictions(home)
    broken = run(home)
    assert broken.exit_code == 1
    assert "1 differs, 1 holds" in broken.stdout
    assert broken.stderr.splitlines()[-1] == f"Error: {home / 'results.csv'}: 1 of 2 rows differ"


def older(home):
    """Without the columns that came later: no row names a card."""
    table = pd.read_csv(home / "results.csv", dtype=str, keep_default_na=False)
    table[table.columns[:24]].to_csv(home / "results.csv", index=False)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda home: (home / "results.csv").unlink(), 1, "no results yet; run `evalkit svm`"),
        (lambda home: (home / "results.csv").write_text("a,b\n1,2\n"), 1, "not a results.csv of this evalkit"),
        (older, 0, "L2-SVM (at the end of its search): held: weights, features; not checked: run card "),
        (lambda home: card_of(home).unlink(), 0, "no such run card; copy the cards folder along with results.csv"),
        (lambda home: card_of(home).with_suffix(".npz").unlink(), 0, "no such predictions; copy the cards folder"),
    ],
)
def test_missing_files_are_named(home, change, status, message):
    change(home)
    result = run(home)
    assert result.exit_code == status and message in result.output, result.output
    assert "Traceback" not in result.output
