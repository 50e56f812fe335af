"""Which rows are validated on and which labels are drawn; all of it a function of the protocol's seed."""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import train_test_split

from evalkit.errors import EvalkitError
from evalkit.features.featureset import FeatureSet
from evalkit.protocols.settings import Protocol


def check_labels(features: FeatureSet, rows: np.ndarray) -> None:
    """Refuses labels that no classifier can learn from.

    Raises:
        EvalkitError: labels out of the range of the class names, or one class only.
    """
    labels, count = features.labels[rows], len(features.class_names)
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
