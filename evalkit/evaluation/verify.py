"""verify: every row of a results.csv against its run card and the artifacts at hand.

What can be checked of one row of results.csv; each check holds, differs, or could not be made, and says why.

Which artifacts of a workspace claim a hash; whether they keep the claim is for the checks.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from evalkit.artifacts import MANIFEST, read_manifest
from evalkit.encoders import load_encoder
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.evaluation.label_subsets import LabelSubsets, make_label_subsets, read_label_subsets
from evalkit.evaluation.protocol import Protocol
from evalkit.evaluation.statistics import uncertainty_of
from evalkit.features.featureset import KIND as FEATURES
from evalkit.features.featureset import FeatureSet, layer_columns, load_features
from evalkit.images import load_images
from evalkit.images.imageset import KIND as IMAGES
from evalkit.probes.classifiers import CLASSIFIERS, SolverOptions
from evalkit.results import (
    COLUMNS,
    Card,
    as_written,
    card_path,
    method_name,
    ordered,
    read_card,
    read_predictions,
    read_results,
)
from evalkit.workspace import Workspace

HOLDS, DIFFERS, UNCHECKED = "holds", "differs", "can't be checked"
REFIT_POINTS = 0.05  # fits to a relative error of 1e-6 moved accuracies by at most 0.02 points (benchmarks/NOTES.md)


class Check(NamedTuple):
    """One check: its name, HOLDS, DIFFERS or UNCHECKED, and what was found."""

    name: str
    outcome: str
    found: str = ""


@dataclass(frozen=True)
class Verdict:
    """What was found of one row.

    Attributes:
        name: data set, protocol and method of the row.
        checks: in the order they were made.
    """

    name: str
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> str:
        """DIFFERS if a check differs; HOLDS if the figure was re-computed; else UNCHECKED."""
        if any(check.outcome == DIFFERS for check in self.checks):
            return DIFFERS
        held = {check.name for check in self.checks if check.outcome == HOLDS}
        return HOLDS if held & {"figure from predictions", "refit"} else UNCHECKED

    def __str__(self) -> str:
        """One line a reader can act on: the outcome, what differs and why, what held, what was not checked."""
        parts = [f"{check.name}: {check.found}" for check in self.checks if check.outcome == DIFFERS]
        if held := ", ".join(check.name for check in self.checks if check.outcome == HOLDS):
            parts.append(f"held: {held}")
        rest = [f"{check.name} ({check.found})" for check in self.checks if check.outcome == UNCHECKED]
        parts += [f"not checked: {', '.join(rest)}"] if rest else []
        return f"{self.outcome}: {self.name}: {'; '.join(parts)}"


def verify(
    results: Path, workspace: Workspace, *, refit: SolverOptions | None = None, row_filter: str = ""
) -> Iterator[Verdict]:
    """Checks every row, one after the other.

    Args:
        results: a results.csv, with its cards folder beside it.
        workspace: where features, weights, images and draws are looked for, by their hashes.
        refit: how to fit again; None does not.
        row_filter: only rows whose name contains it.

    Raises:
        ArtifactError: no results.csv, or one with other columns.
    """
    hashed: dict[tuple[str, str], Check] = {}
    for _, row in ordered(read_results(results)).iterrows():
        name = f"{row['dataset']}, {row['protocol']}, {method_name(row)}"
        if row_filter in name:
            yield Verdict(name, tuple(_checks(results, row, workspace, refit, hashed)))


def _checks(
    results: Path,
    row: pd.Series,
    workspace: Workspace,
    refit: SolverOptions | None,
    hashed: dict[tuple[str, str], Check],
) -> Iterator[Check]:
    def once(name: str, sha256: str, check: Callable[[], Check]) -> Check:
        """Big files are hashed once, however many rows they are behind."""
        if (name, sha256) not in hashed:
            hashed[name, sha256] = check()
        return hashed[name, sha256]

    first, card = check_card(results, row)
    yield first
    if card:
        yield check_predictions(results, row, card)
    if row["weights_sha256"]:
        yield once("weights", row["weights_sha256"], lambda: _weights(row, workspace))
    if images := card.get("images_sha256"):
        place = find_image_set_by_sha256(workspace, images)
        yield once("images", images, lambda: check_artifact("images", place, IMAGES, images))
    sha256 = row["features_sha256"]
    path = find_features_by_sha256(workspace, sha256)
    features = once("features", sha256, lambda: check_artifact("features", path, FEATURES, sha256))
    yield features
    if card and path and features.outcome == HOLDS:
        yield from _checks_on_features(results, row, card, path, workspace, refit)


def _weights(row: pd.Series, workspace: Workspace) -> Check:
    found = find_weights_by_sha256(workspace, row["weights_sha256"])
    if found is None:
        return check_made_weights(row, workspace)
    return check_artifact("weights", found[0], found[1], row["weights_sha256"])


def _checks_on_features(
    results: Path, row: pd.Series, card: Card, path: Path, workspace: Workspace, refit: SolverOptions | None
) -> Iterator[Check]:
    try:
        features = load_features(path)
    except EvalkitError as error:
        yield Check("label draws", UNCHECKED, str(error))
        return
    yield check_labels(results, row, card, features)
    check, draws = check_label_subsets(row, card, features, workspace)
    yield check
    if refit and draws:
        yield check_refit(row, features, draws, refit)


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
        said, row_says = as_written(column, card["result"].get(column)), as_written(column, row[column])
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
    spread = uncertainty_of(~correct if "error" in row["metric"] else correct)
    found = {"value": spread.mean, "uncertainty": spread.half_width, "std": spread.std}
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
        found = load_encoder(encoder, home=workspace).sha256
    except EvalkitError:
        return Check("weights", UNCHECKED, f"none here with SHA-256 {row['weights_sha256'][:12]}…")
    if found == row["weights_sha256"]:
        return Check("weights", HOLDS)
    return Check("weights", DIFFERS if encoder.startswith("random:") else UNCHECKED, f"{encoder} is another here")


def check_label_subsets(
    row: pd.Series, card: Card, features: FeatureSet, workspace: Workspace
) -> tuple[Check, LabelSubsets | None]:
    """Split and label draws, made again from the protocol, or read from their file, hash to what the row says."""
    draws = make_label_subsets(features, Protocol(**card["protocol"]))
    if draws.sha256 == row["label_subsets_sha256"]:
        return Check("label draws", HOLDS), draws
    if card.get("draws_are_the_protocols", True):
        return Check("label draws", DIFFERS, f"made again they hash to {draws.sha256[:12]}…"), None
    for path in workspace.label_subsets.glob(f"*--{row['label_subsets_sha256'][:12]}.json"):
        return Check("label draws", HOLDS), read_label_subsets(path, features)
    return Check("label draws", UNCHECKED, f"they came from a file that is not in {workspace.label_subsets}"), None


def check_labels(results: Path, row: pd.Series, card: Card, features: FeatureSet) -> Check:
    """The labels that the predictions were judged by are the test labels of the features."""
    try:
        stored = read_predictions(results, row["card"], card)[1]
    except ArtifactError as error:
        return Check("test labels", UNCHECKED, str(error))
    same = np.array_equal(stored, features.labels[features.rows("test")])
    return Check("test labels", HOLDS if same else DIFFERS, "" if same else "those beside the predictions are others")


def check_refit(row: pd.Series, features: FeatureSet, draws: LabelSubsets, options: SolverOptions) -> Check:
    """Fits again at the chosen value: the accuracy is the row's, to what the solver's tolerance may move."""
    known = {classifier.display_name: classifier for classifier in CLASSIFIERS.values()}
    if row["classifier"] not in known:
        return Check("refit", UNCHECKED, f"no classifier {row['classifier']!r} to fit again")
    columns, test = layer_columns(features, row["layers"]), features.rows("test")
    value = float(str(row["hyperparameter"]).partition(" = ")[2])
    predict = known[row["classifier"]].predict
    found = predict(columns, features.labels, draws.test, [value], test, options).labels[:, 0]
    percent = 100 * float((found == features.labels[test]).mean())
    percent = 100 - percent if "error" in row["metric"] else percent
    outcome = HOLDS if abs(percent - float(row["value"])) <= REFIT_POINTS else DIFFERS
    return Check("refit", outcome, f"{percent:.2f} % fitted again, {row['value']:.2f} % in the row")


def _claims(path: Path) -> dict[str, str]:
    """File name -> SHA-256, as the manifest in `path` says; empty where there is none to read."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        return {name: entry["sha256"] for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def find_features_by_sha256(workspace: Workspace, sha256: str) -> Path | None:
    """The feature set whose features.npy has the hash."""
    found = (path for path in workspace.artifacts("feature set") if _claims(path).get("features.npy") == sha256)
    return next(found, None)


def find_image_set_by_sha256(workspace: Workspace, sha256: str) -> Path | None:
    """The image set whose images have the hash; a view is one by its own and its parent's."""
    for path in workspace.artifacts("image set"):
        if _claims(path).get("images.npy") == sha256:
            return path
        try:
            if load_images(path).sha256 == sha256:
                return path
        except ArtifactError:
            continue
    return None


def find_weights_by_sha256(workspace: Workspace, sha256: str) -> tuple[Path, str] | None:
    """A checkpoint, or other weights of the workspace, with a file of the hash; and the artifact's kind."""
    for path in _with_weights(workspace):
        if sha256 in _claims(path).values():
            return path, json.loads((path / MANIFEST).read_text())["kind"]
    return None


def _with_weights(workspace: Workspace) -> Iterator[Path]:
    for pattern in ("runs/*/checkpoints/*", "pretrained/*", "kmeans/*"):
        yield from sorted(workspace.home.glob(pattern))
