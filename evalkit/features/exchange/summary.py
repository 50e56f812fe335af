"""What is in a feature set, in a few lines; the numbers are read in chunks."""

from collections.abc import Iterator

import numpy as np

from evalkit.features.exchange.write import rows_a_chunk
from evalkit.features.featureset import FeatureSet


def summary(features: FeatureSet) -> Iterator[str]:
    """Lines: shape and type, data set, encoder, splits, hashes; then mean and std of every layer and of all."""
    count, length = features.features.shape
    manifest = features.manifest
    yield f"{count:,} x {length:,} {features.features.dtype}, {features.features.nbytes / 1e9:.2f} GB"
    yield f"dataset: {features.dataset}, {len(features.class_names)} classes"
    yield f"encoder: {features.encoder}"
    yield "splits: " + ", ".join(f"{name} {end - first:,}" for name, (first, end) in features.splits.items())
    yield f"created: {manifest['created']}, evalkit {manifest['versions']['evalkit']}"
    yield f"features sha256: {features.sha256}"
    for key in ("weights_sha256", "images_sha256"):
        yield f"{key.replace('_', ' ')}: {manifest['made_from'].get(key) or '-'}"
    for name, digest in manifest["made_from"].get("files", {}).items():
        yield f"{name} sha256: {digest}"
    yield from _statistics(features)


def _statistics(features: FeatureSet) -> Iterator[str]:
    """Mean and std over pictures and columns; a column counts as constant when it has one value throughout."""
    count, length = features.features.shape
    total, squares = np.zeros(length), np.zeros(length)
    least, most = np.full(length, np.inf, np.float32), np.full(length, -np.inf, np.float32)
    for rows, _ in features.chunks(rows=rows_a_chunk(length)):
        total += rows.sum(axis=0, dtype=np.float64)
        squares += np.einsum("nd,nd->d", rows, rows, dtype=np.float64)
        least, most = np.minimum(least, rows.min(axis=0)), np.maximum(most, rows.max(axis=0))
    yield f"{'layer':<24} {'columns':>15} {'mean':>10} {'std':>10} {'constant':>9}"
    for name, first, end in [*((x.name, x.offset, x.offset + x.length) for x in features.layers), ("all", 0, length)]:
        mean = total[first:end].sum() / (count * (end - first))
        std = np.sqrt(max(squares[first:end].sum() / (count * (end - first)) - mean**2, 0))
        constant = int((least[first:end] == most[first:end]).sum())
        yield f"{name:<24} {f'{first}-{end - 1}':>15} {mean:>10.4f} {std:>10.4f} {constant:>9}"
