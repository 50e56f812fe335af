"""Files and folders: the one place that opens a file to write, reads JSON and TOML, hashes, locks and removes.

Artifacts, results and whatever else a command writes go through here. Nothing is written through a link; temporary
names cannot be guessed and are never shared; what is read is bounded in size and depth. Standard library only.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from evalkit.errors import ArtifactError, EvalkitError, one_line, printable

LARGEST_JSON = 256 << 20  # bytes: label subsets of a million images take a tenth of it
LARGEST_TOML = 1 << 20
DEEPEST = 64  # levels of lists and dictionaries
_LONGEST_NAME = 200  # bytes: the file system's 255 less what is put around it
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp|.+\.tmp")
_DISCARDED = re.compile(r"\.(.+)\.[0-9a-f]{16}\.old")
_MARKER = "evalkit-discarded.json"  # in a folder that evalkit made to remove something in


# -- names


def safe_name(name: Any, what: str) -> str:
    """The name, if it can stand for one file or folder inside a folder: every name from a file is checked by this.

    Raises:
        ArtifactError: no text, empty, with a slash, a control character or a leading dot, or too long for a file.
    """
    fine = isinstance(name, str) and name and not name.startswith(".") and not any(each in "/\\" for each in name)
    if fine and printable(name) == name and len(name.encode()) <= _LONGEST_NAME:
        return name
    article = "" if what.endswith("s") else "an " if what[:1] in "aeiou" else "a "
    raise ArtifactError(
        f"{printable(repr(name)[:80])} is no name for {article}{what}; "
        "give one without slashes and without a leading dot"
    )


# -- reading


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        OSError: not readable; a file that is missing or too large, a folder, a pipe or a device among others.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content


def read_json(path: Path, *, most_bytes: int = LARGEST_JSON) -> Any:
    """The value in a JSON file, of bounded size and depth, without duplicate keys.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: not a regular file, not readable, too large, too deeply nested, or not JSON.
    """
    try:
        return parse_json(read_bounded(path, most_bytes))
    except FileNotFoundError:
        raise
    except (OSError, RecursionError) as error:
        raise ValueError(_reason(error)) from None


def read_document(path: Path, what: str = "JSON", *, most_bytes: int = LARGEST_JSON) -> Any:
    """As `read_json`, with an error that says what the file should be.

    Raises:
        FileNotFoundError: there is nothing.
        ArtifactError: not readable as `what`; the message says why.
    """
    try:
        return read_json(path, most_bytes=most_bytes)
    except ValueError as error:
        raise ArtifactError(f"{path}: not readable as {what} ({_reason(error)})") from None


def parse_json(content: bytes | str) -> Any:
    """The value of JSON text, of bounded depth and without duplicate keys.

    Raises:
        ValueError, RecursionError: text that is no such JSON.
    """
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    value = json.loads(text, object_pairs_hook=_unique)
    _check_depth(value)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file, of bounded size and depth.

    Raises:
        EvalkitError: no such file, or not readable as TOML.
    """
    try:
        value = tomllib.loads(read_bounded(path, LARGEST_TOML).decode("utf-8-sig"))
        _check_depth(value)
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file; expected a recipe in TOML") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EvalkitError(f"{path}: not readable as TOML ({_reason(error)})") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key occurs twice")
    return table


def _check_depth(value: Any) -> None:
    """Raises ValueError for a value that is nested too deeply, or text that cannot be written as UTF-8."""
    level = [value]
    for _ in range(DEEPEST):
        for each in level:
            for text in (each, *each) if isinstance(each, dict) else (each,):
                if isinstance(text, str) and not text.isascii():
                    text.encode()
        level = [child for each in level if isinstance(each, (dict, list)) for child in _children(each)]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEEPEST} levels")


def _children(value: dict | list) -> Any:
    return value.values() if isinstance(value, dict) else value


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return printable(str(error.strerror or type(error).__name__))
    return "nested too deeply" if isinstance(error, RecursionError) else one_line(error).partition(": ")[2]


# -- writing


def open_to_write(path: Path, mode: str = "wb", *, buffering: int = -1) -> BinaryIO:
    """A file opened in binary `mode` (w, a, r+ or w+); never through a link, of either kind.

    Raises:
        EvalkitError: there is a link, a folder, a pipe or a device.
    """
    reads, creates = "+" in mode, not mode.startswith("r")
    flags = (os.O_RDWR if reads else os.O_WRONLY) | (os.O_CREAT if creates else 0)
    flags |= os.O_APPEND if mode.startswith("a") else 0
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise EvalkitError(f"{path}: {_kind_of(path)}, expected a file; move it away") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise EvalkitError(f"{path}: {_kind_of(path)}, expected a file of its own; move it away")
    if mode.startswith("w"):
        os.ftruncate(descriptor, 0)
    return cast(BinaryIO, os.fdopen(descriptor, mode, buffering))


