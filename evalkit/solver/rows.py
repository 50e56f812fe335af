"""Feature rows in chunks ready to multiply, from an array, a tensor, a memory map or a feature set.

`open_rows` decides the type that rows are stored in and how many of them stay in memory; the rest streams from its
file. Features may be stored as float16 (half the bytes; moves the optimum by about 2e-6 of the objective). Arithmetic
is float32 in any case: chunks are converted during a pass, in pieces that stay in the cache. `passes` multiplies them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.solver.problem import InputError

SLAB_BYTES = 64 << 20  # read from a file at a time: long enough to stream, and two of them take little memory
_CONVERTED_BYTES = 10 << 20  # a converted chunk: 90 rows of 28,672; one of 58 MB leaves the cache before it is used
_VIEW_BYTES = 512 << 20  # a chunk that needs no conversion is only a view
_DEVICE_BYTES = 2 << 30  # on an accelerator, launches cost more than memory
_MAX_CHUNK_ROWS = 256  # enough rows of a converted chunk for a product with many problems
_GATHERED_ROWS = 32  # 2 MB of the widest features: larger pieces leave the cache between copying and converting
_FLOAT64_BYTES = 1 << 28  # float64 features up to this size stay float64: precision is free where time is short
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}

Work = Callable[[int, slice, Tensor], None]


def as_matrix(features: Any) -> Any:
    """Features as a two-dimensional numpy array, memory map or tensor; a feature set gives its array."""
    features = getattr(features, "features", features)
    if not isinstance(features, Tensor):
        features = np.asanyarray(features)
    if features.ndim != 2 or min(features.shape) == 0:
        raise InputError(f"features have shape {tuple(features.shape)}; expected rows x features, neither of them 0")
    return features


def check_rows(rows: Any, total: int) -> np.ndarray:
    """Row indices as an array; raises unless there is at least one and all are integers from 0 to `total` - 1."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or len(rows) == 0 or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= total:
        raise InputError(f"rows: expected row numbers from 0 to {total - 1}, at least one")
    return rows


def storage_type(features: Any, storage: str) -> torch.dtype:
    """The type rows are stored in: "auto" keeps float16, bfloat16 and small float64, and uses float32 otherwise."""
    if storage not in ("auto", "float16", "float32"):
        raise InputError(f"storage is {storage!r}; give 'auto', 'float16' or 'float32'")
    if storage != "auto":
        return _DTYPES[storage]
    name = str(features.dtype).removeprefix("torch.")
    if name == "float64" and features.shape[0] * features.shape[1] * 8 > _FLOAT64_BYTES:
        return torch.float32
    return _DTYPES.get(name, torch.float32)


def open_rows(
    features: Any,
    rows: np.ndarray | None,
    *,
    device: torch.device,
    storage: str = "auto",
    resident_rows: int | None = None,
) -> "FeatureRows":
    """The selected rows: the first `resident_rows` (all if None) in memory on `device`, the others streamed.

    Whole arrays and tensors that already have the right type and device are not copied.
    """
    dtype = storage_type(features, storage)
    if isinstance(features, Tensor):
        if rows is None:
            return FeatureRows(features.to(device=device, dtype=dtype))
        return FeatureRows(_gather_tensor(features, rows, device, dtype))
    if rows is None and _torch_can_wrap(features):
        return FeatureRows(torch.from_numpy(features).to(device=device, dtype=dtype))
    index = np.arange(len(features)) if rows is None else rows
    if not _is_streamable(features):
        return FeatureRows(_gather_array(features, index, dtype).to(device))
    file = FileRows(features, index, dtype)
    count = len(index) if resident_rows is None else min(resident_rows, len(index))
    stored = torch.empty(count, features.shape[1], dtype=dtype, device=device)
    done = 0
    for slab in FileRows(features, index[:count], dtype).slabs():
        stored[done : done + len(slab)] = slab
        done += len(slab)
    file.rows = index[count:]
    return FeatureRows(stored, file if count < len(index) else None)


