"""A feature set from rows that something else hands over in chunks: bounded memory, atomic, resumable."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evalkit.arrays import RowWriter, building
from evalkit.artifacts import new_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.featureset import KIND, FeatureSet, load_features
from evalkit.features.grids import Layer

_CHUNK_BYTES = 1 << 25


def rows_a_chunk(length: int) -> int:
    """How many rows of `length` float32 numbers make a chunk."""
    return max(1, _CHUNK_BYTES // (4 * length))


@dataclass(frozen=True)
class Content:
    """What is to become a feature set.

    Attributes:
        read: (first row, row after the last) -> (n, D) numbers, in the order of the rows.
        shape: (N, D); dtype: float16 or float32, on disk.
        labels: int64 (N,); class_names, splits, layers: as in FeatureSet.
        settings: dataset, encoder and what else made it; made_from: hashes.
    """

    read: Callable[[int, int], np.ndarray]
    shape: tuple[int, int]
    dtype: str
    labels: np.ndarray
    class_names: Sequence[str]
    splits: dict[str, tuple[int, int]]
    layers: Sequence[Layer]
    settings: dict[str, Any]
    made_from: dict[str, Any]


def write_features(content: Content, target: Path, *, replace: bool = False) -> FeatureSet:
    """Writes a feature set; one with equal settings and inputs is returned as it is.

    Raises:
        EvalkitError: another set of that name is there and `replace` is not asked, or numbers that are not finite.
    """
    settings = {"weights": "", "batch_norm": "", "dtype": content.dtype} | content.settings
    made_from = {"weights_sha256": "", "images_sha256": ""} | content.made_from
    with building(target, settings=settings, made_from=made_from) as artifact:
        if target.exists() and not replace:
            found = load_features(target)
            if found.manifest["settings"] == settings and found.manifest["made_from"] == made_from:
                return found
            raise EvalkitError(f"{target}: holds other features; choose another --name, or --replace them")
        start = artifact.progress.get("rows", 0)
        path = artifact.path / "features.npy"
        with RowWriter(path, content.shape[1:], content.dtype, rows=start) as writer:
            for rows in _checked(content, start):
                writer.append(rows)
                writer.sync()
                artifact.save(rows=writer.rows)
        np.save(artifact.path / "labels.npy", content.labels)
        manifest = new_manifest(KIND, settings=settings, made_from=made_from)
        about = {"class_names": list(content.class_names), "layers": [layer.as_dict() for layer in content.layers]}
        artifact.finish(manifest | about | {"splits": {name: list(rows) for name, rows in content.splits.items()}})
    return load_features(target)


def _checked(content: Content, start: int) -> Iterator[np.ndarray]:
    count, step = content.shape[0], rows_a_chunk(content.shape[1])
    for first in tqdm(range(start, count, step), unit="chunk", desc="features", disable=None):
        with np.errstate(over="ignore"):  # what overflows is found below
            rows = content.read(first, min(first + step, count)).astype(content.dtype)
        finite = np.isfinite(rows)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise ArtifactError(
                f"{content.settings['dataset']}: number {column} of row {first + row} is {rows[row, column]} as "
                f"{rows.dtype}, expected finite numbers"
            )
        yield rows
