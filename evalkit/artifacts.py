"""Artifacts on disk: manifests with hashes, atomic files, and a writer that resumes a killed build.

Every command reads artifacts and writes one. An artifact is a directory with a `manifest.json` that says what it is,
what it was made from and what its files hash to. It is built under `NAME.partial` and renamed when it is complete.
Standard library only: the command line imports this for `--help`.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, BinaryIO

from evalkit.errors import ArtifactError, EvalkitError, printable
from evalkit.version import versions

# The format of each kind of artifact, raised when a reader of the old one would misread the new one.
FORMATS = {
    "image set": 1,
    "feature set": 2,  # the field's names for settings and layers
    "run": 2,  # likewise, and the recipe's
    "checkpoint": 2,
    "pretrained weights": 2,
    "run card": 2,
    "k-means dictionary": 1,
    "experiment": 1,
    "1-NN fit": 1,
}
MANIFEST = "manifest.json"
PROGRESS = "progress.json"
_UNFINISHED = ".tmp"
_LONGEST_NAME = 200  # bytes; file systems take 255, and ".partial" and the like are added
_LARGEST_JSON = 64 * 2**20  # the largest manifests, of image sets with many classes, have a thousandth of it
Manifest = dict[str, Any]


@contextlib.contextmanager
def write_artifact(target: Path, *, settings: dict[str, Any], made_from: dict[str, Any]) -> Iterator["ArtifactWriter"]:
    """Opens `target` for building under a lock; resumes an interrupted build that had equal settings and inputs."""
    with locked(target):
        yield ArtifactWriter(target, settings, made_from)


class ArtifactWriter:
    """An artifact under construction in `TARGET.partial`, with the progress that a resumed command starts from.

    Raises:
        EvalkitError: the target, or its `.partial`, exists and is nothing that evalkit made.
    """

    def __init__(self, target: Path, settings: dict[str, Any], made_from: dict[str, Any]):
        self.target, self.path = target, target.with_name(target.name + ".partial")
        self._key = sha256_json([settings, made_from])
        self.progress = self._read_progress()
        _refuse_foreign(target)
        if not self.progress:
            self._refuse_foreign_build()
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            self.save()  # marks the folder as one that may be removed

    def _read_progress(self) -> dict[str, Any]:
        try:
            record = json.loads((self.path / PROGRESS).read_text())
        except (OSError, ValueError):
            return {}
        return record["progress"] if record.get("key") == self._key else {}

    def _refuse_foreign_build(self) -> None:
        names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        ours = all(name.startswith(PROGRESS) for name in names) or PROGRESS in names
        if not ours or (self.path.exists() and not self.path.is_dir()):
            raise EvalkitError(
                f"{self.path}: in the way of {self.target.name}, and not an unfinished artifact; move it away"
            )

    def save(self, **progress: Any) -> None:
        """Records how far the data on disk (already synced) goes."""
        self.progress = progress
        write_json(self.path / PROGRESS, {"key": self._key, "progress": progress})

    def finish(
        self,
        manifest: Manifest,
        *,
        hashes: Mapping[str, str] = MappingProxyType({}),
        unhashed: Sequence[str] = (),
    ) -> Manifest:
        """Hashes the files, writes the manifest and renames the folder to the target, replacing what was there.

        Args:
            manifest: from `new_manifest`, with what else the artifact's readers need.
            hashes: SHA-256 by file name, of files that need not be read again.
            unhashed: files that the manifest leaves out, since they may change later.
        """
        for leftover in self.path.glob("*" + _UNFINISHED):  # of a process killed inside atomic_file
            leftover.unlink()
        files = {}
        for path in sorted(self.path.iterdir()):
            if path.name not in (MANIFEST, PROGRESS, *unhashed):
                _sync(path)
                files[path.name] = {
                    "sha256": hashes.get(path.name) or sha256_file(path),
                    "bytes": path.stat().st_size,
                }
        manifest = manifest | {"files": files}
        write_json(self.path / MANIFEST, manifest)
        _replace_folder(self.path, self.target)
        (self.target / PROGRESS).unlink(missing_ok=True)
        return manifest


def already_built(
    target: Path,
    kind: str,
    *,
    settings: dict[str, Any],
    made_from: dict[str, Any],
    replace: bool,
    compared: Sequence[str] | None = None,
) -> Manifest | None:
    """The manifest of the artifact at `target` if it is the wanted one; None if it has to be built.

    Args:
        settings, made_from: what the wanted artifact's manifest says.
        replace: build in place of another, a broken or a stale artifact.
        compared: the settings that have to be equal; by default all.

    Raises:
        EvalkitError: there is something that evalkit did not make; or, unless `replace`, another artifact.
    """
    _refuse_foreign(target)
    if not (target / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(target, kind)
    except ArtifactError:
        if replace:
            return None
        raise
    differences = _differences(manifest["settings"], settings, compared)
    differences += [f"made from {each}" for each in _differences(manifest["made_from"], made_from)]
    if not differences:
        return manifest
    if replace:
        return None
    named = ", ".join(differences[:3] + ["..."] * (len(differences) > 3))
    raise EvalkitError(f"{target}: holds {_another(kind)} ({named}); choose another name, or replace it (--replace)")


def _differences(stored: dict[str, Any], wanted: dict[str, Any], keys: Sequence[str] | None = None) -> list[str]:
    """One entry per key that differs, as "size 32 -> 64"; long values are cut off, dictionaries compared by key."""
    wanted = json.loads(json.dumps(wanted))  # tuples become lists, as they are in the file
    lines: list[str] = []
    for key in keys or dict.fromkeys([*stored, *wanted]):
        old, new = stored.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += [f"{key} {each}" for each in _differences(old, new)]
        elif old != new:
            lines.append(f"{key} {str(old)[:12]} -> {str(new)[:12]}")
    return lines


def _refuse_foreign(target: Path) -> None:
    """An artifact may replace an artifact or an empty folder, nothing else."""
    if not target.exists() and not target.is_symlink():
        return
    if (target / MANIFEST).is_file() or (target.is_dir() and not target.is_symlink() and not any(target.iterdir())):
        return
    raise EvalkitError(f"{target}: exists and is not an artifact of evalkit; move it away or choose another place")


def copy_artifact(source: Path, target: Path) -> None:
    """Copies an artifact's folder, completely or not at all, in place of what is at `target`."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    for path in partial.iterdir():
        _sync(path)
    _replace_folder(partial, target)


