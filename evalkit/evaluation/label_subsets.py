"""Which rows are validated on and which labels are drawn; all of it a function of the protocol's seed.

Label draws as files, so that two papers fit on the same rows: JSON with a hash over everything in it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from evalkit.artifacts import sha256_json, write_atomically
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.evaluation.protocol import Protocol
from evalkit.features.featureset import FeatureSet


def labels_sha256(features: FeatureSet) -> str:
    """Hex SHA-256 of the labels of all rows, as little-endian int64."""
    return hashlib.sha256(np.asarray(features.labels, "<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class LabelSubsets:
    """All rows a figure is fitted and chosen on; sorted int64 row numbers of the image set.

    Attributes:
        dataset, protocol, seed: as figures carry them.
        labels_sha256: of the labels of all rows: draws belong to one data set.
        selected_on: `validation` or `test`.
        validation: the rows C is chosen on; several sets for folds.
        select: training rows of each fit that chooses C; fit i is judged on validation[i % len(validation)].
        test: training rows of each fit that is tested.
    """

    dataset: str
    protocol: str
    seed: int
    labels_sha256: str
    select_on: str
    validation: Sequence[np.ndarray]
    select: Sequence[np.ndarray]
    test: Sequence[np.ndarray]

    def as_dict(self) -> dict:
        """The draws as JSON values."""
        names = ("dataset", "protocol", "seed", "labels_sha256", "select_on")
        rows = {key: [each.tolist() for each in getattr(self, key)] for key in ("validation", "select", "test")}
        return {name: getattr(self, name) for name in names} | rows

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the draws in canonical JSON."""
        return sha256_json(self.as_dict())


def make_label_subsets(features: FeatureSet, protocol: Protocol) -> LabelSubsets:
    """The protocol's rows on a feature set.

    Raises:
        EvalkitError: too few rows of a class, or labels that no classifier can learn from.
    """
    protocol = protocol.with_counts(len(features.class_names))
    train, labels = features.rows("train"), features.labels
    check_labels(features, train)
    validation = _validation(features, train, protocol)
    pools = [np.setdiff1d(train, rows) for rows in validation]
    if protocol.labels_per_class is None:
        # differs from the paper: it does not say whether validation rows rejoin the training set; here they do
        select, test = pools, [train]
    else:
        assert protocol.num_selection_subsets and protocol.num_test_subsets
        # fresh draws are tested; rows set aside for validation are not folded in [release]
        pool = pools[0] if protocol.folds is None else train
        count, k = protocol.num_selection_subsets, protocol.labels_per_class
        sources = [pools[i % len(pools)] for i in range(count)] + [pool] * protocol.num_test_subsets
        drawn = [sample_label_subset(labels, rows, k, seed=(protocol.seed, i)) for i, rows in enumerate(sources)]
        select, test = drawn[:count], drawn[count:]
    about = (features.dataset, protocol.name, protocol.seed, labels_sha256(features), protocol.select_on)
    return LabelSubsets(*about, validation, select, test)


def _validation(features: FeatureSet, train: np.ndarray, protocol: Protocol) -> list[np.ndarray]:
    if protocol.select_on == "test":
        return [features.rows("test")]
    if protocol.folds is None:
        return [split_validation(features.labels, train, protocol)[1]]
    smallest = np.bincount(features.labels[train]).min()
    if smallest < protocol.folds:
        raise EvalkitError(f"{protocol.folds} folds, {smallest} rows in the smallest class: use fewer folds")
    folds = StratifiedKFold(protocol.folds, shuffle=True, random_state=protocol.seed)
    return [train[rows] for _, rows in folds.split(train, features.labels[train])]


def check_labels(features: FeatureSet, rows: np.ndarray) -> None:
    """Refuses labels that no classifier can learn from.

    Raises:
        EvalkitError: labels out of the range of the class names, or one class only.
    """
    labels, count = features.labels[rows], len(features.class_names)
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        raise EvalkitError(
            f"{features.dataset}: {unlabelled:,} of {len(labels):,} training images have no label; expected a class "
            "for each, such as a folder a class or a list with labels gives"
        )
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= count:
        found = f"{labels.min()} to {labels.max()}" if len(labels) else "none"
        raise EvalkitError(f"{features.dataset}: training labels {found}, expected 0 to {count - 1}")
    if len(np.unique(labels)) < 2:
        only = features.class_names[labels[0]]
        raise EvalkitError(
            f"{features.dataset}: all {len(labels):,} training labels are {only!r}, a fit needs two classes"
        )


def split_validation(labels: np.ndarray, train: np.ndarray, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Training rows as (to fit, to validate), both sorted; the same share of every class, a function of the seed."""
    count = min(protocol.validation, len(train) // 5)
    smallest = np.bincount(labels[train]).min() if len(train) else 0
    if count < 1 or smallest < 2:
        raise EvalkitError(f"{len(train)} training rows, {smallest} in the smallest class: too few to set some aside")
    fit, validation = train_test_split(train, test_size=count, stratify=labels[train], random_state=protocol.seed)
    return np.sort(fit), np.sort(validation)


def sample_label_subset(labels: np.ndarray, rows: np.ndarray, per_class: int, *, seed: Sequence[int]) -> np.ndarray:
    """Draws `per_class` rows of every class without replacement; sorted row numbers, a function of the seed.

    Raises:
        EvalkitError: a class has fewer rows.
    """
    random = np.random.default_rng(list(seed))
    drawn = []
    for k in np.unique(labels[rows]):
        of_class = rows[labels[rows] == k]
        if len(of_class) < per_class:
            raise EvalkitError(
                f"the protocol draws {per_class} labels a class, class {k} has {len(of_class)} outside validation"
            )
        drawn.append(random.choice(of_class, per_class, replace=False))
    return np.sort(np.concatenate(drawn))


KIND = "label draws"
_ROWS = ("validation", "select", "test")
_KEYS = {"dataset", "protocol", "seed", "labels_sha256", "select_on", *_ROWS}


def write_label_subsets(folder: Path, draws: LabelSubsets) -> Path:
    """Writes the draws into `folder` under a name with their hash, unless they are there, and returns the file."""
    path = folder / f"{draws.dataset}--{draws.protocol}--{draws.sha256[:12]}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"kind": KIND, **draws.as_dict(), "sha256": draws.sha256}) + "\n")
    return path


def read_label_subsets(path: Path, features: FeatureSet) -> LabelSubsets:
    """Draws from a file, for the features of the data set that they were made for.

    Raises:
        ArtifactError: no file of draws, or one that was changed.
        EvalkitError: draws of another data set, or ones that fit or choose on test images unless they say so.
    """
    content = _read(path)
    draws = LabelSubsets(**content | {key: [np.array(rows, np.int64) for rows in content[key]] for key in _ROWS})
    if draws.labels_sha256 != labels_sha256(features):
        raise EvalkitError(f"{path}: draws from other labels ({draws.dataset}), the features are of {features.dataset}")
    train = features.rows("train")
    judged_in = features.rows("test") if draws.select_on == "test" else train
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
            "test images are neither fitted nor chosen on (--select-on-test does the latter and says so)"
        )
