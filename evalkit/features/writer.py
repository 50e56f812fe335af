"""Writing features while the next ones are computed: rows at their places in one array, by one process or several.

What is on disk is recorded as ranges of rows, a file a process, so that an interrupted extraction goes on where it was,
with another number of processes, too.

A feature set from rows that something else hands over in chunks: bounded memory, atomic, resumable.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evalkit.artifacts import NpyWriter, new_manifest, write_artifact
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.featureset import KIND, FeatureSet, load_features
from evalkit.features.pooling import Layer

Batch = tuple[int, int]  # first row, row after the last
_AHEAD = 2  # batches computed that may wait for the disk
_RECORD_EVERY = 32  # batches


def batches(splits: Sequence[tuple[int, int]], count: int, size: int) -> list[Batch]:
    """Rows 0 to count in batches of at most `size` that do not reach over the ends of splits."""
    edges = sorted({0, count, *(edge for split in splits for edge in split)})
    return [
        (first, min(first + size, end))
        for start, end in zip(edges, edges[1:], strict=False)
        for first in range(start, end, size)
    ]


def create_rows(path: Path, shape: tuple[int, int], dtype: str) -> None:
    """Makes a `.npy` file of that shape whose rows are yet to be written; leaves one that is there."""
    if path.exists():
        return
    with open(path.with_suffix(".tmp"), "wb") as file:
        header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(dtype))}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + shape[0] * shape[1] * np.dtype(dtype).itemsize)
    os.replace(file.name, path)


def recorded(folder: Path) -> set[Batch]:
    """The ranges of rows that are on disk, from every process's record; a line cut short does not count."""
    lines = [line for path in folder.glob("rows-*.txt") for line in path.read_text().splitlines(keepends=True)]
    found = [line.split() for line in lines if line.endswith("\n")]
    return {(int(first), int(end)) for first, end in found}


class RowsWriter:
    """Puts batches of rows into `features.npy` of `folder` in a thread of its own, and records them once durable.

    Args:
        folder: holds an array made by `create_rows`.
        layers: names the layer of a number that is not finite.
        name: of the images, likewise.
        rank: of this process.
    """

    def __init__(self, folder: Path, layers: Sequence[Layer], name: str, *, rank: int):
        self.layers, self.name = layers, name
        self._array = np.load(folder / "features.npy", mmap_mode="r")
        self._file = open(folder / "features.npy", "r+b", buffering=0)
        self._record = open(folder / f"rows-{rank}.txt", "a")
        self._pool = ThreadPoolExecutor(1)
        self._waiting: list[Future[None]] = []
        self._written: list[Batch] = []
        self._digest, self._hashed = hashlib.sha256(), 0
        with open(folder / "features.npy", "rb") as file:
            self._digest.update(file.read(self._array.offset))

    def put(self, rows: Tensor, first: int) -> None:
        """Hands over rows (n, D), of the array's dtype, on any device; waits while too many are on their way.

        Raises:
            ArtifactError: an earlier batch has a number that is not finite.
            OSError: the disk refused one.
        """
        while len(self._waiting) >= _AHEAD:
            self._waiting.pop(0).result()
        self._waiting.append(self._pool.submit(self._write, rows, first))

    def _write(self, rows: Tensor, first: int) -> None:
        self._check(rows, first)
        content = rows.cpu().contiguous().numpy().data.cast("B")
        if first == self._hashed:  # in order, as one undisturbed process writes them
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
        self._record.writelines(f"{first} {end}\n" for first, end in self._written)
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
        """Waits for what is on its way and records it; after an error only what is recorded already counts."""
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
    """Whether no exponent is all ones, as infinity's and NaN's are; 30 times as fast as isfinite on float16."""
    bits, exponent = (torch.int16, 0x7C00) if rows.dtype == torch.float16 else (torch.int32, 0x7F800000)
    return bool((rows.view(bits) & exponent).amax() < exponent)


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
    with write_artifact(target, settings=settings, made_from=made_from) as artifact:
        if target.exists() and not replace:
            found = load_features(target)
            if found.manifest["settings"] == settings and found.manifest["made_from"] == made_from:
                return found
            raise EvalkitError(f"{target}: holds other features; choose another --name, or --replace them")
        start = artifact.progress.get("rows", 0)
        path = artifact.path / "features.npy"
        with NpyWriter(path, content.shape[1:], content.dtype, rows=start) as writer:
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
