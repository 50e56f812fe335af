"""Writing features to disk: rows at their places in one array while the next ones are computed, or chunk by chunk.

`extract` writes batches with `RowsWriter`, from one process or several. What is on disk is recorded as ranges of rows,
one file per process, so that an interrupted extraction resumes, also with another number of processes.
`write_features` makes a feature set of rows that can be read in chunks: imported arrays, concatenated sets.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evalkit.artifacts import ArtifactWriter, already_built, new_manifest, write_artifact
from evalkit.errors import ArtifactError
from evalkit.features.arrays import check_finite
from evalkit.features.featureset import KIND, FeatureSet, Layer, load_features
from evalkit.features.rounding import Rounding, say_rounding, worst
from evalkit.files import open_to_write
from evalkit.npy import NpyWriter

logger = logging.getLogger(__name__)

Batch = tuple[int, int]  # first row, row after the last
_AHEAD = 2  # computed batches that may wait for the disk
_RECORD_EVERY = 32  # batches
_CHUNK_BYTES = 1 << 25


def batches(splits: Sequence[tuple[int, int]], count: int, size: int) -> list[Batch]:
    """Rows 0 to count in batches of at most `size`; no batch crosses the end of a split."""
    edges = sorted({0, count, *(edge for split in splits for edge in split)})
    return [
        (first, min(first + size, end))
        for start, end in zip(edges, edges[1:], strict=False)
        for first in range(start, end, size)
    ]


def create_rows(path: Path, shape: tuple[int, int], dtype: str) -> None:
    """Creates a `.npy` file of that shape whose rows are still to be written; an existing file stays as it is."""
    if path.exists():
        return
    unfinished = path.with_suffix(".tmp")
    np.lib.format.open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape).flush()
    os.replace(unfinished, path)


def recorded(folder: Path) -> set[Batch]:
    """The ranges of rows that are on disk, from the records of all processes; a line cut short does not count."""
    lines = [line for path in folder.glob("rows-*.txt") for line in path.read_text().splitlines(keepends=True)]
    ranges = [line.split() for line in lines if line.endswith("\n")]
    return {(int(first), int(end)) for first, end in ranges}


class RowsWriter:
    """Writes batches of rows to `features.npy` of `folder` in its own thread, and records them once they are durable.

    Args:
        folder: holds an array made by `create_rows`.
        layers: the columns of each layer, for the error message about a number that is not finite.
        name: the name of the images, likewise.
        rank: the number of this process.
        lossless: drop rows whose rounding loses too much (`rounding` then says so), in place of a warning.
    """

    def __init__(self, folder: Path, layers: Sequence[Layer], name: str, *, rank: int, lossless: bool = False):
        self.layers, self.name, self._lossless = layers, name, lossless
        self._array = np.load(folder / "features.npy", mmap_mode="r")
        self._file = open_to_write(folder / "features.npy", "r+b", buffering=0)
        self._record = open_to_write(folder / f"rows-{rank}.txt", "ab")
        self._pool = ThreadPoolExecutor(1)
        self.rounding = Rounding()
        self._waiting: list[Future[None]] = []
        self._written: list[Batch] = []
        self._digest, self._hashed = hashlib.sha256(), 0
        with open(folder / "features.npy", "rb") as file:
            self._digest.update(file.read(self._array.offset))

    def put(self, rows: Tensor, first: int, roundings: Sequence[Tensor] = ()) -> None:
        """Queues rows (n, D), of the array's dtype, on any device; waits while too many batches are queued.

        `roundings` are what `rounding.measure` says of them.

        Raises:
            ArtifactError: an earlier batch has a number that is not finite.
            OSError: an earlier batch could not be written.
        """
        while len(self._waiting) >= _AHEAD:
            self._waiting.pop(0).result()
        self._waiting.append(self._pool.submit(self._write, rows, first, roundings))

    def _write(self, rows: Tensor, first: int, roundings: Sequence[Tensor]) -> None:
        if roundings and not self.rounding.is_lossy:
            self.rounding = worst([each.tolist() for each in roundings])
            if self.rounding.is_lossy and not self._lossless:
                logger.warning("features: %s has %s", self._array.dtype, self.rounding.describe())
        if self._lossless and self.rounding.is_lossy:
            return
        self._check(rows, first)
        content = rows.cpu().contiguous().numpy().data.cast("B")
        if first == self._hashed:  # in order, as a single uninterrupted process writes them
            self._digest.update(content)
            self._hashed += len(rows)
        place = self._array.offset + first * self._array.strides[0]
        while content:
            written = os.pwrite(self._file.fileno(), content, place)
            content, place = content[written:], place + written
        self._written.append((first, first + len(rows)))
        if len(self._written) == _RECORD_EVERY:
            self._sync()

    def _check(self, rows: Tensor, first: int) -> None:
        if _all_finite(rows):
            return
        row, column = (~torch.isfinite(rows)).nonzero()[0].tolist()
        layer = next(layer for layer in self.layers if column < layer.offset + layer.length)
        raise ArtifactError(
            f"{self.name}: feature {column} (layer {layer.name}) of image {first + row} is {rows[row, column]:g} as "
            f"{self._array.dtype}; the weights may have diverged, or float16 overflowed (--dtype float32)"
        )

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._record.writelines(f"{first} {end}\n".encode() for first, end in self._written)
        self._record.flush()
        os.fsync(self._record.fileno())
        self._written.clear()

    @property
    def hashes(self) -> dict[str, str]:
        """The array's SHA-256 by file name, if this process wrote all of it, in order."""
        return {"features.npy": self._digest.hexdigest()} if self._hashed == len(self._array) else {}

    def __enter__(self) -> "RowsWriter":
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Waits for the queued batches and records them; after an error, only what is already recorded counts."""
        try:
            if failure is None:
                for future in self._waiting:
                    future.result()
                self._sync()
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._file.close()
            self._record.close()


def _all_finite(rows: Tensor) -> bool:
    """Whether no exponent is all ones, as those of infinity and NaN are; 30 times as fast as isfinite on float16."""
    bits, exponent = (torch.int16, 0x7C00) if rows.dtype == torch.float16 else (torch.int32, 0x7F800000)
    return bool((rows.view(bits) & exponent).amax() < exponent)


def rows_per_chunk(length: int) -> int:
    """How many rows of `length` float32 numbers make a chunk."""
    return max(1, _CHUNK_BYTES // (4 * length))


@dataclass(frozen=True)
class Content:
    """The rows of a feature set that is still to be written.

    Attributes:
        read: (first row, row after the last) -> (n, D) numbers, in the order of the rows.
        shape: (N, D).
        dtype: float16 or float32, on disk.
        labels, class_names, splits, layers: as in FeatureSet.
    """

    read: Callable[[int, int], np.ndarray]
    shape: tuple[int, int]
    dtype: str
    labels: np.ndarray
    class_names: Sequence[str]
    splits: dict[str, tuple[int, int]]
    layers: Sequence[Layer]


def write_features(
    content: Content, target: Path, *, settings: dict[str, Any], made_from: dict[str, Any], replace: bool = False
) -> FeatureSet:
    """Writes a feature set; one with equal settings and inputs is returned as it is, an interrupted one resumes.

    Args:
        content: the rows.
        target: the feature set's directory.
        settings: data set, encoder and what else determines the features.
        made_from: hashes of what they are made from.
        replace: overwrite other features.

    Raises:
        EvalkitError: other features are there and `replace` is not set, or numbers that are not finite.
    """
    settings = {"weights": "", "batch_norm": "", "dtype": content.dtype} | settings
    made_from = {"weights_sha256": "", "images_sha256": ""} | made_from
    with write_artifact(target, settings=settings, made_from=made_from) as artifact:
        if already_built(target, KIND, settings=settings, made_from=made_from, replace=replace):
            return load_features(target)
        _write_chunks(content, settings["dataset"], artifact)
        np.save(artifact.path / "labels.npy", content.labels)
        manifest = new_manifest(KIND, settings=settings, made_from=made_from)
        artifact.finish(manifest | layout(content.class_names, content.splits, content.layers))
    return load_features(target)


def layout(class_names: Sequence[str], splits: dict[str, tuple[int, int]], layers: Sequence[Layer]) -> dict[str, Any]:
    """The part of a feature set's manifest that says what its rows, labels and columns are."""
    return {
        "class_names": list(class_names),
        "splits": {name: list(rows) for name, rows in splits.items()},
        "layers": [layer.as_dict() for layer in layers],
    }


def _write_chunks(content: Content, name: str, artifact: ArtifactWriter) -> None:
    """Writes the rows that are not on disk yet and records the progress after each chunk."""
    start, (count, length) = artifact.progress.get("rows", 0), content.shape
    step, said = rows_per_chunk(length), False
    with NpyWriter(artifact.path / "features.npy", (length,), content.dtype, rows=start) as writer:
        for first in tqdm(range(start, count, step), unit="chunk", desc="features", disable=None):
            given = content.read(first, min(first + step, count))
            with np.errstate(over="ignore"):  # check_finite refuses what overflows
                rows = given.astype(content.dtype)
            check_finite(rows, first, name)
            said = said or say_rounding(given, rows, name)
            writer.append(rows)
            writer.sync()
            artifact.save(rows=writer.rows)
