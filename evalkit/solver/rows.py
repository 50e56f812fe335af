"""Feature rows in chunks ready to multiply, from memory or a file: all that the solvers see of features.

Features may be stored as float16 (half the bytes; moves the optimum by about 2e-6 of the objective); arithmetic is
float32 whatever the storage, so chunks are converted as they pass, in pieces that stay in the cache.

Rows of a memory-mapped file, read in slabs, the next one while this one is in use. Used by rows and opening.

From arrays, memory maps, tensors and feature sets to rows: in which type, and how many of them in memory.

Threads that each use one of torch's: small operations go faster side by side than each on all threads in turn.
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

_CONVERTED_BYTES = 10 << 20  # a converted chunk: 90 rows of 28,672; one of 58 MB leaves the cache before it is used
_VIEW_BYTES = 512 << 20  # a chunk that needs no conversion is only a view
_DEVICE_BYTES = 2 << 30  # on an accelerator launches cost more than memory
_MOST_ROWS = 256  # that a converted chunk needs for a product with many columns
Work = Callable[[int, slice, Tensor], None]
SLAB_BYTES = 64 << 20  # read from a file at a time: long enough to stream, and two of them are little memory


class FileRows:
    """Rows of a C-contiguous array in a file, read in slabs, each while the one before is in use.

    Args:
        array: (N, D) memory map; only its place in the file is used, so its pages do not fill memory.
        rows: sorted numbers of the rows wanted.
        dtype: to give them in.
    """

    def __init__(self, array: np.memmap, rows: np.ndarray, dtype: torch.dtype) -> None:
        self.path, self.offset = _place(array)
        self.kind, self.features = array.dtype, array.shape[1]
        self.rows = rows
        self.dtype = dtype
        self.slab = max(1, SLAB_BYTES // (self.features * self.kind.itemsize))

    def slabs(self) -> Iterator[Tensor]:
        """All rows in order, a slab at a time; a thread reads the next one meanwhile."""
        parts = [self.rows[start : start + self.slab] for start in range(0, len(self.rows), self.slab)]
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(self.read, part) for part in parts[:1]]
            for number in range(len(parts)):
                slab = coming.pop().result()
                coming = [reader.submit(self.read, part) for part in parts[number + 1 : number + 2]]
                yield slab

    def read(self, rows: np.ndarray) -> Tensor:
        """The rows with these sorted numbers."""
        chosen = np.empty((len(rows), self.features), self.kind)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        with open(self.path, "rb", buffering=0) as file:
            for run in np.split(np.arange(len(rows)), breaks):
                if len(run):
                    self._read_run(file, int(rows[run[0]]), chosen[run[0] : run[-1] + 1])
        return torch.from_numpy(chosen).to(self.dtype)

    def _read_run(self, file: Any, first: int, into: np.ndarray) -> None:
        width = self.features * self.kind.itemsize
        file.seek(self.offset + first * width)
        view = into.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise InputError(
                    f"{self.path}: ends inside row {first + done // width} of the features; the file was cut short, "
                    "make it anew"
                )
            done += count


class Rows:
    """Rows of a feature matrix, in memory as far as they fit, the rest in a file.

    Args:
        stored: (n, D) tensor of the first rows, on the device that computes.
        streamed: the rows after those, or None.

    Attributes:
        count, features: N and D.
        dtype: of the arithmetic, float32 (float64 when the rows are float64).
    """

    def __init__(self, stored: Tensor, streamed: FileRows | None = None) -> None:
        self.stored = stored
        self.streamed = streamed
        self.count = len(stored) + (len(streamed.rows) if streamed else 0)
        self.features = stored.shape[1]
        self.device = stored.device
        self.dtype = torch.float64 if stored.dtype == torch.float64 else torch.float32

    @property
    def workers(self) -> int:
        """Threads of `for_each`: all of torch's where rows are converted, else one, whose products use them all."""
        return torch.get_num_threads() if self._converts(self.stored) and self.device.type == "cpu" else 1

    def for_each(self, work: Work, columns: int = 1) -> None:
        """Calls work(worker, where, chunk) for all rows, by `chunks` of each worker's own.

        A worker converts what it multiplies and finds it in its cache; converting and multiplying on all threads in
        turn went at half the rate with 10 columns, and at four fifths with 70.
        """
        count = self.workers
        if count == 1:
            for where, chunk in self.chunks(columns):
                work(0, where, chunk)
            return

        def share(worker: int, stored: Tensor, first: int) -> None:
            for where, chunk in self._converted(stored, first, columns):
                work(worker, where, chunk)

        with single_threads(count) as pool:
            for first, stored in self._stretches():
                size = -(-len(stored) // count)
                starts = range(0, len(stored), size)
                list(pool.map(share, range(count), stored.split(size), [first + start for start in starts]))

    def chunks(self, columns: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive rows in the type of the arithmetic: (where, (n, D)), each valid until the next is asked for.

        Chunks hold `columns` rows up to some number, so that a product with that many reads as much of one as of the
        other.
        """
        for first, stored in self._stretches():
            yield from self._converted(stored, first, columns)

    def _stretches(self) -> Iterator[tuple[int, Tensor]]:
        """The number of the first row, and consecutive rows as they are stored or read."""
        if len(self.stored):
            yield 0, self.stored
        if self.streamed is not None:
            first = len(self.stored)
            for slab in self.streamed.slabs():
                yield first, slab
                first += len(slab)

    def _converts(self, stored: Tensor) -> bool:
        return stored.dtype != self.dtype or stored.device != self.device

    def _converted(self, stored: Tensor, first: int, columns: int) -> Iterator[tuple[slice, Tensor]]:
        convert = self._converts(stored)
        limit = _CONVERTED_BYTES if convert else _VIEW_BYTES
        limit = _DEVICE_BYTES if self.device.type != "cpu" else limit
        step = max(1, min(columns, _MOST_ROWS), limit // (4 * self.features))
        shape = (min(step, len(stored)), self.features)
        buffer = torch.empty(shape, dtype=self.dtype, device=self.device) if convert else None
        for start in range(0, len(stored), step):
            part = stored[start : start + step]
            if buffer is not None:
                part = buffer[: len(part)].copy_(part)
            yield slice(first + start, first + start + len(part)), part

    def take(self, index: Tensor) -> Tensor:
        """The rows with these sorted numbers as they are stored, (len(index), D) on the device."""
        if self.streamed is None and len(index) == self.count:
            return self.stored
        kept = index[index < len(self.stored)]
        chosen = self.stored[kept]
        if self.streamed is None:
            return chosen
        rest = (index[len(kept) :] - len(self.stored)).cpu().numpy()
        return torch.cat([chosen, self.streamed.read(self.streamed.rows[rest]).to(self.device)])


def _place(array: np.memmap) -> tuple[Path, int]:
    """File of a memory map, or of a view of one, and where in it the view starts."""
    root: Any = array
    while isinstance(root.base, np.memmap):
        root = root.base
    start = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return Path(root.filename), root.offset + start


_DOUBLE_BYTES = 1 << 28  # float64 features up to here stay float64: precision is free where time is short
_TAKEN_ROWS = 32  # 2 MB of the widest features: larger pieces leave the cache between copying and converting
_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def as_matrix(features: Any) -> Any:
    """Features as a two-dimensional numpy array, memory map or tensor; a feature set gives its array."""
    features = getattr(features, "features", features)
    if not isinstance(features, Tensor):
        features = np.asanyarray(features)
    if features.ndim != 2 or min(features.shape) == 0:
        raise InputError(f"features have shape {tuple(features.shape)}; expected rows x features, neither of them 0")
    return features


def check_rows(rows: Any, total: int) -> np.ndarray:
    """Row numbers as an array; refuses anything but numbers below `total`, at least one."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or len(rows) == 0 or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= total:
        raise InputError(f"rows: expected row numbers from 0 to {total - 1}, at least one")
    return rows


def open_rows(
    features: Any,
    rows: np.ndarray | None,
    *,
    device: torch.device,
    storage: str = "auto",
    resident: int | None = None,
) -> Rows:
    """The chosen rows: the first `resident` of them (all when None) held in memory on `device`, the others streamed.

    No copy is made of whole arrays and tensors that already are there in the type wanted.
    """
    dtype = storage_type(features, storage)
    if isinstance(features, Tensor):
        return Rows(features.to(device=device, dtype=dtype) if rows is None else _taken(features, rows, device, dtype))
    if rows is None and _torch_reads(features):
        return Rows(torch.from_numpy(features).to(device=device, dtype=dtype))
    index = np.arange(len(features)) if rows is None else rows
    if not _is_streamable(features):
        return Rows(_copied(features, index, dtype).to(device))
    file = FileRows(features, index, dtype)
    count = len(index) if resident is None else min(resident, len(index))
    stored = torch.empty(count, features.shape[1], dtype=dtype, device=device)
    done = 0
    for slab in FileRows(features, index[:count], dtype).slabs():
        stored[done : done + len(slab)] = slab
        done += len(slab)
    file.rows = index[count:]
    return Rows(stored, file if count < len(index) else None)


def _taken(features: Tensor, rows: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Rows of a tensor, converted in pieces that stay in the cache."""
    index = torch.as_tensor(rows, device=features.device)
    chosen = torch.empty(len(index), features.shape[1], dtype=dtype, device=device)
    for part, into in zip(index.split(_TAKEN_ROWS), chosen.split(_TAKEN_ROWS), strict=True):
        into.copy_(features[part])
    return chosen


def _copied(array: np.ndarray, index: np.ndarray, dtype: torch.dtype) -> Tensor:
    chosen = torch.empty(len(index), array.shape[1], dtype=dtype)
    step = max(1, SLAB_BYTES // (array.itemsize * array.shape[1]))
    for start in range(0, len(index), step):
        part = np.ascontiguousarray(array[index[start : start + step]], dtype=array.dtype.newbyteorder("="))
        chosen[start : start + step] = torch.from_numpy(part)
    return chosen


def _torch_reads(array: np.ndarray) -> bool:
    """Whether torch can use the array's memory as it is, without a warning that it is read-only."""
    plain = array.flags.c_contiguous and array.dtype.isnative and not isinstance(array, np.memmap)
    return array.flags.writeable and plain


def _is_streamable(array: np.ndarray) -> bool:
    known = isinstance(array, np.memmap) and getattr(array, "filename", None) is not None
    return known and array.flags.c_contiguous and array.dtype.isnative and array.dtype.name in _TYPES


def storage_type(features: Any, storage: str) -> torch.dtype:
    """The type rows are held in: "auto" keeps float16, bfloat16 and small float64, and makes all else float32."""
    if storage not in ("auto", "float16", "float32"):
        raise InputError(f"storage is {storage!r}; give 'auto', 'float16' or 'float32'")
    if storage != "auto":
        return _TYPES[storage]
    name = str(features.dtype).removeprefix("torch.")
    if name == "float64" and features.shape[0] * features.shape[1] * 8 > _DOUBLE_BYTES:
        return torch.float32
    return _TYPES.get(name, torch.float32)


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of so many threads, in each of which torch runs on that thread alone."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # the workers' setting is also that of threads that start later
