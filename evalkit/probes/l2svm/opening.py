"""From arrays, memory maps, tensors and feature sets to rows: in which type, and how many of them in memory."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.probes.l2svm.filerows import SLAB_BYTES, FileRows
from evalkit.probes.l2svm.problem import InputError
from evalkit.probes.l2svm.rows import Rows

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