class FeatureRows:
    """Rows of a feature matrix, in memory as far as they fit, the rest in a file.

    Args:
        stored: (n, D) tensor of the first rows, on the device that computes.
        streamed: the remaining rows, or None.

    Attributes:
        num_rows, num_features: N and D.
        dtype: type of the arithmetic, float32 (float64 if the rows are float64).
    """

    def __init__(self, stored: Tensor, streamed: "FileRows | None" = None) -> None:
        self.stored = stored
        self.streamed = streamed
        self.num_rows = len(stored) + (len(streamed.rows) if streamed else 0)
        self.num_features = stored.shape[1]
        self.device = stored.device
        self.dtype = torch.float64 if stored.dtype == torch.float64 else torch.float32

    @property
    def num_workers(self) -> int:
        """Threads of `for_each`: all of torch's if rows are converted, else one, whose products use all of them."""
        return torch.get_num_threads() if self._needs_conversion(self.stored) and self.device.type == "cpu" else 1

    def for_each(self, work: Work, problems: int = 1) -> None:
        """Calls work(worker, where, chunk) for all rows; each worker has `chunks` of its own.

        A worker multiplies the chunk that it has just converted while it is in that core's cache. Converting and then
        multiplying on all threads ran at half the rate with 10 problems, and at four fifths with 70.
        """
        workers = self.num_workers
        if workers == 1:
            for where, chunk in self.chunks(problems):
                work(0, where, chunk)
            return

        def work_on_share(worker: int, stored: Tensor, first: int) -> None:
            for where, chunk in self._converted_chunks(stored, first, problems):
                work(worker, where, chunk)

        with single_threaded_pool(workers) as pool:
            for first, stored in self._segments():
                size = -(-len(stored) // workers)
                starts = range(0, len(stored), size)
                list(pool.map(work_on_share, range(workers), stored.split(size), [first + start for start in starts]))

    def chunks(self, problems: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive rows in the type of the arithmetic: (where, (n, D)), each valid until the next is requested.

        Chunks have about as many rows as there are problems, up to a limit, so that a product reads as much of one
        factor as of the other.
        """
        for first, stored in self._segments():
            yield from self._converted_chunks(stored, first, problems)

    def take(self, index: Tensor) -> Tensor:
        """The rows with these sorted indices in their stored type, (len(index), D) on the device."""
        if self.streamed is None and len(index) == self.num_rows:
            return self.stored
        resident = index[index < len(self.stored)]
        taken = self.stored[resident]
        if self.streamed is None:
            return taken
        rest = (index[len(resident) :] - len(self.stored)).cpu().numpy()
        return torch.cat([taken, self.streamed.read(self.streamed.rows[rest]).to(self.device)])

    def _segments(self) -> Iterator[tuple[int, Tensor]]:
        """Index of the first row, and consecutive rows as they are stored or read."""
        if len(self.stored):
            yield 0, self.stored
        if self.streamed is not None:
            first = len(self.stored)
            for slab in self.streamed.slabs():
                yield first, slab
                first += len(slab)

    def _needs_conversion(self, stored: Tensor) -> bool:
        return stored.dtype != self.dtype or stored.device != self.device

    def _converted_chunks(self, stored: Tensor, first: int, problems: int) -> Iterator[tuple[slice, Tensor]]:
        convert = self._needs_conversion(stored)
        limit = _CONVERTED_BYTES if convert else _VIEW_BYTES
        limit = _DEVICE_BYTES if self.device.type != "cpu" else limit
        step = max(1, min(problems, _MAX_CHUNK_ROWS), limit // (4 * self.num_features))
        shape = (min(step, len(stored)), self.num_features)
        buffer = torch.empty(shape, dtype=self.dtype, device=self.device) if convert else None
        for start in range(0, len(stored), step):
            chunk = stored[start : start + step]
            if buffer is not None:
                chunk = buffer[: len(chunk)].copy_(chunk)
            yield slice(first + start, first + start + len(chunk)), chunk


class FileRows:
    """Rows of a C-contiguous array in a file, read slab by slab, each while the previous one is in use.

    Args:
        array: (N, D) memory map; only its file and offset are used, so that its pages do not fill memory.
        rows: sorted indices of the rows to read.
        dtype: type to return the rows in.
    """

    def __init__(self, array: np.memmap, rows: np.ndarray, dtype: torch.dtype) -> None:
        self.path, self.offset = _file_and_offset(array)
        self.file_dtype, self.num_features = array.dtype, array.shape[1]
        self.rows = rows
        self.dtype = dtype
        self.slab_rows = max(1, SLAB_BYTES // (self.num_features * self.file_dtype.itemsize))

    def slabs(self) -> Iterator[Tensor]:
        """All rows in order, one slab at a time; a thread reads the next slab meanwhile."""
        parts = [self.rows[start : start + self.slab_rows] for start in range(0, len(self.rows), self.slab_rows)]
        with ThreadPoolExecutor(1) as reader:
            pending = [reader.submit(self.read, part) for part in parts[:1]]
            for number in range(len(parts)):
                slab = pending.pop().result()
                pending = [reader.submit(self.read, part) for part in parts[number + 1 : number + 2]]
                yield slab

    def read(self, rows: np.ndarray) -> Tensor:
        """The rows with these sorted indices."""
        result = np.empty((len(rows), self.num_features), self.file_dtype)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        with open(self.path, "rb", buffering=0) as file:
            for run in np.split(np.arange(len(rows)), breaks):
                if len(run):
                    self._read_consecutive(file, int(rows[run[0]]), result[run[0] : run[-1] + 1])
        return torch.from_numpy(result).to(self.dtype)

    def _read_consecutive(self, file: Any, first: int, into: np.ndarray) -> None:
        """Fills `into` with consecutive rows from row `first` on."""
        row_bytes = self.num_features * self.file_dtype.itemsize
        file.seek(self.offset + first * row_bytes)
        view = into.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise InputError(
                    f"{self.path}: ends inside row {first + done // row_bytes} of the features; the file is truncated, "
                    "create it again"
                )
            done += count


@contextmanager
def single_threaded_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads, in each of which torch uses that thread alone.

    Small operations run faster side by side than one after another on all threads.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # the workers' setting also applies to threads that start later


def _gather_tensor(features: Tensor, rows: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Rows of a tensor, converted in pieces that stay in the cache."""
    index = torch.as_tensor(rows, device=features.device)
    result = torch.empty(len(index), features.shape[1], dtype=dtype, device=device)
    for part, into in zip(index.split(_GATHERED_ROWS), result.split(_GATHERED_ROWS), strict=True):
        into.copy_(features[part])
    return result


def _gather_array(array: np.ndarray, index: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Rows of an array in any layout and byte order."""
    result = torch.empty(len(index), array.shape[1], dtype=dtype)
    step = max(1, SLAB_BYTES // (array.itemsize * array.shape[1]))
    for start in range(0, len(index), step):
        part = np.ascontiguousarray(array[index[start : start + step]], dtype=array.dtype.newbyteorder("="))
        result[start : start + step] = torch.from_numpy(part)
    return result


def _torch_can_wrap(array: np.ndarray) -> bool:
    """Whether torch can use the array's memory directly, without a warning that it is read-only."""
    plain = array.flags.c_contiguous and array.dtype.isnative and not isinstance(array, np.memmap)
    return array.flags.writeable and plain


def _is_streamable(array: np.ndarray) -> bool:
    in_file = isinstance(array, np.memmap) and getattr(array, "filename", None) is not None
    return in_file and array.flags.c_contiguous and array.dtype.isnative and array.dtype.name in _DTYPES


def _file_and_offset(array: np.memmap) -> tuple[Path, int]:
    """File of a memory map, or of a view of one, and the offset in bytes at which the view starts."""
    root: Any = array
    while isinstance(root.base, np.memmap):
        root = root.base
    start = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return Path(root.filename), root.offset + start
