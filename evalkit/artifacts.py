"""Artifacts on disk: manifests with hashes, atomic files, and a writer that resumes a killed build.

Every command reads artifacts and writes one. An artifact is a directory with a `manifest.json` that says what it is,
what it was made from and what its files hash to. It is built under `NAME.partial` and renamed when it is complete.
Standard library only: the command line imports this for `--help`.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evalkit import verified
from evalkit.errors import ArtifactError, EvalkitError, printable
from evalkit.files import atomic_file as atomic_file
from evalkit.files import (
    discard,
    is_temporary,
    read_document,
    refuse_links,
    remove_discarded,
    removed_at_exit,
    set_aside,
    sync,
)
from evalkit.files import read_json as read_json
from evalkit.files import safe_name as safe_name
from evalkit.files import sha256_file as sha256_file
from evalkit.files import write_atomically as write_atomically
from evalkit.files import write_json as write_json
from evalkit.locks import locked as locked
from evalkit.schemas import check_manifest, find_problem
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
# in an artifact's folder beside the files of its manifest
_EXTRA = {MANIFEST, PROGRESS, verified.SIDECAR, "card.md", ".DS_Store", "Thumbs.db", "desktop.ini"}
Manifest = dict[str, Any]


@contextlib.contextmanager
def write_artifact(target: Path, *, settings: dict[str, Any], made_from: dict[str, Any]) -> Iterator["ArtifactWriter"]:
    """Opens `target` for building under a lock; resumes an interrupted build that had equal settings and inputs."""
    with locked(target):
        yield ArtifactWriter(target, settings, made_from)


class ArtifactWriter:
    """An artifact under construction in `TARGET.partial`, with the progress that a resumed command starts from.

    Raises:
        EvalkitError: the target, or its `.partial`, exists and is nothing that evalkit made; or it holds links.
    """

    def __init__(self, target: Path, settings: dict[str, Any], made_from: dict[str, Any]):
        self.target, self.path = target, target.with_name(target.name + ".partial")
        self._key = sha256_json([settings, made_from])
        remove_discarded(target.parent, target.name)
        _refuse_foreign(target)
        record = self._read_record()
        self.progress: dict[str, Any] = record["progress"] if record.get("key") == self._key else {}
        if not self.progress:
            if os.path.lexists(self.path):
                discard(self.path)
            self.path.mkdir(parents=True)
            self.save()  # marks the folder as one that may be removed

    def _read_record(self) -> dict[str, Any]:
        """The record of an earlier build in the folder; empty if there is none, or the folder is as good as empty."""
        if not os.path.lexists(self.path):
            return {}
        record: Any = None
        if self.path.is_dir() and not self.path.is_symlink():
            refuse_links(self.path)
            if all(is_temporary(each) for each in self.path.iterdir()):
                return {}
            with contextlib.suppress(OSError, ArtifactError):
                record = read_document(self.path / PROGRESS, "a record of progress")
        if find_problem(record, {"key": str, "progress": dict}):
            raise EvalkitError(
                f"{self.path}: in the way of {self.target.name}, and not an unfinished artifact; move it away"
            )
        return record

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
        for leftover in filter(is_temporary, self.path.iterdir()):  # of a process killed inside atomic_file
            leftover.unlink()
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(self.path.iterdir()):
            if path.name not in (MANIFEST, PROGRESS, verified.SIDECAR, *unhashed):
                sync(path)
                files[path.name] = {
                    "sha256": hashes.get(path.name) or sha256_file(path),
                    "bytes": path.stat().st_size,
                }
        manifest = manifest | {"files": files}
        verified.remember(self.path, {name: entry["sha256"] for name, entry in files.items()})
        write_json(self.path / MANIFEST, manifest)
        _replace_folder(self.path, self.target, manifest["kind"])
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
    _refuse_foreign(target, kind)
    if not (target / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(target, kind)
        verified.check_hashes(target, manifest["files"])
    except ArtifactError as error:
        if replace:
            return None
        raise ArtifactError(f"{error} (--replace)" if "--replace" not in str(error) else str(error)) from None
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


def _refuse_foreign(target: Path, kind: str | None = None) -> None:
    """Only an artifact of the same kind, with nothing else in its folder, or an empty folder may be replaced."""
    if not os.path.lexists(target) or (target.is_dir() and not target.is_symlink() and not any(target.iterdir())):
        return
    if target.is_symlink() or not os.path.lexists(target / MANIFEST):
        raise EvalkitError(f"{target}: exists and is not an artifact of evalkit; move it away or choose another place")
    manifest = _read_head(target)
    if kind is None:
        return
    if manifest["kind"] != kind:
        raise EvalkitError(
            f"{target}: holds {_article(printable(manifest['kind']))}, expected {_article(kind)}; "
            "move it away or choose another place"
        )
    foreign = sorted(each.name for each in target.iterdir() if each.name not in {*manifest["files"], *_EXTRA})
    foreign = [name for name in foreign if not is_temporary(target / name)]
    if foreign:
        named = printable(", ".join(foreign[:3] + ["..."] * (len(foreign) > 3)))
        raise EvalkitError(f"{target}: also holds {named}, which evalkit did not put there; move it away")


def _read_head(directory: Path) -> Manifest:
    """A manifest of any kind and format: the mark of what evalkit made.

    Raises:
        ArtifactError: not readable, or not of evalkit.
    """
    path = directory / MANIFEST
    manifest = read_document(path, "a manifest")
    mark = {"format": int, "kind": str, "settings": dict, "made_from": dict, "files": dict}
    if problem := find_problem(manifest, mark):
        raise ArtifactError(f"{path}: not a manifest of evalkit ({problem}); nothing is touched, move the folder away")
    return manifest


def copy_artifact(source: Path, target: Path) -> None:
    """Copies an artifact's folder, completely or not at all, in place of the one at `target`; a broken one is kept."""
    manifest = _read_head(source)
    remove_discarded(target.parent, target.name)
    if os.path.lexists(target) and not (target / MANIFEST).is_file():
        set_aside(target)
    _refuse_foreign(target, manifest["kind"])
    with removed_at_exit(target) as folder:
        partial = folder / target.name
        shutil.copytree(source, partial, symlinks=True, ignore=lambda _, names: {verified.SIDECAR} & set(names))
        for path in partial.iterdir():
            sync(path)
        _replace_folder(partial, target, manifest["kind"])


