"""Reading tars in place: members' offsets from the headers alone, pictures by offset. sources/tar.py says which."""

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from evalkit.errors import EvalkitError
from evalkit.images.plan import MOST_BYTES, Picture, printable

_END = bytes(512)  # a tar ends with blocks of zeros


class Member(NamedTuple):
    name: str
    offset: int  # of the contents, in the outermost file
    size: int
    problem: str


@dataclass(frozen=True)
class TarMembers:
    """Pictures inside a tar: names, offsets and sizes of their contents, and labels."""

    split: str
    path: str
    members: tuple[Member, ...]
    labels: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.members)

    def pictures(self) -> Iterator[Picture]:
        with open(self.path, "rb") as file:
            for member, label in zip(self.members, self.labels, strict=True):
                content = b"" if member.problem else content_of(file, member)
                yield Picture(printable(member.name), content, label, member.problem)


def content_of(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


class _Window(io.RawIOBase):
    """A part of a file as a file of its own: the inner tar of a tar of tars."""

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
        found = self._file.read(left if count < 0 else min(count, left))
        self._at += len(found)
        return found


def members(file: BinaryIO, start: int, size: int, source: str) -> Iterator[Member]:
    """The members of the tar in `file` from `start` on, links and other oddities with the reason not to read them.

    Raises:
        EvalkitError: compressed, no tar, or cut short.
    """
    window = _Window(file, start, size)
    try:
        with tarfile.open(fileobj=window, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # or it keeps a kilobyte a picture
                if not member.isdir():
                    yield Member(member.name, start + member.offset_data, member.size, _problem(member))
            window.seek(tar.offset)
            if window.read(512) != _END:
                raise EvalkitError(f"{source}: the tar is cut short or broken at byte {tar.offset:,}; fetch it again")
    except (tarfile.TarError, OverflowError, UnicodeError) as error:
        raise EvalkitError(f"{source}: not a whole, uncompressed tar ({error}); gunzip or fetch it again") from None


def _problem(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link, not a file"
    if not member.isreg() or member.issparse():
        return "not a regular file"
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return "its name leads out of the archive"
    return f"{member.size:,} bytes, more than a picture has" if member.size > MOST_BYTES else ""
