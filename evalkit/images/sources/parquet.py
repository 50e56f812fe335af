"""Hugging Face's Parquet layout: a column of image files (struct{bytes, path} or bytes), a column of labels."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from pyarrow import types

from evalkit.errors import EvalkitError
from evalkit.images.sources.base import (
    SHARD,
    Plan,
    SourceImage,
    checked_labels,
    identity_of,
    printable,
    reason,
)
from evalkit.images.sources.layout import UNSTATED, Layout, Stated, file_splits

_LABELS = ("label", "labels", "fine_label", "class", "target")


@dataclass(frozen=True)
class Rows:
    """Some rows of one row group of a Parquet file. `classes` gives the numbers of labels that are words."""

    split: str
    path: str
    group: int
    first: int
    count: int
    image_column: str
    label_column: str | None
    classes: tuple[str, ...]

    def read(self) -> Iterator[SourceImage]:
        columns = [name for name in (self.image_column, self.label_column) if name]
        table = _row_group(self.path, self.group, tuple(columns)).slice(self.first, self.count)
        cells = table.column(self.image_column).to_pylist()
        labels = _numbers(table.column(self.label_column), self.classes) if self.label_column else [-1] * len(cells)
        for row, (cell, label) in enumerate(zip(cells, labels, strict=True), self.first):
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            path = cell.get("path") if isinstance(cell, dict) else None
            name = path or f"{Path(self.path).name} row group {self.group} row {row}"
            yield SourceImage(printable(name), content or b"", int(label), "" if content else "the row holds no bytes")


@lru_cache(maxsize=1)  # consecutive shards are parts of one row group
def _row_group(path: str, group: int, columns: tuple[str, ...]) -> Any:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.read_row_group(group, columns=list(columns), use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise EvalkitError(f"{path}: row group {group} cannot be read ({reason(error)}); download it again") from None


def _numbers(column: Any, classes: tuple[str, ...]) -> np.ndarray:
    """A label column as int64, -1 for null: whole numbers as they are, words by their place in `classes`."""
    if not classes:
        return _whole_numbers(column)
    number: dict[str | None, int] = {name: k for k, name in enumerate(classes)}
    return np.array([number.get(_word(value), -1) for value in column.to_pylist()], dtype=np.int64)


def _whole_numbers(column: Any) -> np.ndarray:
    """Integers of any width, booleans, dictionaries of them, and floats that are whole (pandas' column with gaps)."""
    values = column.to_pylist()
    wrong = next((value for value in values if not _whole(value)), None)
    if wrong is not None:
        raise ValueError(f"label {wrong!r}, expected whole numbers or words")
    return np.array([-1 if value is None or value != value else int(value) for value in values], dtype=np.int64)


def _whole(value: Any) -> bool:
    return value is None or value != value or (abs(value) < 1 << 62 and value == int(value))


def _word(value: Any) -> str | None:
    """A label in words: blanks at its ends do not count, bytes are UTF-8, an empty word is no label."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return None if value is None else value.strip() or None


def _value_type(kind: Any) -> Any:
    """The type of a column's values: pandas' categories and polars' enums are dictionaries."""
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_number(kind: Any) -> bool:
    kind = _value_type(kind)
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_null(kind)


def _is_word(kind: Any) -> bool:
    kind = _value_type(kind)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or _binary(kind)


@dataclass(frozen=True)
class _Columns:
    """What the schema of a file says: the image column, the label column or None, and the names of the classes."""

    image: str
    label: str | None
    words: bool
    names: tuple[str, ...]


def parquet_plan(root: Path, files: Sequence[Path], stated: Stated = UNSTATED) -> Plan:
    """The rows of `files`, which share one layout; splits come from the names of the files, else of their folders.

    Files may differ in the order and the exact types of their columns; class names may stand in only some of them.

    Raises:
        EvalkitError: a file is not Parquet, has no images, or has labels without a class.
    """
    layout = Layout()
    split_files = [(split or "train", path) for split, path in file_splits(files, root, stated, layout)]
    columns = [_columns(_schema(path), path, stated.labels_from) for _, path in split_files]
    first, names = columns[0], _names(columns, [path for _, path in split_files])
    for other, (_, path) in zip(columns, split_files, strict=True):
        if (other.image, other.words) != (first.image, first.words):
            raise EvalkitError(f"{path}: its columns differ from those of {split_files[0][1]}; prepare them one by one")
        if other.label != first.label:
            label = other.label or first.label
            layout.odd.append(
                f"{path.name if not other.label else split_files[0][1].name} has no column {label}: no labels"
            )
            layout.notes.append(layout.odd[-1])
    labelled = [(each.label, path) for each, (_, path) in zip(columns, split_files, strict=True) if each.label]
    if first.words:
        names = _words(labelled)
    shards = [
        shard
        for each, (split, path) in zip(columns, split_files, strict=True)
        for shard in _shards(split, path, each.image, each.label, names if first.words else ())
    ]
    if labelled and not first.words:
        names = _checked(labelled, names)
    plan = Plan("parquet", shards, names, identity_of([path for _, path in split_files], root))
    return replace(plan, notes=tuple(layout.notes), odd=tuple(layout.odd))


def _names(columns: Sequence[_Columns], files: Sequence[Path]) -> tuple[str, ...]:
    """The class names of the Hugging Face metadata, which some of the files may lack."""
    named = [(each.names, path) for each, path in zip(columns, files, strict=True) if each.names]
    for names, path in named:
        if names != named[0][0]:
            raise EvalkitError(f"{path}: its class names differ from those of {named[0][1]}; prepare them one by one")
    return named[0][0] if named else ()


def _schema(path: Path) -> Any:
    try:
        return pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise EvalkitError(f"{path}: not a Parquet file ({reason(error)}); download it again") from None


def _columns(schema: Any, path: Path, labels_from: str) -> _Columns:
    features = _features(schema)
    images = [field.name for field in schema if _holds_images(field, features)]
    if not images:
        listed = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
        raise EvalkitError(f"{path}: no column of images, expected struct<bytes, path>; its columns: {reason(listed)}")
    image = next((name for name in images if name in ("image", "img")), images[0])
    if labels_from and labels_from != "none" and labels_from not in schema.names:
        raise EvalkitError(f"{path}: no column {labels_from} (--labels-from); its columns: {', '.join(schema.names)}")
    wanted = (labels_from,) if labels_from else _LABELS
    label = next((name for name in wanted if name in schema.names and name != image), None)
    if label is None:
        return _Columns(image, None, False, ())
    kind = schema.field(label).type
    if not _is_number(kind) and not _is_word(kind):
        raise EvalkitError(f"{path}: column {label} is {kind}, expected whole numbers or words")
    about = features.get(label, {})
    names = about.get("names") or () if isinstance(about, dict) else ()
    return _Columns(image, label, _is_word(kind), tuple(map(str, names)))


def _features(schema: Any) -> dict[str, Any]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _holds_images(field: Any, features: dict[str, Any]) -> bool:
    kind = field.type
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _binary(kind.field("bytes").type)
    about = features.get(field.name)
    named = field.name in ("image", "img", "jpg", "png", "webp") or (
        isinstance(about, dict) and "Image" in about.values()
    )
    return _binary(kind) and named


def _binary(kind: Any) -> bool:
    return (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _shards(split: str, path: Path, image: str, label: str | None, classes: tuple[str, ...]) -> Iterator[Rows]:
    metadata = pyarrow.parquet.read_metadata(path)
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        for first in range(0, rows, SHARD):
            yield Rows(split, str(path), group, first, min(SHARD, rows - first), image, label, classes)


def _words(labelled: Sequence[tuple[str, Path]]) -> tuple[str, ...]:
    words = {_word(value) for label, path in labelled for value in _column(path, label).unique().to_pylist()}
    return tuple(sorted(word for word in words if word is not None))


def _checked(labelled: Sequence[tuple[str, Path]], names: tuple[str, ...]) -> tuple[str, ...]:
    highest: list[int] = []
    for label, path in labelled:
        try:
            numbers = _whole_numbers(_column(path, label))
        except ValueError as error:
            raise EvalkitError(f"{path}: column {label}: {error}") from None
        checked_labels(numbers, names, path)
        highest.append(int(numbers.max(initial=-1)))
    return names or tuple(checked_labels(np.array(highest), (), labelled[0][1]))


def _column(path: Path, name: str) -> Any:
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read(columns=[name]).column(0)
