"""Text files that list images and labels: a source of their own, or the labels of images that lie elsewhere.

One path per line, then a label after a tab, after a comma in a .csv, or, if it is a number, after a space. A first line
that names its columns (filename, label) is understood.
"""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.images.formats import has_image_name
from evalkit.images.sources.base import Plan, checked_labels, identity_of, printable
from evalkit.images.sources.files import numbered, shards_of_files
from evalkit.images.sources.layout import UNSTATED, Stated

_PATHS = ("path", "file", "filename", "file_name", "image", "image_id", "image_path", "img", "img_path", "id", "name")
_LABELS = ("label", "labels", "class", "class_name", "category", "target", "breed", "species", "y", "fine_label")
Row = tuple[str, str | None]


def listing_plan(root: Path, files: Sequence[Path], stated: Stated = UNSTATED) -> Plan:
    """The listed images in the order of the list; relative paths start at the folder of the list.

    Labels are class numbers, or words if any of them is not a number.

    Raises:
        EvalkitError: nothing listed, or a label out of range.
    """
    pairs = [row for path in files for row in read_listing(path, root)]
    if not pairs:
        raise EvalkitError(f"{files[0]}: lists no image; expected one path per line")
    if stated.labels_from == "none":
        pairs = [(path, None) for path, _ in pairs]
    names, labels = numbers_of_words([word for _, word in pairs], files[0])
    shards = shards_of_files(root, [("train", path, label) for (path, _), label in zip(pairs, labels, strict=True)])
    # The images may be anywhere and many: those that exist are identified by name and size.
    present = [path for path in (root / name for name, _ in pairs) if path.is_file()]
    identity = identity_of(files, root) | {"images": identity_of(present, Path("/"), whole=False)}
    return Plan("list", shards, [printable(name) for name in names], identity)


def numbers_of_words(words: Sequence[str | None], source: Path) -> tuple[list[str], list[int]]:
    """The class names, and each word as a class number: the numbers themselves, or the rank of the word.

    Raises:
        EvalkitError: a number out of range.
    """
    if all(word is None or _is_number(word) for word in words):
        labels = [-1 if word is None else int(word) for word in words]
        return checked_labels(np.array(labels), (), source), labels
    return numbered(words)


def read_listing(path: Path, root: Path | None = None) -> list[Row]:
    """(path of an image, label or None) of each line of a file; `root` is where relative paths start, if known.

    Raises:
        EvalkitError: a line has more than two columns and nothing names them.
    """
    return parse_listing(path.read_bytes(), path, root=root)


def parse_listing(content: bytes, path: Path, *, root: Path | None = None, columns: int = 2) -> list[Row]:
    """As `read_listing`, of the bytes of a list; lines may have as many columns as `columns`, the first two count."""
    lines = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    separator = "\t" if any("\t" in line for line in lines[:1]) else _separator(path, lines)
    if not separator:
        return [_spaced(line, root) for line in lines]
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    return _chosen_columns(rows, path, columns)


def _separator(path: Path, lines: list[str]) -> str:
    if path.suffix.lower() != ".csv" or not lines:
        return "\t" if any("\t" in line for line in lines) else ""
    return ";" if lines[0].count(";") > lines[0].count(",") else ","


def _chosen_columns(rows: list[list[str]], path: Path, columns: int) -> list[Row]:
    head = [cell.lower() for cell in rows[0]]
    image = next((head.index(name) for name in _PATHS if name in head), None)
    label = next((head.index(name) for name in _LABELS if name in head), None)
    if image is not None and not has_image_name(rows[0][image]):
        rows = rows[1:]
        label = label if label is not None else (1 - image if len(head) == 2 else None)
    else:
        image, label = 0, 1
        most = max(map(len, rows))
        if most > columns:
            raise EvalkitError(
                f"{path}: lines have {most} columns, expected a path and a label; name the columns in a first line, "
                "as filename,label"
            )
    return [
        (row[image], (row[label] or None) if label is not None and label < len(row) else None)
        for row in rows
        if image < len(row)
    ]


def _spaced(line: str, root: Path | None) -> Row:
    """A path, and its label if the last word is a number and the line is not a path as a whole."""
    line = line.strip()
    path, _, word = line.rpartition(" ")
    if not path or not _is_number(word):
        return line, None
    file_without_ending = root is not None and not (root / line).exists() and (root / path.strip()).is_file()
    return (path.strip(), word) if has_image_name(path.strip()) or file_without_ending else (line, None)


def _is_number(word: str) -> bool:
    digits = word.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 10


class Labels:
    """Labels by the path or the name of an image, from lists that lie beside the images or that the user names."""

    def __init__(self, rows: Iterable[Row], source: Path):
        self.source = source
        self._words: dict[str, str | None] = {}
        for path, word in rows:
            for key in {path, path.rpartition("/")[2], os.path.splitext(path.rpartition("/")[2])[0]}:
                if self._words.setdefault(key, word) != word:
                    self._words[key] = None  # two images of this name in two classes

    def of(self, path: str) -> str | None:
        """The label of an image; the longest part of its path that the list has decides."""
        parts = path.split("/")
        keys = ["/".join(parts[first:]) for first in range(len(parts))] + [os.path.splitext(parts[-1])[0]]
        return next((word for key in keys if (word := self._words.get(key)) is not None), None)


def labels_beside(lists: Iterable[tuple[str, bytes]]) -> dict[str, Labels]:
    """The labels in lists as Tiny ImageNet's val_annotations.txt, (path, content), by the folder that they lie in."""
    return {
        path.rpartition("/")[0]: Labels(parse_listing(content, Path(path), columns=99), Path(path))
        for path, content in lists
    }
