"""Artifacts on disk: atomic files and directories, manifests with hashes, growing arrays, the workspace.

Every command reads artifacts and writes one. An artifact is a directory with a `manifest.json` that says what it is,
what it was made from and what its files hash to. It is built under `NAME.partial` and renamed when whole.

Growing `.npy` files and resumable building of an artifact: what lets a killed prepare or extract go on.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from evalkit.errors import ArtifactError, EvalkitError
from evalkit.version import versions

FORMAT = 1  # raised when a reader of the old layout would misread the new one
MANIFEST = "manifest.json"
_UNFINISHED = ".tmp"
Manifest = dict[str, Any]


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form; equal settings give equal hashes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces `path` by `content` so that a reader, or a power cut, sees the old file or the new one, whole."""
    temporary = path.with_name(path.name + _UNFINISHED)
    with open(temporary, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def _sync(path: Path) -> None:
    """Makes a file's bytes, or the names inside a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_manifest(kind: str, *, settings: dict[str, Any], made_from: dict[str, Any]) -> Manifest:
    """A manifest's head: what the artifact is, what it was made from, with which versions. `finish` adds hashes."""
    return {
        "format": FORMAT,
        "kind": kind,
        "settings": settings,
        "made_from": made_from,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": commit(),
    }


def commit() -> str:
    """The commit of the evalkit checkout in use, or an empty string for an installed wheel."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return ""


def finish(
    building: Path,
    target: Path,
    manifest: Manifest,
    *,
    leave_out: tuple[str, ...] = (),
    hashes: Mapping[str, str] = MappingProxyType({}),
) -> Manifest:
    """Hashes the files of `building`, writes its manifest and renames it to `target`, replacing what was there.

    Files whose hash the writer knows already are not read again: `hashes`, by name.
    """
    for leftover in building.glob("*" + _UNFINISHED):  # of a run killed inside write_atomically
        leftover.unlink()
    names = sorted(path.name for path in building.iterdir() if path.name not in (MANIFEST, *leave_out))
    files = {}
    for name in names:
        _sync(building / name)
        files[name] = {
            "sha256": hashes.get(name) or sha256_file(building / name),
            "bytes": (building / name).stat().st_size,
        }
    manifest = manifest | {"files": files}
    write_json(building / MANIFEST, manifest)
    if target.exists():
        discarded = target.with_name(target.name + ".old")
        shutil.rmtree(discarded, ignore_errors=True)
        os.rename(target, discarded)
        os.rename(building, target)
        shutil.rmtree(discarded)
    else:
        os.rename(building, target)
    _sync(target.parent)
    return manifest


def read_manifest(directory: Path, kind: str, *, check_hashes: bool = False) -> Manifest:
    """The manifest of the artifact in `directory`.

    Raises:
        ArtifactError: nothing there, another kind or format, or a file of another size (or hash, if asked).
    """
    path = Path(directory) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(
            f"{directory}: no {MANIFEST} there, expected {_article(kind)}; is the path right?"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, NotADirectoryError) as error:
        raise ArtifactError(f"{path}: not readable as a manifest ({error}); make the artifact again") from None
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtifactError(f"{directory}: holds {_article(str(found))}, expected {_article(kind)}")
    if manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{directory}: format {manifest.get('format')}, this evalkit reads {FORMAT}; make the artifact again"
        )
    for name, entry in manifest["files"].items():
        _check_file(Path(directory) / name, entry, check_hashes)
    return manifest


def _check_file(path: Path, entry: dict[str, Any], check_hash: bool) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != entry["bytes"]:
        found = "missing" if size is None else f"{size:,} bytes"
        raise ArtifactError(f"{path}: {found}, the manifest says {entry['bytes']:,} bytes; make the artifact again")
    if check_hash and sha256_file(path) != entry["sha256"]:
        raise ArtifactError(f"{path}: its SHA-256 is not the manifest's; make the artifact again")


def _article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock on the artifact at `path` so that two commands do not build it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise EvalkitError(f"{path}: another evalkit command is writing it; wait for that one to end") from None
        yield


PROGRESS = "progress.json"


class NpyWriter:
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

    def __enter__(self) -> "NpyWriter":
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Closes the file; after an error without a row count, so that it does not read as whole."""
        if failure is None:
            self.close()
        else:
            self._file.close()


class ArtifactWriter:
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
def write_artifact(target: Path, *, settings: dict[str, Any], made_from: dict[str, Any]) -> Iterator[ArtifactWriter]:
    """Opens `target` for building under a lock; resumes when an interrupted one has equal settings and inputs."""
    with locked(target):
        yield ArtifactWriter(target, settings, made_from)
