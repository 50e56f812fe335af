"""Arrays in .npy files: opened once the header is checked against the file, and grown while an artifact is built."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np

from evalkit.errors import ArtifactError, one_line
from evalkit.files import open_to_write

_KINDS = "biufcSU"  # numbers and text; objects would be a pickle
_MOST_DIMENSIONS = 8


def open_npy(
    path: Path, *, dtype: str = "", dimensions: int = 0, mapped: bool = True, exact: bool = True
) -> np.ndarray:
    """The array of a .npy file, memory-mapped or read.

    Args:
        path: the file.
        dtype: the element type it must have, e.g. "uint8"; several separated by spaces; by default numbers or text.
        dimensions: the number of dimensions it must have; by default any.
        mapped: memory-map it.
        exact: refuse a file that is longer than its array.

    Raises:
        FileNotFoundError: no such file.
        ArtifactError: not such an array, or another size than the header says.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path}: not a file; expected an array in a .npy file")
        try:
            shape, fortran, found = _read_header(file)
        except Exception as error:  # numpy evaluates the header as Python: anything may come
            raise ArtifactError(f"{path}: not a NumPy array of plain numbers or text ({one_line(error)})") from None
        problem = _header_problem(shape, found, dtype, dimensions)
        size, offset = found.itemsize * _product(shape), file.tell()
        if not problem and (status.st_size < offset + size or (exact and status.st_size > offset + size)):
            problem = f"{status.st_size:,} bytes, its header says {offset + size:,}"
        if problem:
            raise ArtifactError(f"{path}: {problem}; make it again, or copy it again from where it came")
        order = "F" if fortran else "C"
        if mapped and size:
            return np.memmap(file, dtype=found, mode="r", offset=offset, shape=shape, order=order)  # type: ignore[call-overload]
        return np.frombuffer(file.read(size), found).reshape(shape, order=order).copy(order)  # type: ignore[call-overload]


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the format")
    return readers[version](file)


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for each in shape:
        total *= int(each)
    return total


def _header_problem(shape: tuple[int, ...], found: np.dtype, dtype: str, dimensions: int) -> str:
    if found.kind not in _KINDS or found.itemsize == 0:
        return f"an array of {found.kind!r} elements, expected numbers or text"
    if dtype and found.name not in dtype.split():
        return f"an array of {found.name}, expected {dtype.replace(' ', ' or ')}"
    if len(shape) > _MOST_DIMENSIONS or any(type(each) is not int or each < 0 for each in shape):
        return f"an array of shape {str(shape)[:60]}"
    if dimensions and len(shape) != dimensions:
        return f"an array of {len(shape)} dimensions, expected {dimensions}"
    return ""


class NpyWriter:
    """Appends rows to a `.npy` file whose number of rows is known only at the end.

    Where the number is known before, `np.lib.format.open_memmap` does.

    Args:
        path: the file; created when missing.
        row_shape: shape of one row.
        dtype: element type of the file.
        rows: rows already there that count; whatever follows them is cut off (a killed run's unrecorded tail).
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: np.dtype | type | str, *, rows: int = 0):
        self.row_shape, self.dtype, self.rows = row_shape, np.dtype(dtype), rows
        self._file = open_to_write(path, "r+b" if os.path.lexists(path) else "w+b")
        self._write_header()
        end = self._file.tell() + rows * self.dtype.itemsize * int(np.prod(row_shape))
        if rows and os.fstat(self._file.fileno()).st_size < end:
            self._file.close()
            raise ArtifactError(f"{path}: shorter than its {rows:,} recorded rows; remove {path.parent} and run again")
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)

    def _write_header(self) -> None:
        """numpy pads the header so that the row count can grow in place without moving the data."""
        shape = (self.rows, *self.row_shape)
        descr = np.lib.format.dtype_to_descr(self.dtype)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, {"shape": shape, "fortran_order": False, "descr": descr})

    def append(self, rows: np.ndarray) -> None:
        """Adds rows (n, *row_shape); cast to the file's dtype."""
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]}, the file holds {self.row_shape}")
        self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        self.rows += len(rows)

    def sync(self) -> None:
        """Makes all appended rows durable; call before recording progress."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Writes the final row count and closes the file."""
        self._write_header()
        self.sync()
        self._file.close()

    def __enter__(self) -> "NpyWriter":
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Closes the file; after an error without a row count, so that it does not read as complete."""
        if failure is None:
            self.close()
        else:
            self._file.close()
