"""What a source gives to prepare: shards of images in a fixed order, class names, and the identity of the source.

`reading` is the one place where errors of the libraries that read other people's files become one line for the user.
"""

import errno
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from evalkit.errors import EvalkitError

SPLITS = ("train", "validation", "test")  # rows are in this order; other splits follow by name
SHARD = 500  # images: at most a second of work, 1.5 MB of result at 32x32
SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev", "eval"), "validation"
)
MOST_BYTES = 1 << 28  # 256 MB: no image file is larger; a file that claims more is not read
logger = logging.getLogger(__name__)
_HASHED_WHOLE = 1 << 30  # bytes: about a second; a larger source is identified by names, sizes and times
_MOST_CLASSES = 1_000_000


class SourceImage(NamedTuple):
    """One image as it is in the source: its name, the bytes of a file or uint8 (H, W, C), its label or -1."""

    name: str
    content: bytes | np.ndarray
    label: int
    problem: str = ""  # why there is no content, if the source already knows


class Shard(Protocol):
    """A run of images of one split. Picklable and small: a worker reads the images itself."""

    @property
    def split(self) -> str: ...
    @property
    def count(self) -> int: ...
    def read(self) -> Iterator[SourceImage]: ...


@dataclass(frozen=True)
class Plan:
    """All images of a source.

    Attributes:
        kind: the format of the source, e.g. "parquet".
        shards: in the order of the rows, split by split.
        class_names: the K names; labels are 0 to K - 1, or -1.
        identity: identifies the source, as JSON; another or a changed source has another identity.
        notes: what was understood of the source and what was left out, sentences.
        variant: which of several data sets of one name this is, e.g. "imagenet32-chrabaszcz2017"; often empty.
        odd: what makes a strict run stop, sentences.
    """

    kind: str
    shards: Sequence[Shard]
    class_names: Sequence[str]
    identity: dict[str, Any]
    notes: tuple[str, ...] = field(default=())
    variant: str = ""
    odd: tuple[str, ...] = field(default=())

    @property
    def count(self) -> int:
        """The number of images in the source, readable or not."""
        return sum(shard.count for shard in self.shards)


def split_of(words: Iterable[str]) -> str | None:
    """The split that one of the file or folder names begins with ("test-00000-of-00001.parquet"), else None."""
    for word in words:
        match = re.match(r"[A-Za-z]+", word)
        if match and (split := SPLIT_WORDS.get(match.group().lower())):
            return split
    return None


def split_order(split: str) -> tuple[int, str]:
    """Sort key that puts train first, then validation, test, others by name."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def printable(name: str | bytes) -> str:
    """A name as UTF-8 for any terminal and JSON: bytes that are not UTF-8 become backslash escapes."""
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")


@contextmanager
def reading(source: Path | str, kind: str) -> Iterator[None]:
    """Turns whatever a library raises at a damaged or hostile file into one line that names the file.

    Raises:
        EvalkitError: anything but an EvalkitError, an interrupt, and an error of our own disk.
    """
    try:
        yield
    except (EvalkitError, AssertionError):
        raise
    except Exception as error:  # pyarrow, lmdb, zipfile, tarfile and NumPy raise nearly anything
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE):
            raise
        logger.debug("%s", source, exc_info=True)
        raise EvalkitError(
            f"{printable(str(source))}: cannot be read as {kind} ({reason(error)}); download it again, or name its "
            "format (--source-kind)"
        ) from None


def reason(error: Exception | str) -> str:
    """The kind and the text of an error on one line: control characters escaped, at most 300 characters."""
    text = printable(" ".join(str(error).split()))
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    named = f"{type(error).__name__}: {text}" if isinstance(error, Exception) and text else text
    named = named or type(error).__name__
    return named if len(named) <= 300 else named[:297] + "..."


def identity_of(files: Sequence[Path], root: Path, *, whole: bool = True) -> dict[str, Any]:
    """What `files` hold: their number, bytes, and a hash over names and contents.

    If they are large or `whole` is false, the hash is over names, sizes and times only.
    """
    stats = [path.stat() if path.exists() else path.lstat() for path in files]  # a link to nowhere is one of them
    total = sum(stat.st_size for stat in stats)
    whole = whole and total <= _HASHED_WHOLE
    digest = hashlib.sha256()
    for path, stat in zip(files, stats, strict=True):
        name = printable(str(path.relative_to(root) if path.is_relative_to(root) else path))
        digest.update(f"{name}\0{stat.st_size}\n".encode())
        if whole and path.is_file():  # reading a pipe would never end
            digest.update(path.read_bytes())
        else:
            digest.update(f"{stat.st_mtime_ns}\n".encode())
    over = "names, sizes, contents" if whole else "names, sizes, times"
    return {"files": len(files), "bytes": total, "sha256": digest.hexdigest(), "sha256_over": over}


def checked_labels(labels: np.ndarray, names: Sequence[str], source: Path | str) -> list[str]:
    """The class names; "0", "1", … if there are none.

    Raises:
        EvalkitError: a label is below -1 or has no name.
    """
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (-1, -1)
    most = len(names) if names else _MOST_CLASSES
    if low < -1 or high >= most:
        bad = low if low < -1 else high
        raise EvalkitError(
            f"{source}: label {bad} is out of range, expected 0 to {most - 1} (or -1 for none); fix the labels"
        )
    return list(names) or [str(k) for k in range(high + 1)]