def _replace_folder(partial: Path, target: Path) -> None:
    """Renames `partial` to `target`; what was there goes."""
    discarded = target.with_name(target.name + ".old")
    shutil.rmtree(discarded, ignore_errors=True)
    if target.exists():
        os.rename(target, discarded)
    os.rename(partial, target)
    shutil.rmtree(discarded, ignore_errors=True)
    _sync(target.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock on the artifact at `path` so that two commands do not build it at once; leaves no file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with _opened_lock(lock, path):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # before the lock is released: see _opened_lock


def _opened_lock(lock: Path, path: Path) -> IO[str]:
    """The lock file, open and locked; opened again if the command that held it removed it in the meantime."""
    while True:
        file = open(lock, "w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                    return file
        except OSError as error:
            file.close()
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise EvalkitError(f"{path}: another evalkit command is writing it; wait until it ends") from None
        file.close()


# -- manifests


def new_manifest(kind: str, *, settings: dict[str, Any], made_from: dict[str, Any]) -> Manifest:
    """A manifest's head: what the artifact is, what it was made from, with which versions. The writer adds hashes."""
    return {
        "format": FORMATS.get(kind, 1),
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
        other = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtifactError(f"{directory}: holds {_article(str(other))}, expected {_article(kind)}")
    check_format(directory, manifest, kind)
    for name, entry in manifest["files"].items():
        _check_file(Path(directory) / name, entry, check_hashes)
    return manifest


def check_format(path: Path, manifest: Manifest, kind: str) -> None:
    """Refuses a manifest or card of another format than this evalkit's.

    Raises:
        ArtifactError: the message says to make the artifact again.
    """
    wanted = FORMATS.get(kind, 1)
    if manifest.get("format") != wanted:
        raise ArtifactError(
            f"{path}: {_article(kind)} of format {manifest.get('format')}, this evalkit reads format {wanted}; "
            f"make it again"
        )


def _check_file(path: Path, entry: dict[str, Any], check_hash: bool) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != entry["bytes"]:
        actual = "missing" if size is None else f"{size:,} bytes"
        raise ArtifactError(f"{path}: {actual}, the manifest says {entry['bytes']:,} bytes; make the artifact again")
    if check_hash and sha256_file(path) != entry["sha256"]:
        raise ArtifactError(f"{path}: its SHA-256 is not the manifest's; make the artifact again")


def _another(kind: str) -> str:
    return f"other {kind}" if kind.endswith("s") else f"another {kind}"


def _article(kind: str) -> str:
    if kind.endswith("s"):  # weights
        return kind
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


# -- names and JSON that evalkit did not necessarily write


def safe_name(name: Any, what: str) -> str:
    """The name, if it can stand for one file or folder inside a folder: every name from a file is checked by this.

    Raises:
        ArtifactError: no text, empty, with a slash, a control character or a leading dot, or too long for a file.
    """
    fine = isinstance(name, str) and name and not name.startswith(".") and not any(each in "/\\" for each in name)
    if fine and printable(name) == name and len(name.encode()) <= _LONGEST_NAME:
        return name
    raise ArtifactError(
        f"{repr(name)[:80]} is no name for {_article(what)}; give one without slashes and without a leading dot"
    )


def read_json(path: Path, *, most_bytes: int = _LARGEST_JSON) -> Any:
    """The JSON value in a file.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: not a regular file, too large, too deeply nested, or not JSON.
    """
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"larger than {most_bytes:,} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


# -- hashes and files


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form; equal settings give equal hashes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write in place of `path`: a reader, or a power cut, sees the old file or the new one, complete.

    After an error there is no trace of the new one.
    """
    temporary = path.with_name(path.name + _UNFINISHED)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces `path` by `content`, as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


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
