"""Images in tars, never unpacked: WebDataset shards, ImageNet's tar of tars, or folders in a tar.

The headers are read once, without the contents; a worker then reads each image at its offset in the outermost file.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.images.sources.base import (
    MOST_BYTES,
    SHARD,
    Plan,
    SourceImage,
    checked_labels,
    identity_of,
    printable,
    split_of,
    split_order,
)
from evalkit.images.sources.folder import EXTENSIONS, numbered, oord_variant, splits_and_classes

_LABELS = (".cls", ".json")  # suffixes of a sample's label in WebDataset


def is_webdataset(root: Path, files: Sequence[Path]) -> bool:
    """Whether `files` are tars and the first starts with a sample that has an image and a label."""
    if not files or not all(path.suffix == ".tar" for path in files):
        return False
    try:
        with open(files[0], "rb") as file:
            head = [m.name for m, _ in zip(members(file, 0, files[0].stat().st_size, ""), range(32), strict=False)]
    except (EvalkitError, OSError):
        return False
    return any(name.endswith(_LABELS) for name in head)


def webdataset_plan(root: Path, files: Sequence[Path]) -> Plan:
    """WebDataset shards: the members of a sample share a name up to its first dot, like 17.jpg and 17.cls.

    Class names come from `classnames.txt` beside the shards, one line per class, if it exists.

    Raises:
        EvalkitError: a shard is broken, or a label is not a number or out of range.
    """
    rows = []
    for path in sorted(files, key=lambda path: (split_order(_split(path)), str(path))):
        with open(path, "rb") as file:
            images, labels = _samples(file, path)
        rows += [(_split(path), str(path), member, labels.get(_key(member.name), -1)) for member in images]
    if not rows:
        raise EvalkitError(f"{files[0]}: no images in this WebDataset; expected members as 17.jpg and 17.cls")
    words = root / "classnames.txt"
    names = words.read_text(encoding="utf-8", errors="backslashreplace").splitlines() if words.is_file() else []
    names = checked_labels(np.array([row[3] for row in rows]), names, files[0])
    return Plan("webdataset", _shards(rows), names, identity_of(files, root))


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.')[0]}"


def _label(content: bytes, name: str, path: Path) -> int | None:
    """The label in a .cls (a number as text) or .json member (under "label" or "cls"); None if a .json has none."""
    try:
        value = json.loads(content)
        if name.endswith(".json"):
            value = next((value[key] for key in ("label", "cls") if key in value), None)
        return None if value is None else int(value)
    except (ValueError, TypeError, RecursionError):
        raise EvalkitError(f"{path}: {printable(name)} holds {content[:20]!r}, expected a class number") from None


def tar_plan(root: Path, files: Sequence[Path]) -> Plan:
    """Tars of images in folders, or the tar of tars of ImageNet, where each inner tar is a class.

    Raises:
        EvalkitError: no images, or not a complete, uncompressed tar.
    """
    images = [(path, *row) for path in files for row in _images(path)]
    if not images:
        raise EvalkitError(
            f"{files[0]}: no images in this tar; expected files ending in {', '.join(EXTENSIONS[:4])}, …"
        )
    # A member that will not be read does not name a class.
    inside = splits_and_classes([PurePosixPath(name).name if m.problem else name for _, m, name in images], "/")
    # A folder with the name of the tar is not a class: it contains everything.
    names, labels = numbered(
        [None if name == path.stem else name for (path, *_), (_, name) in zip(images, inside, strict=True)]
    )
    rows = [
        (split or _split(path), str(path), member, label)
        for (path, member, _), (split, _), label in zip(images, inside, labels, strict=True)
    ]
    rows.sort(key=lambda row: split_order(row[0]))
    variant = "" if names else oord_variant([path.stem for path in files], images[0][1].name)
    return Plan("tar", _shards(rows), [printable(name) for name in names], identity_of(files, root), variant=variant)


def _split(path: Path) -> str:
    """The split that the name of a tar contains, as in imagenet1k-validation-07.tar or ILSVRC2012_img_val.tar."""
    return split_of(re.split(r"[-_.]", path.stem)) or "train"


_END = bytes(512)  # a tar ends with blocks of zeros


class Member(NamedTuple):
    name: str
    offset: int  # of the contents, in the outermost file
    size: int
    problem: str


def _samples(file: BinaryIO, path: Path) -> tuple[list[Member], dict[str, int]]:
    images, labels = [], {}
    for member in members(file, 0, path.stat().st_size, str(path)):
        if member.name.lower().endswith(EXTENSIONS):
            images.append(member)
        elif member.name.endswith(_LABELS) and not member.problem:
            at = file.tell()
            label = _label(content_of(file, member)[:100_000], member.name, path)
            file.seek(at)
            if label is not None:
                labels[_key(member.name)] = label
    return images, labels


def _images(path: Path) -> Iterator[tuple[Member, str]]:
    """(member, its path) of the images in a tar; an inner tar counts as a folder."""
    with open(path, "rb") as file:
        for member in members(file, 0, path.stat().st_size, str(path)):
            if member.name.endswith(".tar") and not member.problem.startswith(("a link", "not", "its name")):
                folder = PurePosixPath(member.name).stem
                at = file.tell()
                for inner in members(file, member.offset, member.size, f"{path}[{printable(member.name)}]"):
                    if inner.name.lower().endswith(EXTENSIONS):
                        yield inner, f"{folder}/{inner.name.lstrip('/')}"
                file.seek(at)
            elif member.name.lower().endswith(EXTENSIONS):
                yield member, member.name.removeprefix("./")


def content_of(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


class _Window(io.RawIOBase):
    """A part of a file as a separate file: the inner tar of a tar of tars."""

    def __init__(self, file: BinaryIO, first: int, size: int):
        self._file, self._first, self._size, self._at = file, first, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._first + self._at)
        content = self._file.read(left if count < 0 else min(count, left))
        self._at += len(content)
        return content


def members(file: BinaryIO, start: int, size: int, source: str) -> Iterator[Member]:
    """The members of the tar that starts at `start` in `file`; links and the like carry the reason not to read them.

    Raises:
        EvalkitError: compressed, not a tar, or cut short.
    """
    window = _Window(file, start, size)
    try:
        with tarfile.open(fileobj=window, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # or it keeps a kilobyte per image
                if not member.isdir():
                    yield Member(member.name, start + member.offset_data, member.size, _problem(member))
            window.seek(tar.offset)
            if window.read(512) != _END:
                raise EvalkitError(
                    f"{source}: the tar is cut short or broken at byte {tar.offset:,}; download it again"
                )
    except (tarfile.TarError, OverflowError, UnicodeError) as error:
        raise EvalkitError(
            f"{source}: not a complete, uncompressed tar ({error}); gunzip or download it again"
        ) from None


@dataclass(frozen=True)
class TarMembers:
    """Images inside a tar: names, offsets and sizes of their contents, and labels."""

    split: str
    path: str
    members: tuple[Member, ...]
    labels: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.members)

    def read(self) -> Iterator[SourceImage]:
        with open(self.path, "rb") as file:
            for member, label in zip(self.members, self.labels, strict=True):
                content = b"" if member.problem else content_of(file, member)
                yield SourceImage(printable(member.name), content, label, member.problem)


def _shards(rows: list[tuple[str, str, Member, int]]) -> list[TarMembers]:
    """Runs of at most SHARD images of one split and one file."""
    shards: list[TarMembers] = []
    first = 0
    for row in range(1, len(rows) + 1):
        if row == len(rows) or rows[row][:2] != rows[first][:2] or row - first == SHARD:
            part = rows[first:row]
            shards.append(TarMembers(*rows[first][:2], tuple(r[2] for r in part), tuple(r[3] for r in part)))
            first = row
    return shards


def _problem(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link, not a file"
    if not member.isreg() or member.issparse():
        return "not a regular file"
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return "its name leads out of the archive"
    return f"{member.size:,} bytes, more than an image has" if member.size > MOST_BYTES else ""
