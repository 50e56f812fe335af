"""Columns of a feature set by layer: what the ablation fits on."""

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.features.featureset import FeatureSet


def layer_columns(features: FeatureSet, layers: str) -> np.ndarray:
    """The columns of one layer ("conv3") or of consecutive ones ("conv1..conv4"), as a view (N, columns); "" is all.

    Raises:
        EvalkitError: no such layer; the message lists those there are.
    """
    if not layers:
        return features.features
    places = {layer.name: layer for layer in features.layers}
    first, dots, last = layers.partition("..")
    chosen = [places.get(first), places.get(last if dots else first)]
    if None in chosen or chosen[0].offset > chosen[1].offset:  # type: ignore[union-attr]
        raise EvalkitError(f"{layers}: no layers of {features.encoder}; choose {', '.join(places)}, or FIRST..LAST")
    begin, end = chosen
    assert begin and end
    return features.features[:, begin.offset : end.offset + end.length]
