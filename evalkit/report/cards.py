"""Run cards that the report shows: what evalkit writes in them, checked, since a card may come from anywhere.

`results` has read the card and compared its content with its name; that shows damage, not whether it is a card of ours.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from evalkit.errors import ArtifactError, printable
from evalkit.results import Card

Checks = dict[str, Callable[[Any], bool]]
_MOST_CLASSES = 1_000_000


def checked_card(card: Card, name: str) -> Card:
    """The card, if the report can show it.

    Raises:
        ArtifactError: an entry of another type; the message names it.
    """
    if key := _misfit(card, _CARD):
        found = repr(card[key])[:80]
        raise ArtifactError(f"run card {name}: {key} is {found}, not what evalkit writes; measure the result again")
    return card


def check_predictions(card: Card, name: str, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Refuses predictions that are not of the card's classes, or not as many as the labels."""
    classes = len(card.get("class_names", [])) or _MOST_CLASSES
    fits = predictions.ndim == 2 and labels.ndim == 1 and predictions.shape[1] == len(labels)
    if not fits or any(each.size and not 0 <= each.min() <= each.max() < classes for each in (predictions, labels)):
        raise ArtifactError(f"run card {name}: its predictions do not fit its labels and classes; measure it again")


def printable_json(value: Any) -> Any:
    """A card with all its texts printable; the hash of its name was checked before."""
    if isinstance(value, dict):
        return {printable(key): printable_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [printable_json(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def is_training(value: Any) -> bool:
    """Whether these are facts on the training of an encoder, as far as the report shows them."""
    return _is_table(value, _TRAINING) and ("images" not in value or {"num_images", "classes"} <= set(value))


def _is_protocol(value: Any) -> bool:
    counts = {"num_selection_subsets", "num_test_subsets"}
    return _is_table(value, _PROTOCOL) and (not value.get("labels_per_class") or counts <= set(value))


def _is_table(value: Any, checks: Checks) -> bool:
    return isinstance(value, dict) and _misfit(value, checks) is None


def _misfit(values: dict[str, Any], checks: Checks) -> str | None:
    """The first key whose value is not what the report can show."""
    return next((key for key, check in checks.items() if key in values and not check(values[key])), None)


def is_number(value: Any) -> bool:
    """Whether a plot has room for it."""
    return type(value) in (int, float) and abs(value) < 1e30


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 10**15


def _is_point(value: Any) -> bool:
    """A value of the hyperparameter, which need be no number, and its accuracy in percent."""
    fine = isinstance(value, list) and len(value) == 2 and is_number(value[1]) and -0.01 < value[1] < 100.01
    return fine and (is_number(value[0]) or value[0] is None or _is_text(value[0]))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_TRAINING: Checks = {
    "recipe": lambda value: isinstance(value, dict) and _is_text(value.get("name", "")),
    "precision": _is_text,
    "images": _is_text,
    **dict.fromkeys(("d_updates", "d_updates_before", "num_images", "classes"), _is_count),
}
_EXTRACTION: Checks = {"hflip": lambda value: type(value) is bool, "shift": _is_count, "batch_norm": _is_text}
_PROTOCOL: Checks = {
    "labels_per_class": lambda value: value is None or _is_count(value),
    **dict.fromkeys(("num_selection_subsets", "num_test_subsets"), _is_count),
}


_CARD: Checks = {  # what the report shows of a card, where it is there
    "class_names": lambda value: isinstance(value, list) and len(value) <= _MOST_CLASSES and all(map(_is_text, value)),
    "validation_curve": lambda value: isinstance(value, list) and all(map(_is_point, value)),
    "training": is_training,
    "extraction": lambda value: _is_table(value, _EXTRACTION),
    "protocol": _is_protocol,
}
