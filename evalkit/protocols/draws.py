"""Which rows are validated on and which labels are drawn; all of it a function of the protocol's seed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from evalkit.artifacts import sha256_json
from evalkit.errors import EvalkitError
from evalkit.features.featureset import FeatureSet
from evalkit.protocols.settings import Protocol


@dataclass(frozen=True)
class Draws:
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
    selected_on: str
    validation: Sequence[np.ndarray]
    select: Sequence[np.ndarray]
    test: Sequence[np.ndarray]

    def as_dict(self) -> dict:
        """The draws as JSON values."""
        names = ("dataset", "protocol", "seed", "labels_sha256", "selected_on")
        rows = {key: [each.tolist() for each in getattr(self, key)] for key in ("validation", "select", "test")}
        return {name: getattr(self, name) for name in names} | rows

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the draws in canonical JSON."""
        return sha256_json(self.as_dict())


def labels_sha256(features: FeatureSet) -> str:
    """Hex SHA-256 of the labels of all rows, as little-endian int64."""
    return hashlib.sha256(np.asarray(features.labels, "<i8").tobytes()).hexdigest()


def make_draws(features: FeatureSet, protocol: Protocol) -> Draws:
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
        assert protocol.select_draws and protocol.repeats
        # fresh draws are tested; rows set aside for validation are not folded in [release]
        pool = pools[0] if protocol.folds is None else train
        count, k = protocol.select_draws, protocol.labels_per_class
        sources = [pools[i % len(pools)] for i in range(count)] + [pool] * protocol.repeats
        drawn = [draw_labels(labels, rows, k, seed=(protocol.seed, i)) for i, rows in enumerate(sources)]
        select, test = drawn[:count], drawn[count:]
    about = (features.dataset, protocol.name, protocol.seed, labels_sha256(features), protocol.selected_on)
    return Draws(*about, validation, select, test)


def _validation(features: FeatureSet, train: np.ndarray, protocol: Protocol) -> list[np.ndarray]:
    if protocol.selected_on == "test":
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
            f"{features.dataset}: {unlabelled:,} of {len(labels):,} training pictures have no label; expected a class "
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


def draw_labels(labels: np.ndarray, rows: np.ndarray, per_class: int, *, seed: Sequence[int]) -> np.ndarray:
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