def _kind_of(path: Path) -> str:
    mode = os.lstat(path).st_mode
    kinds = {"a link": stat.S_ISLNK, "a folder": stat.S_ISDIR, "a second name of a file": stat.S_ISREG}
    return next((name for name, test in kinds.items() if test(mode)), "a pipe or a device")


def refuse_links(folder: Path) -> None:
    """Raises EvalkitError if `folder` is a link, or something in it is one, or a second name of a file."""
    for path in (folder, *folder.rglob("*")):
        status = os.lstat(path)
        if not (stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)):
            raise EvalkitError(f"{path}: {_kind_of(path)}, which evalkit does not write through; remove it")


def own_folder(path: Path) -> Path:
    """Makes a folder inside an artifact, unless it exists.

    Raises:
        EvalkitError: there is something else, such as a link to another folder.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(parents=True)
    if path.is_symlink() or not path.is_dir():
        raise EvalkitError(f"{path}: {_kind_of(path)}, expected a folder; move it away")
    return path


def temporary_name(path: Path, suffix: str) -> Path:
    """A hidden name beside `path` that nobody can guess."""
    return path.with_name(f".{path.name[:150]}.{secrets.token_hex(8)}{suffix}")


def is_temporary(path: Path) -> bool:
    """Whether the name is one of `atomic_file`, left by a process that was killed inside it."""
    return _TEMPORARY.fullmatch(path.name) is not None


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write in place of `path`: a reader, or a power cut, sees the old file or the new one, complete.

    After an error there is no trace of the new one. A link at `path` is replaced, not followed.
    """
    if path.is_dir() and not path.is_symlink():
        raise EvalkitError(f"{path}: a folder, expected a file; move it away or choose another name")
    temporary = temporary_name(path, ".tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces `path` by `content`, as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def sync(path: Path) -> None:
    """Makes a file's bytes, or the names inside a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- removing


def discard(path: Path, *, replaced: bool = False) -> Path | None:
    """Removes a folder that evalkit made, at once from its name and then from the disk.

    A kill in between leaves no half a folder by the name: the rest is removed by `remove_discarded`.

    Args:
        replaced: keep the folder in its hiding place, which is returned, until another has its name.
    """
    trash = _hiding_place(path, replaced=replaced)
    os.rename(path, trash / path.name)
    if replaced:
        return trash
    _remove(trash)
    return None


@contextlib.contextmanager
def removed_at_exit(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, to make something in that gets the name when it is complete."""
    trash = _hiding_place(path, replaced=False)
    try:
        yield trash
    finally:
        _remove(trash)


def _hiding_place(path: Path, *, replaced: bool) -> Path:
    trash = temporary_name(path, ".old")
    os.mkdir(trash)
    write_json(trash / _MARKER, {"replaced": replaced})
    return trash


def _remove(trash: Path) -> None:
    if not trash.exists():  # another command was faster
        return
    for each in trash.iterdir():
        if each.name != _MARKER:
            shutil.rmtree(each)
    (trash / _MARKER).unlink()
    trash.rmdir()


def remove_discarded(folder: Path, name: str | None = None) -> None:
    """Completes what a killed `discard` in `folder` began; of one that was to be replaced, the old one comes back."""
    for trash in folder.glob(".*.old"):
        match = _DISCARDED.fullmatch(trash.name)
        if not match or (name is not None and match[1] != name[:150]) or trash.is_symlink():
            continue
        with contextlib.suppress(EvalkitError, OSError):
            if not any(trash.iterdir()):  # killed before it was marked
                trash.rmdir()
                continue
            marker = read_document(trash / _MARKER, most_bytes=1024)
            old = [each for each in trash.iterdir() if each.name != _MARKER]
            if marker == {"replaced": True} and len(old) == 1 and not os.path.lexists(folder / old[0].name):
                os.rename(old[0], folder / old[0].name)
            _remove(trash)


def set_aside(path: Path) -> Path:
    """Renames a folder that is in the way and may hold something of value; returns its new name."""
    aside = temporary_name(path, ".broken")
    os.rename(path, aside)
    return aside
