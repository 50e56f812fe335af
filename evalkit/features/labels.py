"""Labels and splits as people bring them, in arrays and in text files, and the numbers 0 to K - 1 they become.

NumPy only. `arrays.py` checks the features, `array_files.py` opens the files.
"""

import codecs
import csv
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError

_LARGEST_TEXT = 1 << 28  # bytes
_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{0,18})?([eE][+-]?\d{1,2})?")
_MISSING = {"nan", "none", "na", "n/a", "null", "<na>"}  # as pandas and others write a label that is not there
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_UNLABELLED = -1


def check_labels(labels: Any, rows: int, source: str) -> np.ndarray:
    """Labels (N,), int64 or text, for `rows` rows; -1 is no label.

    Text is compared without blanks around it and in one Unicode form; bytes are UTF-8.

    Raises:
        EvalkitError: another length, more than one column, or values that name no class.
    """
    values = np.asarray(labels[:])
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        hint = "; argmax(1) turns one-hot rows into labels" if values.ndim == 2 else ""
        raise EvalkitError(f"{source}: labels of shape {values.shape}, expected one label per row{hint}")
    if len(values) != rows:
        raise EvalkitError(f"{source}: {len(values):,} labels for {rows:,} rows of features")
    if is_text(values):
        return cleaned_text(values, source)
    return _whole_numbers(values, source)


def is_text(values: np.ndarray) -> bool:
    """Whether an array holds text or bytes, of NumPy's types or as Python objects."""
    if values.dtype.kind in "UST":
        return True
    return values.dtype.kind == "O" and all(isinstance(each, (str, bytes)) for each in values.flat)


def cleaned_text(values: np.ndarray, source: str) -> np.ndarray:
    """Text (N,) in Unicode's composed form, without a byte order mark, one blank between words; bytes are UTF-8.

    Raises:
        EvalkitError: bytes that are not UTF-8, empty text, or control characters.
    """
    distinct, rows, codes = _distinct(values)
    cleaned = []
    for value, row in zip(distinct, rows, strict=True):
        try:
            text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
            text.encode()
        except UnicodeError:
            raise EvalkitError(f"{source}: {value!r} in row {row} is not UTF-8; decode the names first") from None
        text = unicodedata.normalize("NFC", " ".join(text.strip("\ufeff").split()))
        if not text.isprintable() or not 0 < len(text) <= 1000:
            shown = repr(text[:40]) if text else "empty"
            raise EvalkitError(f"{source}: row {row} is {shown}, expected a name of printable characters")
        cleaned.append(text)
    return np.array(cleaned, dtype=str)[codes] if cleaned else np.zeros(0, dtype=str)


def _distinct(values: np.ndarray) -> tuple[list[Any], list[int], np.ndarray]:
    """The distinct values in order of occurrence, the row of each one's first occurrence, and each row's value."""
    numbers: dict[Any, int] = {}
    codes = np.array([numbers.setdefault(value, len(numbers)) for value in values.tolist()], dtype=np.int64)
    return list(numbers), np.unique(codes, return_index=True)[1].tolist(), codes


def _whole_numbers(values: np.ndarray, source: str) -> np.ndarray:
    if values.dtype.kind == "O":
        whole = all(isinstance(each, (int, np.integer, float, np.floating)) for each in values)
        kinds = ", ".join(sorted({type(each).__name__ for each in values})[:4])
        if not whole:
            raise EvalkitError(f"{source}: labels of types {kinds}, expected whole numbers or names, one per row")
        values = np.array([float(each) if each != each else each for each in values.tolist()])
    wrong = f"{source}: labels of type {values.dtype}, expected whole numbers or names"
    if values.dtype.kind not in "iubf":
        raise EvalkitError(wrong)
    if values.dtype.kind == "f" and not np.array_equal(values, np.floor(values)):
        row = int(np.argmin(values == np.floor(values)))
        raise EvalkitError(f"{wrong} (row {row} is {values[row]:g}; -1 means no label)")
    if len(values) and (values.max() >= 2.0**53 or values.min() < _UNLABELLED):
        extreme = values.min() if values.min() < _UNLABELLED else values.max()
        raise EvalkitError(f"{source}: label {extreme}, expected 0 to K - 1, or -1 for an image without a label")
    numbers = values.astype(np.int64)
    if set(np.unique(numbers).tolist()) == {-1, 1}:
        raise EvalkitError(f"{source}: labels -1 and 1, but -1 means no label here; name the two classes 0 and 1")
    return numbers


