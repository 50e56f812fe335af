"""Checks of the arrays that people bring: features (N, D) of any plain kind, splits by name or by range.

`FeatureSet.from_arrays` and `import_features` make feature sets of them, with labels checked by `labels.py`. NumPy
only: nothing here reads a file.
"""

import hashlib
import io
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from evalkit.errors import ArtifactError, EvalkitError, one_line
from evalkit.features.labels import cleaned_text, is_text

Splits = dict[str, tuple[int, int]]
_CHUNK_NUMBERS = 1 << 23  # numbers that are checked or hashed at a time


class Array(Protocol):
    """What is needed of an array: its shape and type, and the numbers for a slice or for an array of row numbers."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


def as_array(values: Any) -> np.ndarray:
    """A NumPy array of an array, a list, a data frame, or a tensor on any device.

    Types that NumPy lacks (bfloat16, float8) become float32, quantised numbers what they stand for, sparse ones dense.

    Raises:
        EvalkitError: a tensor of a type that has no numbers in NumPy, or a masked array.
    """
    if hasattr(values, "detach"):  # a tensor: torch is not imported for it
        return _of_tensor(values)
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            raise EvalkitError("a masked array, expected a number in every place; fill it first")
        values = values.data
    if hasattr(values, "toarray"):  # SciPy's sparse arrays
        values = values.toarray()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise EvalkitError(f"{type(values).__name__}: not an array of numbers or names ({one_line(error)})") from None
    lacking = array.dtype.kind == "V" and array.dtype.name.startswith(("bfloat16", "float8", "float4", "float6"))
    return array.astype(np.float32) if lacking else array  # of JAX and TensorFlow


def _of_tensor(tensor: Any) -> np.ndarray:
    try:
        tensor = tensor.detach()
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if "strided" not in str(tensor.layout):
            tensor = tensor.to_dense()
        tensor = tensor.cpu()
        lacking = str(tensor.dtype) == "torch.bfloat16" or str(tensor.dtype).startswith("torch.float8")
        return np.asarray(tensor.float() if lacking else tensor)
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:  # NotImplementedError is a RuntimeError
        raise EvalkitError(
            f"a tensor {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} that has no numbers in NumPy "
            f"({one_line(error)}); convert it by .float()"
        ) from None


def check_features(features: Array, source: str, *, columns: int | None = None, like: str = "") -> int:
    """D of features (N, D).

    Args:
        features: the array; its numbers are not read.
        source: what error messages call it.
        columns, like: the D that is expected, and the array that has it.

    Raises:
        EvalkitError: another shape, no numbers, or another D.
    """
    shape, dtype = features.shape, np.dtype(features.dtype)
    if len(shape) != 2:
        hint = "; X.reshape(len(X), -1) turns maps into rows" if len(shape) > 2 else ""
        raise EvalkitError(f"{source}: features of shape {shape}, expected (N, D), one row per image{hint}")
    if 0 in shape or dtype.kind not in "fiub":
        raise EvalkitError(f"{source}: features {dtype} {shape}, expected numbers, at least one row and one column")
    if columns is not None and shape[1] != columns:
        raise EvalkitError(f"{source}: rows of {shape[1]} numbers, expected {columns} as in {like}")
    return int(shape[1])


def check_finite(rows: np.ndarray, first: int, name: str) -> None:
    """Refuses rows (n, D) that hold NaN or infinity.

    Args:
        rows: a chunk of the features.
        first: the number of its first row, for the error message.
        name: the data set's name, likewise.

    Raises:
        ArtifactError: names the first such number.
    """
    finite = np.isfinite(rows)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ArtifactError(
            f"{name}: number {column} of row {first + row} is {rows[row, column]} as {rows.dtype}, "
            "expected finite numbers"
        )


def rows_by_split(splits: Any, rows: int, source: str) -> tuple[np.ndarray, Splits]:
    """(row numbers in the order of their splits, where each split then lies).

    Args:
        splits: the name of a split for each row, in any order; or {name: (first row, row after the last)}, where rows
            in no range are left out.
        rows: how many rows there are.
        source: what error messages call the splits.

    Raises:
        EvalkitError: neither form, another number of rows, or ranges that overlap.
    """
    if isinstance(splits, dict):
        return _rows_by_range(splits, rows, source)
    return _rows_by_name(np.asarray(splits), rows, source)


def _rows_by_name(names: np.ndarray, rows: int, source: str) -> tuple[np.ndarray, Splits]:
    """Splits come in the order in which they begin."""
    if names.ndim != 1 or not is_text(names) or len(names) != rows:
        raise EvalkitError(
            f"{source}: splits are {names.dtype} {names.shape}, expected the name of a split for each of {rows:,} rows"
        )
    names = cleaned_text(names, source)
    firsts = np.unique(names, return_index=True)[1]
    in_order = [names[first] for first in sorted(firsts)]
    members = [np.flatnonzero(names == name) for name in in_order]
    ends = np.cumsum([len(part) for part in members]).tolist()
    starts = [0, *ends[:-1]]
    places = {str(name): (start, end) for name, start, end in zip(in_order, starts, ends, strict=True)}
    return np.concatenate(members), places


def _rows_by_range(ranges: dict[str, Any], rows: int, source: str) -> tuple[np.ndarray, Splits]:
    named = all(isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200 for name in ranges)
    if not ranges or not named or not all(_is_range(value, rows) for value in ranges.values()):
        form = '{"train": [first, end], "test": [first, end]}'
        raise EvalkitError(f"{source}: expected splits as {form} within {rows:,} rows")
    order = np.concatenate([np.arange(*value) for value in ranges.values()])
    if len(np.unique(order)) < len(order):
        raise EvalkitError(f"{source}: splits overlap; a row belongs to one split")
    ends = np.cumsum([end - first for first, end in ranges.values()]).tolist()
    return order, {name: (end - (b - a), end) for (name, (a, b)), end in zip(ranges.items(), ends, strict=True)}


def _is_range(value: Any, rows: int) -> bool:
    whole = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(number) is int for number in value)
    return whole and 0 <= value[0] < value[1] <= rows


def row_chunks(array: np.ndarray) -> Sequence[slice]:
    """Slices of consecutive rows (N, D), each of a few million numbers."""
    step = max(1, _CHUNK_NUMBERS // array.shape[1])
    return [slice(first, first + step) for first in range(0, len(array), step)]


def sha256_of_array(array: np.ndarray) -> str:
    """The hex SHA-256 that (N, D) has as a .npy file: features in memory and on disk have one identity."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(array.dtype)
    np.lib.format.write_array_header_1_0(header, {"shape": array.shape, "fortran_order": False, "descr": descr})
    digest = hashlib.sha256(header.getvalue())
    for chunk in row_chunks(array):
        digest.update(np.ascontiguousarray(array[chunk]).data.cast("B"))
    return digest.hexdigest()
