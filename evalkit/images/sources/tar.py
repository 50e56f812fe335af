"""Images in tars, never unpacked: WebDataset shards, ImageNet's tar of tars, or folders in a tar.

The headers are read once, without the contents; a worker then reads each image at its offset in the outermost file.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.images.formats import EXTENSIONS, HEAD, format_of, has_image_name
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
from evalkit.images.sources.files import numbered
from evalkit.images.sources.folder import ANNOTATIONS, labelled, oord_variant
from evalkit.images.sources.layout import UNSTATED, Layout, Stated, class_of_files, file_splits, is_hidden, understand
from evalkit.images.sources.listing import numbers_of_words

_LABELS = (".cls", ".json")  # suffixes of a sample's label in WebDataset


def is_webdataset(root: Path, files: Sequence[Path]) -> bool:
    """Whether `files` are tars and the first starts with a sample that has an image and a label of one name."""
    if not files or not all(path.suffix == ".tar" for path in files):
        return False
    try:
        with open(files[0], "rb") as file:
            head = [m.name for m, _ in zip(members(file, 0, files[0].stat().st_size, ""), range(64), strict=False)]
    except (EvalkitError, OSError):
        return False
    head = [name for name in head if not is_hidden(name)]
    labelled = {_key(name) for name in head if name.endswith(_LABELS)}
    return any(_key(name) in labelled for name in head if not name.endswith(_LABELS))


def webdataset_plan(root: Path, files: Sequence[Path], stated: Stated = UNSTATED) -> Plan:
    """WebDataset shards: the members of a sample share a name up to its first dot, like 17.jpg and 17.cls.

    Class names come from `classnames.txt` beside the shards, one line per class, if it exists. Of several images in a
    sample, one is taken.

    Raises:
        EvalkitError: a shard is broken, or a label is not a number or out of range.
    """
    if stated.labels_from not in ("", "none"):
        raise EvalkitError(f"--labels-from {stated.labels_from}: WebDataset samples have their own labels; or none")
    layout = Layout()
    read = [(split, path, *_samples(path, layout)) for split, path in file_splits(files, root, stated, layout)]
    taken, other = _image_parts([member.name for _, _, images, _ in read for member in images])
    layout.left_out(
        [m.name for _, _, images, _ in read for m in images if _part(m.name) in other],
        f"further images of their samples, of which {_part_names(taken)} is taken",
        odd=True,
    )
    rows = [
        (split or "train", str(path), member, -1 if stated.labels_from else labels.get(_key(member.name), -1))
        for split, path, images, labels in read
        for member in images
        if _part(member.name) not in other
    ]
    if not rows:
        raise EvalkitError(f"{files[0]}: no images in this WebDataset; expected members as 17.jpg and 17.cls")
    names = checked_labels(np.array([row[3] for row in rows]), _class_names(root, files), files[0])
    plan = Plan("webdataset", _shards(rows), names, identity_of(files, root))
    return replace(plan, notes=tuple(layout.notes), odd=tuple(layout.odd))


def _class_names(root: Path, files: Sequence[Path]) -> list[str]:
    """The lines of classnames.txt beside the shards or above their folders."""
    folders = dict.fromkeys([root, *(path.parent for path in files), *(path.parent.parent for path in files)])
    for words in (folder / "classnames.txt" for folder in folders):
        if words.is_file():
            text = words.read_bytes().decode("utf-8-sig", "backslashreplace").rstrip()
            return [line.strip() for line in text.splitlines()]
    return []


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.')[0]}"


def _part(name: str) -> str:
    """What a member is in its sample: "input.png" of 000.input.png."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def _part_names(parts: set[str]) -> str:
    return " or ".join(sorted(parts))


def _image_parts(names: Sequence[str]) -> tuple[set[str], set[str]]:
    """The parts of samples that are the images, and those that are further images beside them.

    A sample's image is the part called jpg, png, image.png, input.png and so on before any other.
    """
    beside: dict[str, set[str]] = {}
    for name in names:
        beside.setdefault(_key(name), set()).add(_part(name))
    taken = {min(parts, key=_rank) for parts in beside.values() if len(parts) > 1}
    other = {part for parts in beside.values() if len(parts) > 1 for part in parts} - taken
    return taken, other


def _rank(part: str) -> tuple[int, str]:
    word, dot, _ = part.rpartition(".")
    if not dot:
        return 0, part
    known = ("image", "img", "input", "photo", "rgb", "x", "0")
    return (known.index(word) + 1 if word in known else len(known) + 1), part


