"""verify: every row of a results.csv against its run card and the artifacts that are available.

Each check of a row holds, differs, or cannot be made, and says why. Artifacts are found by the hashes that their
manifests claim; the checks hash the files.
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
from evalkit.runtime import resolve_device
from evalkit.workspace import Workspace

HOLDS, DIFFERS, UNCHECKED = "holds", "differs", "can't be checked"
REFIT_POINTS = 0.05  # fits to a relative error of 1e-6 moved accuracies by at most 0.02 points (benchmarks/NOTES.md)


class Check(NamedTuple):
    """One check: its name, HOLDS, DIFFERS or UNCHECKED, and the reason."""

    name: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """The checks of one row.

    Attributes:
        name: data set, protocol and method of the row.
        checks: in the order they were made.
    """

    name: str
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> str:
        """DIFFERS if a check differs; HOLDS if the result was computed again; else UNCHECKED."""
        if any(check.outcome == DIFFERS for check in self.checks):
            return DIFFERS
        held = {check.name for check in self.checks if check.outcome == HOLDS}
        return HOLDS if held & {"result from predictions", "refit"} else UNCHECKED

    def __str__(self) -> str:
        """One line: the outcome, what differs and why, what held, what was not checked."""
        parts = [f"{check.name}: {check.reason}" for check in self.checks if check.outcome == DIFFERS]
        if held := ", ".join(check.name for check in self.checks if check.outcome == HOLDS):
            parts.append(f"held: {held}")
        rest = [f"{check.name} ({check.reason})" for check in self.checks if check.outcome == UNCHECKED]
        parts += [f"not checked: {', '.join(rest)}"] if rest else []
        return f"{self.outcome}: {self.name}: {'; '.join(parts)}"


def verify(
    results: Path | str | None = None,
    *,
    home: Workspace | Path | str | None = None,
    refit: bool = False,
    only: str = "",
    device: str = "auto",
) -> Iterator[Verdict]:
    """Checks the rows of a results.csv one by one.

    Args:
        results: a results.csv with its cards folder beside it; by default the workspace's.
        home: the workspace where features, weights, images and label subsets are looked for by their hashes, or its
            folder; by default the folder of `results`.
        refit: fit again at the selected hyperparameter where the features are available.
        only: check only rows whose name contains this text.
        device: where a refit computes: auto, cpu, cuda or cuda:N.

    Raises:
        EvalkitError: there is no results.csv, or it has other columns.
    """
    if results is None and home is None:
        raise EvalkitError("nothing to verify: give a results.csv, or a workspace with home=")
    workspace = Workspace.of(home if home is not None else Path(str(results)).parent)
    path = workspace.results if results is None else Path(results)
    if not path.exists():
        raise EvalkitError(f"{path}: no results yet; run `evalkit svm`")
    options = SolverOptions(str(resolve_device(device))) if refit else None
    return _verdicts(path, workspace, options, only)


def _verdicts(results: Path, workspace: Workspace, refit: SolverOptions | None, only: str) -> Iterator[Verdict]:
    hashed: dict[tuple[str, str], Check] = {}
    for _, row in ordered(read_results(results)).iterrows():
        name = f"{row['dataset']}, {row['protocol']}, {method_name(row)}"
        if only in name:
            yield Verdict(name, tuple(_checks(results, row, workspace, refit, hashed)))


def _checks(
    results: Path,
    row: pd.Series,
    workspace: Workspace,
    refit: SolverOptions | None,
    hashed: dict[tuple[str, str], Check],
) -> Iterator[Check]:
    def once(name: str, sha256: str, check: Callable[[], Check]) -> Check:
        """Big files are hashed once, however many rows depend on them."""
        if (name, sha256) not in hashed:
            hashed[name, sha256] = check()
        return hashed[name, sha256]

    first, card = check_card(results, row)
    yield first
    if card:
        yield check_predictions(results, row, card)
    if row["weights_sha256"]:
        yield once("weights", row["weights_sha256"], lambda: _check_weights(row, workspace))
    if images := card.get("images_sha256"):
        image_set = find_image_set_by_sha256(workspace, images)
        yield once("images", images, lambda: check_artifact("images", image_set, IMAGES, images))
    sha256 = row["features_sha256"]
    path = find_features_by_sha256(workspace, sha256)
    features = once("features", sha256, lambda: check_artifact("features", path, FEATURES, sha256))
    yield features
    if card and path and features.outcome == HOLDS:
        yield from _checks_on_features(results, row, card, path, workspace, refit)


def _check_weights(row: pd.Series, workspace: Workspace) -> Check:
    artifact = find_weights_by_sha256(workspace, row["weights_sha256"])
    if artifact is None:
        return check_made_weights(row, workspace)
    path, kind = artifact
    return check_artifact("weights", path, kind, row["weights_sha256"])


def _checks_on_features(
    results: Path, row: pd.Series, card: Card, path: Path, workspace: Workspace, refit: SolverOptions | None
) -> Iterator[Check]:
    try:
        features = load_features(path)
    except EvalkitError as error:
        yield Check("label subsets", UNCHECKED, str(error))
        return
    yield check_labels(results, row, card, features)
    check, label_subsets = check_label_subsets(row, card, features, workspace)
    yield check
    if refit and label_subsets:
        yield check_refit(row, features, label_subsets, refit)


def check_card(results: Path, row: pd.Series) -> tuple[Check, Card]:
    """The run card is as it was written and agrees with the row; the card is empty if it cannot be read."""
    if not row["card"]:
        return Check("run card", UNCHECKED, "the row names none"), {}
    try:
        card = read_card(results, row["card"])
    except ArtifactError as error:
        exists = card_path(results, row["card"]).exists()
        return Check("run card", DIFFERS if exists else UNCHECKED, str(error)), {}
    for column in COLUMNS:
        in_card, in_row = as_written(column, card["result"].get(column)), as_written(column, row[column])
        if column != "card" and in_card != in_row:
            return Check("run card", DIFFERS, f"{column} is {in_card!r} in the card, {in_row!r} in the row"), card
    return Check("run card", HOLDS), card


def check_predictions(results: Path, row: pd.Series, card: Card) -> Check:
    """Value, uncertainty and interval follow from the stored predictions and labels."""
    name = "result from predictions"
    try:
        predictions, labels = read_predictions(results, row["card"], card)
    except ArtifactError as error:
        exists = card_path(results, row["card"]).with_suffix(".npz").exists()
        return Check(name, DIFFERS if exists else UNCHECKED, str(error))
    correct = predictions == labels
    columns = uncertainty_of(~correct if "error" in row["metric"] else correct).columns()
    for column in ("value", "uncertainty", "std", "interval_low", "interval_high"):
        computed, in_row = as_written(column, columns[column]), as_written(column, row[column])
        if computed != in_row:
            return Check(name, DIFFERS, f"{column} is {computed} by the predictions, {in_row} in the row")
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
    """Weights that are not a file of a run: random ones are drawn again, others are looked up by their name."""
    encoder = str(row["encoder"]).split(" (")[0]
    try:
        sha256 = load_encoder(encoder, home=workspace).sha256
    except EvalkitError:
        return Check("weights", UNCHECKED, f"none here with SHA-256 {row['weights_sha256'][:12]}…")
    if sha256 == row["weights_sha256"]:
        return Check("weights", HOLDS)
    return Check("weights", DIFFERS if encoder.startswith("random:") else UNCHECKED, f"{encoder} is another here")


def check_label_subsets(
    row: pd.Series, card: Card, features: FeatureSet, workspace: Workspace
) -> tuple[Check, LabelSubsets | None]:
    """Split and label subsets, made again from the protocol or read from their file, hash to what the row says."""
    name, sha256 = "label subsets", row["label_subsets_sha256"]
    label_subsets = make_label_subsets(features, Protocol(**card["protocol"]))
    if label_subsets.sha256 == sha256:
        return Check(name, HOLDS), label_subsets
    if card["label_subsets_are_the_protocols"]:
        return Check(name, DIFFERS, f"made again they hash to {label_subsets.sha256[:12]}…"), None
    for path in workspace.label_subsets.glob(f"*--{sha256[:12]}.json"):
        return Check(name, HOLDS), read_label_subsets(path, features)
    return Check(name, UNCHECKED, f"they came from a file that is not in {workspace.label_subsets}"), None


def check_labels(results: Path, row: pd.Series, card: Card, features: FeatureSet) -> Check:
    """The labels stored beside the predictions are the test labels of the features."""
    try:
        stored = read_predictions(results, row["card"], card)[1]
    except ArtifactError as error:
        return Check("test labels", UNCHECKED, str(error))
    if np.array_equal(stored, features.labels[features.rows("test")]):
        return Check("test labels", HOLDS)
    return Check("test labels", DIFFERS, "those beside the predictions are others")


def check_refit(row: pd.Series, features: FeatureSet, label_subsets: LabelSubsets, options: SolverOptions) -> Check:
    """Fits at the selected value again: the accuracy is the row's, to what the solver's tolerance may move."""
    by_name = {classifier.display_name: classifier for classifier in CLASSIFIERS.values()}
    if row["classifier"] not in by_name:
        return Check("refit", UNCHECKED, f"no classifier {row['classifier']!r} to fit again")
    X, y, test = layer_columns(features, row["layers"]), features.labels, features.rows("test")
    value = float(str(row["hyperparameter"]).partition(" = ")[2])
    predict = by_name[row["classifier"]].predict
    predictions = predict(X, y, label_subsets.test, [value], test, options).labels[:, 0]
    percent = 100 * float((predictions == y[test]).mean())
    percent = 100 - percent if "error" in row["metric"] else percent
    outcome = HOLDS if abs(percent - float(row["value"])) <= REFIT_POINTS else DIFFERS
    return Check("refit", outcome, f"{percent:.2f} % fitted again, {row['value']:.2f} % in the row")


def find_features_by_sha256(workspace: Workspace, sha256: str) -> Path | None:
    """The feature set whose features.npy has the hash."""
    paths = workspace.artifacts(FEATURES)
    return next((path for path in paths if _claimed_hashes(path).get("features.npy") == sha256), None)


def find_image_set_by_sha256(workspace: Workspace, sha256: str) -> Path | None:
    """The image set whose images have the hash; a subset has one made from its own rows and its parent's hash."""
    for path in workspace.artifacts(IMAGES):
        if _claimed_hashes(path).get("images.npy") == sha256:
            return path
        try:
            if load_images(path).sha256 == sha256:
                return path
        except ArtifactError:
            continue
    return None


def find_weights_by_sha256(workspace: Workspace, sha256: str) -> tuple[Path, str] | None:
    """A checkpoint, or other weights of the workspace, with a file of the hash; and the artifact's kind."""
    for pattern in ("runs/*/checkpoints/*", "pretrained/*", "kmeans/*"):
        for path in sorted(workspace.home.glob(pattern)):
            if sha256 in _claimed_hashes(path).values():
                return path, json.loads((path / MANIFEST).read_text())["kind"]
    return None


def _claimed_hashes(path: Path) -> dict[str, str]:
    """File name -> SHA-256, as the manifest in `path` says; empty if there is none to read."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        return {name: entry["sha256"] for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
