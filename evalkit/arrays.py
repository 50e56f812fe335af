"""Growing `.npy` files and resumable building of an artifact: what lets a killed prepare or extract go on."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from evalkit.artifacts import Manifest, finish, locked, sha256_json, write_json
from evalkit.errors import EvalkitError

PROGRESS = "progress.json"


class RowWriter:
    """Appends rows to a `.npy` file whose number of rows is known only at the end.

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

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Closes the file; after an error without a row count, so that it does not read as whole."""
        if failure is None:
            self.close()
        else:
            self._file.close()


class Building:
    """An artifact under construction in `TARGET.partial`, with the progress that a resumed command starts from."""

    def __init__(self, target: Path, settings: dict[str, Any], made_from: dict[str, Any]):
        self.target, self.path = target, target.with_name(target.name + ".partial")
        self._key = sha256_json([settings, made_from])
        self.progress = self._found_progress()
        if not self.progress:
            self._refuse_what_is_not_ours()
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            self.save()  # marks the folder as one that may be removed

    def _found_progress(self) -> dict[str, Any]:
        try:
            found = json.loads((self.path / PROGRESS).read_text())
        except (OSError, ValueError):
            return {}
        return found["progress"] if found.get("key") == self._key else {}

    def _refuse_what_is_not_ours(self) -> None:
        names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        ours = all(name.startswith(PROGRESS) for name in names) or PROGRESS in names
        if not ours or (self.path.exists() and not self.path.is_dir()):
            raise EvalkitError(
                f"{self.path}: in the way of {self.target.name}, and no unfinished artifact; move it away"
            )

    def save(self, **progress: Any) -> None:
        """Records how far the data on disk (already synced) goes."""
        self.progress = progress
        write_json(self.path / PROGRESS, {"key": self._key, "progress": progress})

    def finish(self, manifest: Manifest, *, hashes: Mapping[str, str] = MappingProxyType({})) -> Manifest:
        """Turns the building into the artifact; `hashes` as in `artifacts.finish`."""
        manifest = finish(self.path, self.target, manifest, leave_out=(PROGRESS,), hashes=hashes)
        (self.target / PROGRESS).unlink(missing_ok=True)
        return manifest


@contextmanager
def building(target: Path, *, settings: dict[str, Any], made_from: dict[str, Any]) -> Iterator[Building]:
    """Opens `target` for building under a lock; resumes when an interrupted one has equal settings and inputs."""
    with locked(target):
        yield Building(target, settings, made_from)
