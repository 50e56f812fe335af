"""Where feature rows come from: memory, or a file read in chunks. The solvers only see chunks ready to multiply.

Features may be stored as float16 (half the bytes; moves the optimum by about 2e-6 of the objective); arithmetic is
float32 whatever the storage, so chunks are converted as they pass, in pieces that stay in the cache.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.probes.l2svm.problem import InputError

_CONVERTED_BYTES = (
    64 << 20
)  # a converted chunk: 500 rows of 28,672; with fewer, products on two threads fall to two thirds
_VIEW_BYTES = 512 << 20  # a chunk that needs no conversion is only a view
_DEVICE_BYTES = 2 << 30  # on an accelerator launches cost more than memory
SLAB_BYTES = 64 << 20  # read from a file at a time: long enough to stream, and two of them are little memory
_DOUBLE_BYTES = 1 << 28  # float64 features up to here stay float64: precision is free where time is short
_LARGEST = 1e18  # squares of larger values, summed over features, leave float32

_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class Rows:
    """Rows of a feature matrix, in memory as far as they fit, the rest in a file.

    Args:
        stored: (n, D) tensor of the first rows, on the device that computes.
        streamed: the rows after those, or None.

    Attributes:
        count, features: N and D.
        dtype: of the arithmetic, float32 (float64 when the rows are float64).
    """

    def __init__(self, stored: Tensor, streamed: "FileRows | None" = None) -> None:
        self.stored = stored
        self.streamed = streamed
        self.count = len(stored) + (len(streamed.rows) if streamed else 0)
        self.features = stored.shape[1]
        self.device = stored.device
        self.dtype = torch.float64 if stored.dtype == torch.float64 else torch.float32

    def chunks(self, columns: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive rows in the type of the arithmetic: (where, (n, D)), each valid until the next is asked for.

        Chunks hold at least `columns` rows, so that a product with that many columns reads as much of one as of the
        other.
        """
        yield from self._converted(self.stored, 0, columns)
        if self.streamed is not None:
            first = len(self.stored)
            for slab in self.streamed.slabs():
                yield from self._converted(slab, first, columns)
                first += len(slab)

    def _converted(self, stored: Tensor, first: int, columns: int) -> Iterator[tuple[slice, Tensor]]:
        convert = stored.dtype != self.dtype or stored.device != self.device
        limit = _CONVERTED_BYTES if convert else _VIEW_BYTES
        limit = _DEVICE_BYTES if self.device.type != "cpu" else limit
        step = max(1, columns, limit // (4 * self.features))
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
            ready = reader.submit(self.read, parts[0]) if parts else None
            for following in [*parts[1:], None]:
                assert ready is not None
                slab = ready.result()
                ready = None if following is None else reader.submit(self.read, following)
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


def _place(array: np.memmap) -> tuple[Path, int]:
    """File of a memory map, or of a view of one, and where in it the view starts."""
    root: Any = array
    while isinstance(root.base, np.memmap):
        root = root.base
    start = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return Path(root.filename), root.offset + start


def as_matrix(features: Any) -> Any:
    """Features as a two-dimensional numpy array, memory map or tensor; a feature set gives its array."""
    features = getattr(features, "features", features)
    if not isinstance(features, Tensor):
        features = np.asanyarray(features)
    if features.ndim != 2 or min(features.shape) == 0:
        raise InputError(f"features have shape {tuple(features.shape)}; expected rows x features, neither of them 0")
    return features


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
        chosen = features if rows is None else features[torch.as_tensor(rows, device=features.device)]
        return Rows(chosen.to(device=device, dtype=dtype))
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


def _copied(array: np.ndarray, index: np.ndarray, dtype: torch.dtype) -> Tensor:
    chosen = torch.empty(len(index), array.shape[1], dtype=dtype)
    step = max(1, SLAB_BYTES // (array.itemsize * array.shape[1]))
    for start in range(0, len(index), step):
        part = torch.from_numpy(np.ascontiguousarray(array[index[start : start + step]]))
        chosen[start : start + step] = part
    return chosen


def _torch_reads(array: np.ndarray) -> bool:
    """Whether torch can use the array's memory as it is, without a warning that it is read-only."""
    return array.flags.writeable and array.flags.c_contiguous and not isinstance(array, np.memmap)


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


def check_finite(rows: Rows, numbers: np.ndarray | None = None) -> Tensor:
    """Squared length of each row (N,); refuses NaN, infinite and overflowing features, naming the place.

    `numbers` are the rows' own, where they were chosen out of more.
    """
    lengths = torch.empty(rows.count, dtype=rows.dtype, device=rows.device)
    for where, chunk in rows.chunks():
        lengths[where] = torch.linalg.vector_norm(chunk, dim=1)
        if not torch.isfinite(lengths[where]).all() or lengths[where].max() > _LARGEST:
            _refuse(chunk, np.arange(rows.count)[where] if numbers is None else numbers[where])
    return lengths.square_()


def _refuse(chunk: Tensor, numbers: np.ndarray) -> None:
    bad = (~torch.isfinite(chunk)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        kind = "NaN" if chunk[row, column].isnan() else "infinity"
        raise InputError(f"features row {numbers[row]}, column {column} is {kind}; remove or mend that row")
    row, column = divmod(int(chunk.abs().argmax()), chunk.shape[1])
    raise InputError(
        f"features row {numbers[row]}, column {column} is {chunk[row, column]:.3g}: float32 overflows in the products; "
        "divide the features by a constant (and multiply C by its square)"
    )
