"""What is in a feature set, in a few lines of text; the numbers are read in chunks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.features.featureset import FeatureSet, as_feature_set
from evalkit.features.writer import rows_per_chunk
from evalkit.workspace import Workspace


def describe_features(features: Any = None, *, home: Workspace | Path | str | None = None) -> str:
    """Path, shape and type, data set, encoder, splits and hashes; then mean and std of every layer and of all columns.

    Args:
        features: what `as_feature_set` takes; None: the latest feature set of the workspace.
        home: the workspace, for a name or the latest set.
    """
    return "\n".join(_lines(as_feature_set(features, home=home)))


def _lines(features: FeatureSet) -> Iterator[str]:
    (count, length), origin = features.features.shape, features.provenance
    yield str(features.path or "in memory")
    yield f"{count:,} x {length:,} {features.features.dtype}, {features.features.nbytes / 1e9:.2f} GB"
    yield f"dataset: {features.dataset}, {len(features.class_names)} classes"
    yield f"encoder: {features.encoder}"
    yield "splits: " + ", ".join(f"{name} {end - first:,}" for name, (first, end) in features.splits.items())
    yield f"created: {origin.created}, evalkit {origin.evalkit}"
    yield f"features sha256: {origin.sha256}"
    yield f"weights sha256: {origin.weights_sha256 or '-'}"
    yield f"images sha256: {origin.images_sha256 or '-'}"
    for name, digest in origin.files.items():
        yield f"{name} sha256: {digest}"
    yield from _statistics(features)


def _statistics(features: FeatureSet) -> Iterator[str]:
    """Mean and std over images and columns; a column counts as constant when all its values are equal."""
    count, length = features.features.shape
    total, squares = np.zeros(length), np.zeros(length)
    least, most = np.full(length, np.inf, np.float32), np.full(length, -np.inf, np.float32)
    for rows, _ in features.chunks(rows=rows_per_chunk(length)):
        total += rows.sum(axis=0, dtype=np.float64)
        squares += np.einsum("nd,nd->d", rows, rows, dtype=np.float64)
        least, most = np.minimum(least, rows.min(axis=0)), np.maximum(most, rows.max(axis=0))
    yield f"{'layer':<24} {'columns':>15} {'mean':>10} {'std':>10} {'constant':>9}"
    for name, first, end in [*((x.name, x.offset, x.offset + x.length) for x in features.layers), ("all", 0, length)]:
        mean = total[first:end].sum() / (count * (end - first))
        std = np.sqrt(max(squares[first:end].sum() / (count * (end - first)) - mean**2, 0))
        constant = int((least[first:end] == most[first:end]).sum())
        yield f"{name:<24} {f'{first}-{end - 1}':>15} {mean:>10.4f} {std:>10.4f} {constant:>9}"
