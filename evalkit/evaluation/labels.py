"""The one rule for labels of rows that are fitted or tested: each is a class, and what a split lacks is said.

Every evaluation checks its image set or feature set here before it fits. A row without a label (-1) is never counted
as an error.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from evalkit.errors import EvalkitError

logger = logging.getLogger(__name__)

_SHOWN = 5  # class names in a message


class Labelled(Protocol):
    """An image set or a feature set."""

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def splits(self) -> Mapping[str, tuple[int, int]]: ...


def check_split(labelled: Labelled, split: str, name: str) -> None:
    """Refuses a split with rows that have no label, or one out of the range of the class names.

    Args:
        labelled: what has labels.
        split: "train" or "test".
        name: of the data set, for messages.

    Raises:
        EvalkitError: such a label, no rows, or no such split.
    """
    if split not in labelled.splits:
        raise EvalkitError(f"{name}: no split {split!r}; it has {', '.join(labelled.splits)}")
    check_labels(labelled.labels[slice(*labelled.splits[split])], len(labelled.class_names), f"{name}: {split} split")


def check_labels(labels: np.ndarray, classes: int, where: str) -> None:
    """Refuses labels of which one is not a whole number from 0 to `classes` - 1.

    Args:
        where: what the labels are of, for messages.

    Raises:
        EvalkitError: such a label, or no labels at all.
    """
    labels = np.asarray(labels)
    if len(labels) == 0:
        raise EvalkitError(f"{where}: no rows; expected labelled images")
    whole = labels.astype(np.float64) == np.floor(labels.astype(np.float64))  # False for NaN
    unlabelled = int((~whole | (labels < 0)).sum())
    if unlabelled:
        raise EvalkitError(
            f"{where}: {unlabelled:,} of {len(labels):,} images have no label; expected a class for each, as one "
            "folder per class or a list with labels gives; leave images without a label out, or in a split of their own"
        )
    if labels.max() >= classes:
        raise EvalkitError(f"{where}: labels {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")


def log_missing_classes(labelled: Labelled, name: str) -> None:
    """Says which classes the splits `train` and `test` lack beside each other; both are checked before."""
    present = {
        split: set(np.unique(labelled.labels[slice(*labelled.splits[split])]).tolist()) for split in ("train", "test")
    }
    for split, other in (("train", "test"), ("test", "train")):
        missing = sorted(present[other] - present[split])
        if missing:
            rows = int(np.isin(labelled.labels[slice(*labelled.splits[other])], missing).sum())
            shown = ", ".join(str(labelled.class_names[k]) for k in missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            counted = "; no classifier can learn them, they count as errors" if split == "train" else ""
            logger.warning(
                "%s: the %s split has no images of %d classes of the %s split (%s%s; %s images there)%s",
                name, split, len(missing), other, shown, more, f"{rows:,}", counted,
            )  # fmt: skip