def _label(content: bytes, name: str, path: Path) -> int | None:
    """The label in a .cls (a number as text) or .json member (under "label" or "cls"); None if a .json has none."""
    try:
        value = json.loads(content.removeprefix(b"\xef\xbb\xbf"))
        if name.endswith(".json"):
            value = next((value[key] for key in ("label", "cls") if key in value), None)
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError("not a whole number")
        return None if value is None else int(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise EvalkitError(f"{path}: {printable(name)} holds {content[:20]!r}, expected a class number") from None


def tar_plan(root: Path, files: Sequence[Path], stated: Stated = UNSTATED) -> Plan:
    """Tars of images in folders, or the tar of tars of ImageNet, where each inner tar is a class.

    Raises:
        EvalkitError: no images, or not a complete, uncompressed tar.
    """
    stated.check_labels("tar")
    layout = Layout()
    inside = Stated(stated.split if stated.split == "none" else "", stated.labels_from)
    splits = file_splits(files, root, replace(stated, split="") if len(files) == 1 else stated, layout)
    beside: list[tuple[str, bytes]] = []
    images = [(split, path, *row) for split, path in splits for row in _images(path, layout, beside)]
    if not images:
        raise EvalkitError(
            f"{files[0]}: no images in this tar; expected files ending in {', '.join(EXTENSIONS[:4])}, …"
        )
    layout.by_content(member.name for _, _, member, _ in images)
    paths = [name for *_, name in images]
    if not stated.pairs:
        paths = _paths_in_archives([(path, name) for _, path, _, name in images], files)
    # A member that will not be read does not name a class.
    paths = [name.rpartition("/")[2] if m.problem else name for (_, _, m, _), name in zip(images, paths, strict=True)]
    within = understand(paths, stated if len(files) == 1 else inside)
    layout.notes += within.notes
    layout.odd += within.odd
    layout.rows = within.rows
    named = labelled(paths, layout, stated, beside)
    if not named:
        raise EvalkitError(f"{files[0]}: no image is in a split; {'; '.join(layout.notes)}")
    words = [name for *_, name in named]
    names, labels = numbers_of_words(words, stated.list) if stated.list else numbered(words)
    rows = [
        (split or images[number][0] or "train", str(images[number][1]), images[number][2], label)
        for (number, *_), (split, *_), label in zip(within.rows, named, labels, strict=True)
    ]
    rows.sort(key=lambda row: split_order(row[0]))
    variant = "" if names else oord_variant([path.stem for path in files], images[0][2].name)
    plan = Plan("tar", _shards(rows), [printable(name) for name in names], identity_of(files, root), variant=variant)
    return replace(plan, notes=tuple(layout.notes), odd=tuple(layout.odd))


def _paths_in_archives(images: Sequence[tuple[Path, str]], files: Sequence[Path]) -> list[str]:
    """The path of each image, below its archive; the archive counts as a folder where each archive is a class.

    A folder in an archive that has the archive's name counts as the archive: it contains everything.
    """
    several = len(files) > 1 or all(name.count("/") < 2 for _, name in images)  # else `understand` removes the top
    paths = [
        name.removeprefix(f"{path.stem}/") if several and not split_of([path.stem]) else name for path, name in images
    ]
    classes = class_of_files(files)
    if classes and not any("/" in name for name in paths):
        return [f"{classes[path]}/{name}" for (path, _), name in zip(images, paths, strict=True)]
    return paths


_END = bytes(512)  # a tar ends with blocks of zeros


class Member(NamedTuple):
    name: str
    offset: int  # of the contents, in the outermost file
    size: int
    problem: str


def _samples(path: Path, layout: Layout) -> tuple[list[Member], dict[str, int]]:
    """The images of a shard, and the labels by the key of the sample."""
    images, labels, hidden = [], {}, []
    with open(path, "rb") as file:
        for member in members(file, 0, path.stat().st_size, str(path)):
            if is_hidden(member.name):
                hidden.append(member.name)
            elif member.name.endswith(_LABELS) and not member.problem:
                label = _label(_peek(file, member, 100_000), member.name, path)
                if label is not None:
                    labels[_key(member.name)] = label
            elif _is_image(file, member):
                images.append(member)
    layout.left_out(hidden, "hidden")
    return images, labels


def _images(path: Path, layout: Layout, beside: list[tuple[str, bytes]]) -> Iterator[tuple[Member, str]]:
    """(member, its path) of the images in a tar; an inner tar counts as a folder. Lists of labels go to `beside`."""
    others = []
    with open(path, "rb") as file:
        for member in members(file, 0, path.stat().st_size, str(path)):
            if member.name.endswith(".tar") and not member.problem.startswith(("a link", "not", "its name")):
                folder = str(PurePosixPath(member.name).with_suffix("")).removeprefix("./")
                at = file.tell()
                for inner in members(file, member.offset, member.size, f"{path}[{printable(member.name)}]"):
                    if _is_image(file, inner):
                        yield inner, f"{folder}/{inner.name.lstrip('/').removeprefix('./')}"
                file.seek(at)
            elif _is_image(file, member):
                yield member, member.name.removeprefix("./")
            else:
                others.append(member.name)
                if member.name.endswith(ANNOTATIONS) and not member.problem:
                    beside.append((member.name.removeprefix("./"), _peek(file, member, member.size)))
    layout.left_out([name for name in others if not is_hidden(name)], "no images")


def _is_image(file: BinaryIO, member: "Member") -> bool:
    """Whether the name or the first bytes of a member are those of an image."""
    if has_image_name(member.name):
        return True
    return not member.problem and format_of(_peek(file, member, HEAD)) != ""


def _peek(file: BinaryIO, member: "Member", most: int) -> bytes:
    """The first bytes of a member; the file stays where it is."""
    at = file.tell()
    file.seek(member.offset)
    content = file.read(min(member.size, most))
    file.seek(at)
    return content


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