def _replace_folder(partial: Path, target: Path, kind: str) -> None:
    """Renames `partial` to `target`; an artifact of the same kind that was there goes."""
    _refuse_foreign(target, kind)
    old = discard(target, replaced=True) if os.path.lexists(target) else None
    os.rename(partial, target)
    if old:
        remove_discarded(target.parent, target.name)
    sync(target.parent)


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
        manifest = read_document(path, "a manifest")
    except FileNotFoundError:
        raise ArtifactError(
            f"{directory}: no {MANIFEST} there, expected {_article(kind)}; is the path right?"
        ) from None
    except ArtifactError as error:
        raise ArtifactError(f"{error}; make the artifact again") from None
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        other = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtifactError(f"{directory}: holds {_article(printable(str(other)[:60]))}, expected {_article(kind)}")
    check_format(directory, manifest, kind)
    check_manifest(path, manifest, kind)
    for name, entry in manifest["files"].items():
        _check_file(Path(directory) / name, entry, check_hashes)
    return manifest


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Hashes the files of an artifact that were not hashed since they last changed.

    Raises:
        ArtifactError: a file is damaged or was edited.
    """
    verified.check_hashes(Path(directory), manifest["files"])


def check_format(path: Path, manifest: Manifest, kind: str) -> None:
    """Refuses a manifest or card of another format than this evalkit's.

    Raises:
        ArtifactError: the message says to make the artifact again.
    """
    wanted = FORMATS.get(kind, 1)
    if manifest.get("format") != wanted:
        given = printable(str(manifest.get("format"))[:20])
        raise ArtifactError(
            f"{path}: {_article(kind)} of format {given}, this evalkit reads format {wanted}; make it again"
        )


def _check_file(path: Path, entry: dict[str, Any], check_hash: bool) -> None:
    size = path.stat().st_size if path.is_file() and not path.is_symlink() else None
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


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form; equal settings give equal hashes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