def encode_labels(labels: Sequence[np.ndarray], class_names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """(int64 (N,) from 0 to K - 1, the K names) of the labels of all parts together; -1 (no label) stays.

    `class_names`, where they are known, name the labels 0 to K - 1.

    Raises:
        EvalkitError: names in one part and numbers in another, or a label beyond the class names.
    """
    if len({part.dtype.kind for part in labels if len(part)}) > 1:
        raise EvalkitError("labels are numbers in one part and names in another")
    joined = np.concatenate(labels)
    numeric = joined.dtype.kind == "i"
    if numeric and class_names is not None:
        if joined.max(initial=-1) >= len(class_names):
            raise EvalkitError(f"label {joined.max()}, but there are {len(class_names)} class names")
        return joined, list(class_names)
    labelled = joined != _UNLABELLED if numeric else np.ones(len(joined), bool)
    names, codes = np.unique(joined[labelled], return_inverse=True)
    encoded = np.full(len(joined), _UNLABELLED)
    encoded[labelled] = codes
    return encoded, [str(name) for name in names]


# -- text files


def read_labels(path: Path) -> np.ndarray:
    """The label of each line of a text file: int64 if all are whole numbers, else text, as it stands there.

    Raises:
        EvalkitError: no such file, not text, an empty line, or more than one column.
    """
    lines = read_lines(path)
    _refuse_columns(lines, path)
    labels = [_unquoted(line) for line in lines]
    names = {label for label in labels if not _NUMBER.fullmatch(label)}
    if names and len(names) < len(set(labels)) and {name.lower() for name in names} <= _MISSING:
        row = next(row for row, label in enumerate(labels) if label in names)
        raise EvalkitError(f"{path}: line {row + 1} is {labels[row]}, expected a number; -1 means no label")
    if names or not labels:
        return np.array(labels, dtype=str)
    by_text = {label: float(label) for label in labels}
    numbers: dict[float, str] = {}
    for label, number in by_text.items():
        if numbers.setdefault(number, label) != label:
            raise EvalkitError(f"{path}: {numbers[number]} and {label} are one number; write it in one way")
    return np.array([by_text[label] for label in labels])


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without blanks around them; of UTF-8 or, with a byte order mark, UTF-16.

    Empty lines at the end do not count.

    Raises:
        EvalkitError: no such file, not text, or an empty line.
    """
    if not path.is_file():
        raise EvalkitError(f"{path}: no such file")
    with open(path, "rb") as file:
        content = file.read(_LARGEST_TEXT + 1)
    if len(content) > _LARGEST_TEXT:
        raise EvalkitError(f"{path}: larger than {_LARGEST_TEXT:,} bytes, expected text with one line per row")
    mark = next((mark for mark in _BYTE_ORDER_MARKS if content.startswith(mark)), b"")
    try:
        text = content[len(mark) :].decode(_BYTE_ORDER_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        place = content.count(b"\n", 0, error.start) + 1
        raise EvalkitError(
            f"{path}: neither .npy nor text in UTF-8 with one line per row (line {place}); save it as UTF-8"
        ) from None
    lines = [line.strip() for line in re.split("\r\n|\n|\r", text.rstrip())]
    for number, line in enumerate(lines, start=1):
        if not line and len(lines) > 1:
            raise EvalkitError(f"{path}: line {number} is empty, expected one line per row")
        if _CONTROL.search(line):
            raise EvalkitError(f"{path}: line {number} is {line[:40]!r}, expected text with one line per row")
    return lines if lines != [""] else []


def _refuse_columns(lines: Sequence[str], path: Path) -> None:
    """Lines of several columns would all be labels of their own, or labels with something beside them."""
    for separator, name in ((",", "commas"), ("\t", "tabs"), (";", "semicolons")):
        counts = {len(row) for row in csv.reader(lines, delimiter=separator)} if _may_be_csv(lines, separator) else {1}
        if len(counts) == 1 and min(counts) > 1:
            raise EvalkitError(
                f"{path}: lines of {min(counts)} columns ({lines[0][:40]!r}), separated by {name}; "
                'expected one label per line, with quotes around names that hold the separator ("a, b")'
            )
    words = [line.split() for line in lines]
    if len({len(each) for each in words}) == 1 and len(lines) > 2 and len(words[0]) > 1:
        for column in zip(*words, strict=True):
            if len(set(column)) == len(lines):  # a number or the name of a file
                raise EvalkitError(
                    f"{path}: lines of {len(words[0])} columns ({lines[0][:40]!r}), expected one label per line"
                )


def _may_be_csv(lines: Sequence[str], separator: str) -> bool:
    return bool(lines) and all(separator in line for line in lines) and max(map(len, lines)) < csv.field_size_limit()


def _unquoted(line: str) -> str:
    """A line without the quotes around it, as spreadsheets write them."""
    if len(line) > 1 and line[0] == line[-1] == '"':
        return line[1:-1].replace('""', '"').strip()
    return line
