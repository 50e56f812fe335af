"""Where feature rows come from: a tensor in memory, or a file read in chunks. The solvers see float32 chunks only.

Features may be stored as float16 (half the bytes; moves the optimum by about 2e-6 of the objective); arithmetic is
float32 whatever the storage, so chunks are converted as they pass, in pieces that stay in the cache.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.probes.l2svm.problem import InputError

_CONVERTED_BYTES = 8 << 20  # a converted chunk: larger ones leave the cache and convert at half the rate
_RESIDENT_BYTES = 512 << 20  # a chunk that needs no conversion is only a view; this bounds the scores beside it
_DEVICE_BYTES = 2 << 30  # on an accelerator launches cost more than memory
_DOUBLE_BYTES = 1 << 28  # float64 features up to here stay float64: precision is free where time is short
_LARGEST = 1e18  # squares of larger values, summed over features, leave float32


class ResidentRows:
    """Rows held in memory on the device that computes.

    Args:
        features: (N, D) float16, bfloat16 or float32 on the device.
    """

    def __init__(self, features: Tensor) -> None:
        self.stored = features
        self.count, self.features = features.shape
        self.device = features.device
        self.dtype = torch.float64 if features.dtype == torch.float64 else torch.float32  # of the arithmetic

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive rows as float32, first to last: (where, (n, D)). A chunk is valid until the next is asked for."""
        converted = self.stored.dtype != self.dtype
        step = chunk_rows(self.features, self.device, converted=converted)
        buffer = torch.empty(min(step, self.count), self.features, device=self.device) if converted else None
        for start in range(0, self.count, step):
            part = self.stored[start : start + step]
            if buffer is not None:
                part = buffer[: len(part)].copy_(part)
            yield slice(start, start + len(part)), part

    def take(self, index: Tensor) -> Tensor:
        """The rows with these numbers, float32 (len(index), D)."""
        return self.stored[index].to(self.dtype)


Rows = ResidentRows


def as_matrix(features: Any) -> Any:
    """Features as a two-dimensional numpy array, memory map or tensor; a feature set gives its array."""
    features = getattr(features, "features", features)
    if not isinstance(features, Tensor):
        features = np.asanyarray(features)
    if features.ndim != 2 or min(features.shape) == 0:
        raise InputError(f"features have shape {tuple(features.shape)}; expected rows x features, neither of them 0")
    return features


def chunk_rows(features: int, device: torch.device, *, converted: bool) -> int:
    """Rows a chunk, from the bytes it may take."""
    if device.type != "cpu":
        limit = _DEVICE_BYTES
    else:
        limit = _CONVERTED_BYTES if converted else _RESIDENT_BYTES
    return max(1, limit // (4 * features))


def resident_rows(features: Any, rows: np.ndarray | None, *, device: torch.device, storage: str) -> ResidentRows:
    """Copies the chosen rows into memory on `device`; no copy when they already are there whole and in that type."""
    dtype = storage_type(features, storage)
    if isinstance(features, Tensor):
        chosen = features if rows is None else features[torch.as_tensor(rows, device=features.device)]
        return ResidentRows(chosen.to(device=device, dtype=dtype))
    array = np.asarray(features)
    if rows is None and _torch_reads(array):
        return ResidentRows(torch.from_numpy(array).to(device=device, dtype=dtype))
    index = np.arange(len(array)) if rows is None else rows
    chosen = torch.empty(len(index), array.shape[1], dtype=dtype)
    step = max(1, _RESIDENT_BYTES // (8 * array.shape[1]))
    for start in range(0, len(index), step):
        part = np.ascontiguousarray(array[index[start : start + step]])
        chosen[start : start + step] = torch.from_numpy(part)
    return ResidentRows(chosen.to(device))


def _torch_reads(array: np.ndarray) -> bool:
    """Whether torch can use the array's memory as it is, without a warning that it is read-only."""
    return array.flags.writeable and array.flags.c_contiguous and not isinstance(array, np.memmap)


def storage_type(features: Any, storage: str) -> torch.dtype:
    """The type rows are held in: "auto" keeps float16, bfloat16 and small float64, and makes all else float32."""
    if storage not in ("auto", "float16", "float32"):
        raise InputError(f"storage is {storage!r}; give 'auto', 'float16' or 'float32'")
    if storage != "auto":
        return torch.float16 if storage == "float16" else torch.float32
    name = str(features.dtype).removeprefix("torch.")
    if name == "float64" and features.shape[0] * features.shape[1] * 8 <= _DOUBLE_BYTES:
        return torch.float64
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(name, torch.float32)


def check_finite(rows: Rows) -> Tensor:
    """Squared length of each row, float32 (N,); refuses NaN, infinite and overflowing features, naming the place."""
    lengths = torch.empty(rows.count, dtype=rows.dtype, device=rows.device)
    for where, chunk in rows.chunks():
        lengths[where] = torch.linalg.vector_norm(chunk, dim=1)
        if not torch.isfinite(lengths[where]).all() or lengths[where].max() > _LARGEST:
            _refuse(chunk, where.start)
    return lengths.square_()


def _refuse(chunk: Tensor, first: int) -> None:
    bad = (~torch.isfinite(chunk)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        kind = "NaN" if chunk[row, column].isnan() else "infinity"
        raise InputError(f"features row {first + row}, column {column} is {kind}; remove or mend that row")
    place = int(chunk.abs().argmax())
    row, column = divmod(place, chunk.shape[1])
    raise InputError(
        f"features row {first + row}, column {column} is {chunk[row, column]:.3g}: float32 overflows in the products; "
        "divide the features by a constant (and multiply C by its square)"
    )
