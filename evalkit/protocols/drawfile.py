"""Label draws as files, so that two papers fit on the same rows: JSON with a hash over everything in it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.artifacts import sha256_json, write_atomically
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.featureset import FeatureSet
from evalkit.protocols.draws import Draws, labels_sha256

KIND = "label draws"
_ROWS = ("validation", "select", "test")
_KEYS = {"dataset", "protocol", "seed", "labels_sha256", "selected_on", *_ROWS}


def write_draws(folder: Path, draws: Draws) -> Path:
    """Writes the draws into `folder` under a name with their hash, unless they are there, and returns the file."""
    path = folder / f"{draws.dataset}--{draws.protocol}--{draws.sha256[:12]}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"kind": KIND, **draws.as_dict(), "sha256": draws.sha256}) + "\n")
    return path


def read_draws(path: Path, features: FeatureSet) -> Draws:
    """Draws from a file, for the features of the data set that they were made for.

    Raises:
        ArtifactError: no file of draws, or one that was changed.
        EvalkitError: draws of another data set, or ones that fit or choose on test pictures unless they say so.
    """
    content = _read(path)
    draws = Draws(**content | {key: [np.array(rows, np.int64) for rows in content[key]] for key in _ROWS})
    if draws.labels_sha256 != labels_sha256(features):
        raise EvalkitError(f"{path}: draws from other labels ({draws.dataset}), the features are of {features.dataset}")
    train = features.rows("train")
    judged_in = features.rows("test") if draws.selected_on == "test" else train
    _refuse_outside(path, "training", draws.select, train)
    _refuse_outside(path, "training", draws.test, train)
    _refuse_outside(path, "validation", draws.validation, judged_in)
    for number, rows in enumerate(draws.select):
        judged = draws.validation[number % len(draws.validation)]
        if np.isin(judged, rows).any():
            raise EvalkitError(f"{path}: selecting draw {number} is fitted on rows that it is validated on")
    return draws


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not readable as label draws ({error})") from None
    if not isinstance(content, dict) or content.get("kind") != KIND or set(content) != _KEYS | {"kind", "sha256"}:
        raise ArtifactError(f"{path}: holds no {KIND}; `evalkit svm` writes them into the workspace's draws folder")
    del content["kind"]
    if content.pop("sha256") != sha256_json(content):
        raise ArtifactError(f"{path}: its rows do not hash to what it says; it was changed, get it again")
    return content


def _refuse_outside(path: Path, what: str, draws: Sequence[np.ndarray], allowed: np.ndarray) -> None:
    outside = sum(int((~np.isin(rows, allowed)).sum()) for rows in draws)
    if outside or min((len(rows) for rows in draws), default=0) == 0:
        raise EvalkitError(
            f"{path}: {outside} {what} rows outside the split they belong to, or none at all; "
            "test pictures are neither fitted nor chosen on (--select-on-test does the latter and says so)"
        )
