"""Label subsets: the rows that a protocol validates on, and the training rows of each of its fits.

All of it is a function of the protocol's seed. `evaluate` makes them once; files of them, JSON with a hash over
everything inside, let two papers fit on the same rows.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from evalkit.artifacts import read_json, safe_name, sha256_json, write_atomically
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.evaluation.labels import check_split
from evalkit.evaluation.protocol import Protocol
from evalkit.features.featureset import FeatureSet

KIND = "label subsets"
_ROWS = ("validation", "select", "test")
_KEYS = ("dataset", "protocol", "seed", "labels_sha256", "select_on")


@dataclass(frozen=True)
class LabelSubsets:
    """All rows that a result is fitted and validated on; sorted int64 row numbers of the image set.

    Attributes:
        dataset, protocol, seed: as in results.
        labels_sha256: hash of the labels of all rows: label subsets belong to one data set.
        select_on: `validation` or `test`.
        validation: rows that score the hyperparameter; one set, or one per fold.
        select: training rows of each selection fit; fit i is scored on validation[i % len(validation)].
        test: training rows of each fit that is tested.
        drawn_for: the protocol that drew them; None for those from a file. Not part of the hash.
    """

    dataset: str
    protocol: str
    seed: int
    labels_sha256: str
    select_on: str
    validation: Sequence[np.ndarray]
    select: Sequence[np.ndarray]
    test: Sequence[np.ndarray]
    drawn_for: Protocol | None = field(default=None, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The label subsets as JSON values."""
        rows = {key: [each.tolist() for each in getattr(self, key)] for key in _ROWS}
        return {key: getattr(self, key) for key in _KEYS} | rows

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the label subsets in canonical JSON."""
        return sha256_json(self.as_dict())


def make_label_subsets(features: FeatureSet, protocol: Protocol) -> LabelSubsets:
    """The protocol's rows of a feature set.

    Raises:
        EvalkitError: too few rows of a class, or labels that no classifier can learn from.
    """
    protocol = protocol.with_counts(len(features.class_names))
    train, labels = features.rows("train"), features.labels
    check_features_labels(features)
    validation = _validation_rows(features, train, protocol)
    pools = [np.setdiff1d(train, rows) for rows in validation]
    if protocol.labels_per_class is None:
        # differs from the paper: it does not say whether validation rows rejoin the training set; here they do
        select, test = pools, [train]
    else:
        assert protocol.num_selection_subsets and protocol.num_test_subsets
        # fresh subsets are tested; rows held out for validation do not rejoin them [release]
        pool = pools[0] if protocol.folds is None else train
        count, k = protocol.num_selection_subsets, protocol.labels_per_class
        sources = [pools[i % len(pools)] for i in range(count)] + [pool] * protocol.num_test_subsets
        subsets = [sample_label_subset(labels, rows, k, seed=(protocol.seed, i)) for i, rows in enumerate(sources)]
        select, test = subsets[:count], subsets[count:]
    return LabelSubsets(
        dataset=features.dataset,
        protocol=protocol.name,
        seed=protocol.seed,
        labels_sha256=labels_sha256(features),
        select_on=protocol.select_on,
        validation=validation,
        select=select,
        test=test,
        drawn_for=protocol,
    )


def labels_sha256(features: FeatureSet) -> str:
    """Hex SHA-256 of the labels of all rows, as little-endian int64."""
    return hashlib.sha256(np.asarray(features.labels, "<i8").tobytes()).hexdigest()


def _validation_rows(features: FeatureSet, train: np.ndarray, protocol: Protocol) -> list[np.ndarray]:
    if protocol.select_on == "test":
        return [features.rows("test")]
    if protocol.folds is None:
        return [split_validation(features.labels, train, protocol)[1]]
    smallest = np.bincount(features.labels[train]).min()
    if smallest < protocol.folds:
        raise EvalkitError(f"{protocol.folds} folds, {smallest} rows in the smallest class: use fewer folds")
    folds = StratifiedKFold(protocol.folds, shuffle=True, random_state=protocol.seed)
    return [train[rows] for _, rows in folds.split(train, features.labels[train])]


def check_features_labels(features: FeatureSet) -> None:
    """Refuses labels that no classifier can learn from or be tested on.

    Raises:
        EvalkitError: missing labels or labels out of the range of the class names, in the training or the test split;
            or a single class in the training split.
    """
    for split in ("train", "test"):
        check_split(features, split, features.dataset)
    labels = features.labels[features.rows("train")]
    if len(np.unique(labels)) < 2:
        only = features.class_names[labels[0]]
        raise EvalkitError(
            f"{features.dataset}: all {len(labels):,} training labels are {only!r}, a fit needs two classes"
        )


def split_validation(labels: np.ndarray, train: np.ndarray, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Training rows as (to fit, to validate), both sorted; stratified, a function of the seed."""
    count = min(protocol.validation, len(train) // 5)
    smallest = np.bincount(labels[train]).min() if len(train) else 0
    if count < 1 or smallest < 2:
        raise EvalkitError(f"{len(train)} training rows, {smallest} in the smallest class: too few to hold some out")
    fit, validation = train_test_split(train, test_size=count, stratify=labels[train], random_state=protocol.seed)
    return np.sort(fit), np.sort(validation)


def sample_label_subset(labels: np.ndarray, rows: np.ndarray, per_class: int, *, seed: Sequence[int]) -> np.ndarray:
    """`per_class` of the rows of every class, sampled without replacement; sorted, a function of the seed.

    Raises:
        EvalkitError: a class has fewer rows.
    """
    random = np.random.default_rng(list(seed))
    sampled = []
    for k in np.unique(labels[rows]):
        of_class = rows[labels[rows] == k]
        if len(of_class) < per_class:
            raise EvalkitError(
                f"the protocol needs {per_class} labels per class, class {k} has {len(of_class)} outside validation"
            )
        sampled.append(random.choice(of_class, per_class, replace=False))
    return np.sort(np.concatenate(sampled))


def write_label_subsets(folder: Path, label_subsets: LabelSubsets) -> Path:
    """Writes the label subsets into `folder`, unless they are there, under a name with their hash; returns the path."""
    sha256 = label_subsets.sha256
    path = folder / f"{safe_name(label_subsets.dataset, 'data set')}--{label_subsets.protocol}--{sha256[:12]}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"kind": KIND, **label_subsets.as_dict(), "sha256": sha256}) + "\n")
    return path


def read_label_subsets(path: Path, features: FeatureSet) -> LabelSubsets:
    """Label subsets from a file, for features of the data set that they were made for.

    Raises:
        ArtifactError: not a file of label subsets, or one that was changed.
        EvalkitError: label subsets of another data set, or ones that fit on test images, or that select on test images
            without saying so.
    """
    content = _read(path)
    label_subsets = LabelSubsets(
        **content | {key: [np.array(rows, np.int64) for rows in content[key]] for key in _ROWS}
    )
    if label_subsets.labels_sha256 != labels_sha256(features):
        raise EvalkitError(
            f"{path}: label subsets of other labels ({label_subsets.dataset}), the features are of {features.dataset}"
        )
    train = features.rows("train")
    scored_on = features.rows("test") if label_subsets.select_on == "test" else train
    _check_inside(path, "training", label_subsets.select, train)
    _check_inside(path, "training", label_subsets.test, train)
    _check_inside(path, "validation", label_subsets.validation, scored_on)
    for number, rows in enumerate(label_subsets.select):
        scored = label_subsets.validation[number % len(label_subsets.validation)]
        if np.isin(scored, rows).any():
            raise EvalkitError(f"{path}: selection subset {number} is fitted on rows that it is validated on")
    return label_subsets


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not readable as label subsets ({error})") from None
    keys = {"kind", *_KEYS, *_ROWS, "sha256"}
    if not isinstance(content, dict) or content.get("kind") != KIND or set(content) != keys:
        raise ArtifactError(f"{path}: not a file of label subsets; `evalkit svm` writes them into the workspace")
    del content["kind"]
    if content.pop("sha256") != sha256_json(content):
        raise ArtifactError(f"{path}: its rows do not hash to its sha256; it was changed, get it again")
    return content


def _check_inside(path: Path, what: str, subsets: Sequence[np.ndarray], allowed: np.ndarray) -> None:
    outside = sum(int((~np.isin(rows, allowed)).sum()) for rows in subsets)
    if outside or min((len(rows) for rows in subsets), default=0) == 0:
        raise EvalkitError(
            f"{path}: {outside} {what} rows outside the split they belong to, or none at all; test images are neither "
            "fitted nor used to select the hyperparameter (--select-on test does the latter and says so)"
        )
