"""What can be checked of one row of results.csv; each check holds, differs, or could not be made, and says why."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from evalkit.artifacts import read_manifest
from evalkit.cards import Card, card_path, read_card, read_predictions
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.columns import layer_columns
from evalkit.features.encoders import find_encoder
from evalkit.features.featureset import FeatureSet
from evalkit.probes import CLASSIFIERS
from evalkit.probes.classifier import FitOptions
from evalkit.protocols.drawfile import read_draws
from evalkit.protocols.draws import Draws, make_draws
from evalkit.protocols.settings import Protocol
from evalkit.protocols.spreads import spread_of
from evalkit.results import COLUMNS, as_written
from evalkit.workspace import Workspace

HOLDS, DIFFERS, UNCHECKED = "holds", "differs", "can't be checked"
REFIT_POINTS = 0.05  # fits to a relative error of 1e-6 moved accuracies by at most 0.02 points (benchmarks/NOTES.md)


class Check(NamedTuple):
    """One check: its name, HOLDS, DIFFERS or UNCHECKED, and what was found."""

    name: str
    outcome: str
    found: str = ""


def check_card(results: Path, row: pd.Series) -> tuple[Check, Card]:
    """The run card is as written and says what the row says; the card is empty where it cannot be read."""
    if not row["card"]:
        return Check("run card", UNCHECKED, "the row names none"), {}
    try:
        card = read_card(results, row["card"])
    except ArtifactError as error:
        there = card_path(results, row["card"]).exists()
        return Check("run card", DIFFERS if there else UNCHECKED, str(error)), {}
    for column in COLUMNS:
        said, row_says = as_written(column, card["figure"].get(column)), as_written(column, row[column])
        if column != "card" and said != row_says:
            return Check("run card", DIFFERS, f"{column} is {said!r} in the card, {row_says!r} in the row"), card
    return Check("run card", HOLDS), card


def check_predictions(results: Path, row: pd.Series, card: Card) -> Check:
    """Value, spread and interval follow from the stored predictions and labels."""
    name = "figure from predictions"
    try:
        predictions, labels = read_predictions(results, row["card"], card)
    except ArtifactError as error:
        there = card_path(results, row["card"]).with_suffix(".npz").exists()
        return Check(name, DIFFERS if there else UNCHECKED, str(error))
    correct = predictions == labels
    spread = spread_of(~correct if "error" in row["metric"] else correct)
    found = {"value": spread.mean, "spread": spread.half_width, "std": spread.std}
    found |= {"interval_low": spread.low, "interval_high": spread.high}
    for column, share in found.items():
        computed, row_says = as_written(column, 100 * share), as_written(column, row[column])
        if computed != row_says:
            return Check(name, DIFFERS, f"{column} is {computed} by the predictions, {row_says} in the row")
    return Check(name, HOLDS)


def check_artifact(name: str, path: Path | None, kind: str, sha256: str) -> Check:
    """The files of the artifact at `path`, which claims the hash, hash to what its manifest says."""
    if path is None:
        return Check(name, UNCHECKED, f"none here with SHA-256 {sha256[:12]}…")
    try:
        read_manifest(path, kind, check_hashes=True)
    except ArtifactError as error:
        return Check(name, DIFFERS, str(error))
    return Check(name, HOLDS)


def check_made_weights(row: pd.Series, workspace: Workspace) -> Check:
    """Weights that are no file of a run: random ones are drawn again, others are looked up by their name."""
    encoder = str(row["encoder"]).split(" (")[0]
    try:
        found = find_encoder(encoder, workspace).sha256
    except EvalkitError:
        return Check("weights", UNCHECKED, f"none here with SHA-256 {row['weights_sha256'][:12]}…")
    if found == row["weights_sha256"]:
        return Check("weights", HOLDS)
    return Check("weights", DIFFERS if encoder.startswith("random:") else UNCHECKED, f"{encoder} is another here")


def check_draws(row: pd.Series, card: Card, features: FeatureSet, workspace: Workspace) -> tuple[Check, Draws | None]:
    """Split and label draws, made again from the protocol, or read from their file, hash to what the row says."""
    draws = make_draws(features, Protocol(**card["protocol"]))
    if draws.sha256 == row["draws_sha256"]:
        return Check("label draws", HOLDS), draws
    if card.get("draws_are_the_protocols", True):
        return Check("label draws", DIFFERS, f"made again they hash to {draws.sha256[:12]}…"), None
    for path in workspace.draws.glob(f"*--{row['draws_sha256'][:12]}.json"):
        return Check("label draws", HOLDS), read_draws(path, features)
    return Check("label draws", UNCHECKED, f"they came from a file that is not in {workspace.draws}"), None


def check_labels(results: Path, row: pd.Series, card: Card, features: FeatureSet) -> Check:
    """The labels that the predictions were judged by are the test labels of the features."""
    try:
        stored = read_predictions(results, row["card"], card)[1]
    except ArtifactError as error:
        return Check("test labels", UNCHECKED, str(error))
    same = np.array_equal(stored, features.labels[features.rows("test")])
    return Check("test labels", HOLDS if same else DIFFERS, "" if same else "those beside the predictions are others")


def check_refit(row: pd.Series, features: FeatureSet, draws: Draws, options: FitOptions) -> Check:
    """Fits again at the chosen value: the accuracy is the row's, to what the solver's tolerance may move."""
    known = {classifier.label: classifier for classifier in CLASSIFIERS.values()}
    if row["classifier"] not in known:
        return Check("refit", UNCHECKED, f"no classifier {row['classifier']!r} to fit again")
    columns, test = layer_columns(features, row["layers"]), features.rows("test")
    value = float(str(row["chosen"]).partition(" = ")[2])
    predict = known[row["classifier"]].predict
    found = predict(columns, features.labels, draws.test, [value], test, options).labels[:, 0]
    percent = 100 * float((found == features.labels[test]).mean())
    percent = 100 - percent if "error" in row["metric"] else percent
    outcome = HOLDS if abs(percent - float(row["value"])) <= REFIT_POINTS else DIFFERS
    return Check("refit", outcome, f"{percent:.2f} % fitted again, {row['value']:.2f} % in the row")
