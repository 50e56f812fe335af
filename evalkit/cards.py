"""Run cards: what a figure of results.csv leads to. Written when a figure is measured, read by report and verify.

cards/NAME.json (beside results.csv)   how the figure came about, and what its predictions hash to
cards/NAME.npz                         the predictions, and the labels that they were judged by

NAME is the start of the SHA-256 of the card's content: a card that was changed no longer has its name.
"""

import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.artifacts import sha256_json, write_atomically, write_json
from evalkit.errors import ArtifactError

FORMAT = 1  # raised when a reader of the old layout would misread the new one
FOLDER = "cards"

Card = dict[str, Any]


def card_path(results: Path, name: str) -> Path:
    """Where the card `name` of a results.csv is."""
    return results.parent / FOLDER / f"{name}.json"


def write_card(results: Path, content: Card, *, predictions: np.ndarray, labels: np.ndarray) -> str:
    """Writes a card and its predictions, atomically, and returns the card's name.

    Args:
        results: the results.csv that the card stands beside.
        content: JSON values.
        predictions: integers (fits, test rows), predicted labels.
        labels: integers (test rows,).
    """
    packed = io.BytesIO()
    smallest = np.min_scalar_type(int(max(predictions.max(), labels.max())))
    np.savez_compressed(packed, predictions=predictions.astype(smallest), labels=labels.astype(smallest))
    sha256 = _arrays_sha256(predictions, labels)
    card = {"format": FORMAT, "kind": "run card", **content, "predictions_sha256": sha256}
    path = card_path(results, _name(card))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.with_suffix(".npz"), packed.getvalue())
    write_json(path, card)
    return path.stem


def _name(card: Card) -> str:
    return sha256_json(card)[:16]


def _arrays_sha256(*arrays: np.ndarray) -> str:
    """Hex SHA-256 of shapes and values: packed bytes differ between versions of the packer."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(str(array.shape).encode() + np.ascontiguousarray(array, "<i8").tobytes())
    return found.hexdigest()


def read_card(results: Path, name: str) -> Card:
    """The card that a row of `results` names.

    Raises:
        ArtifactError: missing, not readable, of another format, or changed since it was written.
    """
    path = card_path(results, name)
    try:
        card = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such run card; copy the cards folder along with {results.name}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not readable as a run card ({error}); measure the figure again") from None
    if not isinstance(card, dict) or card.get("kind") != "run card" or card.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not a run card of format {FORMAT}; measure the figure again")
    if _name(card) != name:
        raise ArtifactError(f"{path}: changed since it was written (its content hashes to {_name(card)})")
    return card


def read_predictions(results: Path, name: str, card: Card) -> tuple[np.ndarray, np.ndarray]:
    """The predictions (fits, test rows) and labels (test rows,) behind a card, int64.

    Raises:
        ArtifactError: missing, or not what the card says they hash to.
    """
    path = card_path(results, name).with_suffix(".npz")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such predictions; copy the cards folder along with {results.name}")
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            predictions, labels = arrays["predictions"].astype(np.int64), arrays["labels"].astype(np.int64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"{path}: not readable as predictions ({error}); measure the figure again") from None
    if _arrays_sha256(predictions, labels) != card["predictions_sha256"]:
        raise ArtifactError(f"{path}: its predictions are not those of the run card")
    return predictions, labels
