"""concat: the columns of several encoders side by side, for the same pictures in the same order."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evalkit.artifacts import sha256_json
from evalkit.errors import EvalkitError
from evalkit.features.exchange.write import Content, write_features
from evalkit.features.featureset import FeatureSet
from evalkit.features.grids import Layer


def concat(sets: Sequence[FeatureSet], target: Path, *, replace: bool = False) -> FeatureSet:
    """One feature set with the columns of all `sets`, in order; read and written in chunks.

    Raises:
        EvalkitError: fewer than two sets, or sets of other pictures: other hashes, labels or splits.
    """
    if len(sets) < 2:
        raise EvalkitError(f"{len(sets)} feature set, expected two or more to put side by side")
    first = sets[0]
    for other in sets[1:]:
        _check_same_pictures(first, other)
    layers = _side_by_side(sets)
    weights = [each.weights_sha256 for each in sets]
    content = Content(
        read=lambda start, end: np.concatenate([each.features[start:end] for each in sets], axis=1),
        shape=(len(first.labels), layers[-1].offset + layers[-1].length),
        dtype=str(np.result_type(*(each.features.dtype for each in sets))),
        labels=first.labels,
        class_names=first.class_names,
        splits=first.splits,
        layers=layers,
        settings={"dataset": first.dataset, "encoder": " + ".join(each.encoder for each in sets)},
        made_from={
            "weights_sha256": sha256_json(weights) if any(weights) else "",
            "images_sha256": next((found for each in sets if (found := _pictures(each))), ""),
            "features_sha256": [each.sha256 for each in sets],
        },
    )
    return write_features(content, target, replace=replace)


def _pictures(features: FeatureSet) -> str:
    """Hash of the pictures; empty for features made elsewhere."""
    return features.manifest["made_from"].get("images_sha256", "")


def _check_same_pictures(one: FeatureSet, other: FeatureSet) -> None:
    """By the pictures' hash where both have one; labels and splits have to agree in any case."""
    names = f"{one.dataset} by {one.encoder} and {other.dataset} by {other.encoder}"
    if len(one.labels) != len(other.labels):
        raise EvalkitError(f"{names}: {len(one.labels):,} and {len(other.labels):,} rows, expected the same pictures")
    if _pictures(one) and _pictures(other) and _pictures(one) != _pictures(other):
        hashes = f"{_pictures(one)[:12]}… and {_pictures(other)[:12]}…"
        raise EvalkitError(f"{names}: made from other pictures ({hashes}), expected the same")
    if one.splits != other.splits:
        raise EvalkitError(f"{names}: splits {one.splits} and {other.splits}, expected the same")
    if not np.array_equal(one.labels, other.labels):
        row = int((one.labels != other.labels).argmax())
        raise EvalkitError(
            f"{names}: row {row} has label {one.labels[row]} and {other.labels[row]}; expected the same pictures in "
            "the same order"
        )


def _side_by_side(sets: Sequence[FeatureSet]) -> list[Layer]:
    """The layers of all sets with their new columns; a name that occurs twice gets the encoder before it."""
    names = [layer.name for each in sets for layer in each.layers]
    layers, offset = [], 0
    for number, each in enumerate(sets, start=1):
        for layer in each.layers:
            unique = layer.name if names.count(layer.name) == 1 else f"{number}/{layer.name}"
            layers.append(replace(layer, name=unique, offset=offset + layer.offset))
        offset += each.features.shape[1]
    return layers
