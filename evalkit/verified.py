"""Which files of an artifact were hashed since they last changed.

A file is hashed when it is first read, and again when its size, time, or inode is another; large files are remembered
in a hidden file beside them, so that the next command need not read them twice. Standard library only.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalkit.errors import ArtifactError, EvalkitError
from evalkit.files import read_document, sha256_file, write_json

SIDECAR = ".verified.json"
SMALL = 32 << 20  # bytes: below, hashing takes less time than anybody notices
_LARGEST = 1 << 20


def check_hashes(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Hashes the files that were not hashed since they last changed, and remembers them.

    Args:
        files: file name -> {"sha256", ...}, as in a manifest.

    Raises:
        ArtifactError: a file's hash is not the manifest's.
    """
    known, hashed = _read(directory), {}
    for name, entry in files.items():
        path = directory / name
        before = _stamp(path)
        if known.get(name) == {"sha256": entry["sha256"], "stamp": before}:
            continue
        if sha256_file(path) != entry["sha256"]:
            raise ArtifactError(
                f"{path}: damaged or edited (its SHA-256 is not the manifest's); make the artifact again"
            )
        if before[0] > SMALL and _stamp(path) == before:
            hashed[name] = {"sha256": entry["sha256"], "stamp": before}
    _remember(directory, known, hashed)


def remember(directory: Path, hashes: Mapping[str, str]) -> None:
    """Records files that were hashed while they were written."""
    stamps = {name: _stamp(directory / name) for name in hashes}
    large = {name: stamp for name, stamp in stamps.items() if stamp[0] > SMALL}
    _remember(directory, {}, {name: {"sha256": hashes[name], "stamp": stamp} for name, stamp in large.items()})


def _remember(directory: Path, known: Mapping[str, Any], hashed: Mapping[str, Any]) -> None:
    if hashed:
        with contextlib.suppress(OSError, EvalkitError):  # a folder that this user cannot write to is read each time
            write_json(directory / SIDECAR, {**known, **hashed})


def _read(directory: Path) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, EvalkitError):
        content = read_document(directory / SIDECAR, most_bytes=_LARGEST)
        return content if isinstance(content, dict) else {}
    return {}


def _stamp(path: Path) -> list[int]:
    """Size, time of content, inode and time of inode: the last changes with any of the others, and cannot be set."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
