"""Arrays on disk that grow while an artifact is built."""

import os
from pathlib import Path

import numpy as np


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
        self._file = open(path, "r+b" if path.exists() else "w+b")
        self._write_header()
        row_bytes = self.dtype.itemsize * int(np.prod(row_shape))
        self._file.truncate(self._file.tell() + rows * row_bytes)
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
