"""Concat: the columns of several feature sets side by side, for the same images in the same order."""

import logging
from collections.abc import Sequence
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.artifacts import sha256_json
from evalkit.errors import EvalkitError
from evalkit.features.featureset import KIND, FeatureSet, Layer, as_feature_set
from evalkit.features.writer import Content, write_features
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)


def concat_features(
    features: Sequence[Any],
    *,
    home: Workspace | Path | str | None = None,
    name: str | None = None,
    replace: bool = False,
    out: Path | str | None = None,
) -> FeatureSet:
    """One feature set with the columns of all `features`, in order; read and written in chunks.

    Args:
        features: two or more of what `as_feature_set` takes: FeatureSets, directories, names in the workspace.
        home: the workspace; None: a temporary one that lasts as long as the feature set.
        name: of the new feature set; by default DATASET--ENCODER+ENCODER.
        replace: overwrite other features of that name.
        out: the new feature set's directory, in place of one in the workspace.

    Raises:
        EvalkitError: fewer than two sets, or sets of other images: other hashes, labels or splits.
    """
    sets = [as_feature_set(each, home=home) for each in features]
    if len(sets) < 2:
        raise EvalkitError(f"{len(sets)} feature set, expected two or more")
    first = sets[0]
    for other in sets[1:]:
        _check_same_images(first, other)
    layers = _layers_side_by_side(sets)
    weights = [each.weights_sha256 for each in sets]
    content = Content(
        read=lambda start, end: np.concatenate([each.features[start:end] for each in sets], axis=1),
        shape=(len(first.labels), layers[-1].offset + layers[-1].length),
        dtype=str(np.result_type(*(each.features.dtype for each in sets))),
        labels=first.labels,
        class_names=first.class_names,
        splits=first.splits,
        layers=layers,
    )
    layout_of_rows = {name: list(rows) for name, rows in first.splits.items()}
    settings = {"dataset": first.dataset, "encoder": " + ".join(each.encoder for each in sets)}
    made_from = {
        "weights_sha256": sha256_json(weights) if any(weights) else "",
        "images_sha256": next((each.provenance.images_sha256 for each in sets if each.provenance.images_sha256), ""),
        "features_sha256": [each.sha256 for each in sets],
        "labels_sha256": sha256_json([first.labels.tolist(), list(first.class_names), layout_of_rows]),
    }
    workspace = Workspace.of(home)
    target = Path(out) if out else workspace.path_of(KIND, name or _default_name(sets))
    joined = write_features(content, target, settings=settings, made_from=made_from, replace=replace)
    if out is None:
        workspace.mark_latest(target)
    count, length = joined.features.shape
    logger.info("%s x %s features by %s", f"{count:,}", f"{length:,}", joined.encoder)
    return joined.kept_by(workspace)


def _default_name(sets: Sequence[FeatureSet]) -> str:
    """DATASET--ENCODER+ENCODER."""
    encoders = "+".join(each.encoder.replace(":", "-").replace(" ", "-") for each in sets)
    return f"{sets[0].dataset}--{encoders}"


def _check_same_images(one: FeatureSet, other: FeatureSet) -> None:
    """Compares the images' hashes where both sets have one, and labels and splits in any case."""
    names = f"{one.dataset} by {one.encoder} and {other.dataset} by {other.encoder}"
    if len(one.labels) != len(other.labels):
        raise EvalkitError(f"{names}: {len(one.labels):,} and {len(other.labels):,} rows, expected the same images")
    hashes = one.provenance.images_sha256, other.provenance.images_sha256
    if all(hashes) and hashes[0] != hashes[1]:
        raise EvalkitError(
            f"{names}: made from different images ({hashes[0][:12]}… and {hashes[1][:12]}…), expected the same"
        )
    if one.splits != other.splits:
        raise EvalkitError(f"{names}: splits {one.splits} and {other.splits}, expected the same")
    if not np.array_equal(one.labels, other.labels):
        row = int((one.labels != other.labels).argmax())
        raise EvalkitError(
            f"{names}: row {row} has label {one.labels[row]} and {other.labels[row]}; expected the same images in "
            "the same order"
        )


def _layers_side_by_side(sets: Sequence[FeatureSet]) -> list[Layer]:
    """The layers of all sets with their new columns; a name that occurs twice gets its set's number as a prefix."""
    names = [layer.name for each in sets for layer in each.layers]
    layers, offset = [], 0
    for number, each in enumerate(sets, start=1):
        for layer in each.layers:
            unique = layer.name if names.count(layer.name) == 1 else f"{number}/{layer.name}"
            layers.append(replaced(layer, name=unique, offset=offset + layer.offset))
        offset += each.features.shape[1]
    return layers
