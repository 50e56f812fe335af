"""verify: every row of a results.csv against its run card and the artifacts at hand."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evalkit.cards import Card
from evalkit.errors import EvalkitError
from evalkit.features.featureset import KIND as FEATURES
from evalkit.features.featureset import load_features
from evalkit.images.imageset import KIND as IMAGES
from evalkit.probes.classifier import FitOptions
from evalkit.results import method_name, ordered, read_results
from evalkit.verify.at_hand import features_at_hand, images_at_hand, weights_at_hand
from evalkit.verify.checks import (
    DIFFERS,
    HOLDS,
    UNCHECKED,
    Check,
    check_artifact,
    check_card,
    check_draws,
    check_labels,
    check_made_weights,
    check_predictions,
    check_refit,
)
from evalkit.workspace import Workspace


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
    results: Path, workspace: Workspace, *, refit: FitOptions | None = None, row_filter: str = ""
) -> Iterator[Verdict]:
    """Checks every row, one after the other.

    Args:
        results: a results.csv, with its cards folder beside it.
        workspace: where features, weights, pictures and draws are looked for, by their hashes.
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
    results: Path, row: pd.Series, workspace: Workspace, refit: FitOptions | None, hashed: dict[tuple[str, str], Check]
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
        place = images_at_hand(workspace, images)
        yield once("pictures", images, lambda: check_artifact("pictures", place, IMAGES, images))
    sha256 = row["features_sha256"]
    path = features_at_hand(workspace, sha256)
    features = once("features", sha256, lambda: check_artifact("features", path, FEATURES, sha256))
    yield features
    if card and path and features.outcome == HOLDS:
        yield from _checks_on_features(results, row, card, path, workspace, refit)


def _weights(row: pd.Series, workspace: Workspace) -> Check:
    found = weights_at_hand(workspace, row["weights_sha256"])
    if found is None:
        return check_made_weights(row, workspace)
    return check_artifact("weights", found[0], found[1], row["weights_sha256"])


def _checks_on_features(
    results: Path, row: pd.Series, card: Card, path: Path, workspace: Workspace, refit: FitOptions | None
) -> Iterator[Check]:
    try:
        features = load_features(path)
    except EvalkitError as error:
        yield Check("label draws", UNCHECKED, str(error))
        return
    yield check_labels(results, row, card, features)
    check, draws = check_draws(row, card, features, workspace)
    yield check
    if refit and draws:
        yield check_refit(row, features, draws, refit)
