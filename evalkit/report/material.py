"""What a report is made of: the comparison, and whatever the workspace has on the runs behind it."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evalkit.artifacts import read_manifest
from evalkit.cards import Card, read_card, read_predictions
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.latent.finding import GalleryPicture, gallery
from evalkit.pretrained.find import find_pretrained
from evalkit.protocols.provenance import facts_of
from evalkit.report.tables import compare
from evalkit.results import method_name, ordered, read_results
from evalkit.workspace import Workspace

_WEIGHTS = "pretrained:"
_RUN = re.compile(r"(?P<run>[^ ]+)@(?P<updates>\d+)")  # an encoder's name: a run and how far it was trained


@dataclass(frozen=True)
class Measured:
    """A row of results.csv with what its run card holds; `card` and `predictions` are empty where there is none.

    Attributes:
        row: of results.csv; method: as tables name it.
        predictions: int64 (fits, test rows); labels: int64 (test rows,).
        training: how the encoder was trained, by the card, else by its run in the workspace; empty if neither says.
    """

    row: pd.Series
    method: str
    card: Card
    predictions: np.ndarray
    labels: np.ndarray
    training: dict[str, Any]

    @property
    def trained(self) -> tuple[str, int]:
        """The run (or the weights handed on) and its D updates; ("", 0) for encoders that are neither."""
        if self.row["encoder"].startswith(_WEIGHTS) and self.training.get("d_updates"):
            return self.row["encoder"], self.training["d_updates"] + self.training.get("d_updates_before", 0)
        return _trained(self.row["encoder"])


def _trained(encoder: str) -> tuple[str, int]:
    found = _RUN.match(encoder)
    return (found["run"], int(found["updates"])) if found else ("", 0)


@dataclass(frozen=True)
class Material:
    """All that a report shows.

    Attributes:
        table: measured and published figures, from `compare`.
        measured: the measured ones with their run cards, in the order of results.csv.
        samples: run, or weights handed on -> its grids of samples, fewest updates first.
        probes: likewise -> its probe.csv (accuracy while training).
        gallery: pictures of the experiments in the workspace's `latent`.
        folder: that of results.csv; run cards' names in `table` begin there.
        missing: why a card or its predictions are not in the report, one line each.
    """

    table: pd.DataFrame
    measured: list[Measured]
    samples: dict[str, list[Path]]
    probes: dict[str, pd.DataFrame]
    gallery: list[GalleryPicture]
    folder: Path
    missing: list[str]


def gather(results: Path, workspace: Workspace) -> Material:
    """Reads the figures, their run cards beside `results`, and the workspace's pictures of the runs measured.

    Raises:
        ArtifactError: `results` has other columns.
    """
    table = read_results(results)
    missing: list[str] = []
    measured = [_measured(results, row, workspace, missing) for _, row in ordered(table).iterrows()]
    folders = {name: _folder(name, workspace) for name in sorted({each.trained[0] for each in measured} - {""})}
    samples = {name: sorted([*at.glob("samples/*.png"), *at.glob("samples-*.png")]) for name, at in folders.items()}
    probes = {name: pd.read_csv(at / "probe.csv") for name, at in folders.items() if (at / "probe.csv").is_file()}
    return Material(
        table=compare(table),
        measured=measured,
        samples={name: found for name, found in samples.items() if found},
        probes=probes,
        gallery=gallery(workspace.home / "latent"),
        folder=results.parent,
        missing=missing,
    )


def _folder(trained: str, workspace: Workspace) -> Path:
    """Where a run, or the weights handed on from one, has its samples and its probe's curve, if it is here."""
    if trained.startswith(_WEIGHTS):
        with contextlib.suppress(EvalkitError):
            return find_pretrained(trained.removeprefix(_WEIGHTS), workspace, fetch_missing=False)
    return workspace.home / "runs" / trained


def _measured(results: Path, row: pd.Series, workspace: Workspace, missing: list[str]) -> Measured:
    """The row with its card; a card that is missing or was changed is named in `missing` instead."""
    card: Card = {}
    predictions, labels = np.empty((0, 0), np.int64), np.empty(0, np.int64)
    if row["card"]:
        try:
            card = read_card(results, row["card"])
            predictions, labels = read_predictions(results, row["card"], card)
        except ArtifactError as error:
            missing.append(str(error))
    training = card.get("training") or _training_of_the_run(row["encoder"], workspace)
    return Measured(row, method_name(row), card, predictions, labels, training)


def _training_of_the_run(encoder: str, workspace: Workspace) -> dict[str, Any]:
    run, updates = _trained(encoder)
    try:
        manifest = read_manifest(workspace.home / "runs" / run, "run")
    except ArtifactError:
        return {}
    return facts_of(manifest, workspace) | {"d_updates": updates}
