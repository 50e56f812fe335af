"""Hugging Face's Parquet layout: a column of image files (struct{bytes, path} or bytes), a column of labels."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    split_of,
    split_order,
)

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
        raise EvalkitError(f"{path}: row group {group} cannot be read ({error}); download the file again") from None


def _numbers(column: Any, classes: tuple[str, ...]) -> np.ndarray:
    """A label column as int64, -1 for null."""
    if types.is_integer(column.type):
        return column.fill_null(-1).to_numpy().astype(np.int64)
    number = {name: k for k, name in enumerate(classes)}
    return np.array([number.get(word, -1) for word in column.to_pylist()], dtype=np.int64)


def parquet_plan(root: Path, files: Sequence[Path]) -> Plan:
    """The rows of `files`, which share one layout; splits come from the names of the files, else of their folders.

    Raises:
        EvalkitError: a file is not Parquet, has no images, or has labels without a class.
    """
    split_files = [(split_of([path.name, path.parent.name]) or "train", path) for path in files]
    split_files.sort(key=lambda pair: (split_order(pair[0]), str(pair[1])))
    schemas = [_schema(path) for _, path in split_files]
    image, label, names = _columns(schemas[0], split_files[0][1])
    for schema, (_, path) in zip(schemas, split_files, strict=True):
        if _columns(schema, path) != (image, label, names):
            raise EvalkitError(f"{path}: its columns differ from those of {split_files[0][1]}; prepare them one by one")
    words = label is not None and not types.is_integer(schemas[0].field(label).type)
    if label is not None and words:
        names = _words(split_files, label)
    shards = [
        shard for split, path in split_files for shard in _shards(split, path, image, label, names if words else ())
    ]
    if label is not None and not words:
        names = _checked(split_files, label, names)
    return Plan("parquet", shards, names, identity_of([path for _, path in split_files], root))


def _schema(path: Path) -> Any:
    try:
        return pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise EvalkitError(f"{path}: not a Parquet file ({str(error).splitlines()[0]}); download it again") from None


def _columns(schema: Any, path: Path) -> tuple[str, str | None, tuple[str, ...]]:
    """The image column, the label column or None, and the class names of the Hugging Face metadata."""
    features = _features(schema)
    images = [field.name for field in schema if _holds_images(field, features)]
    if not images:
        listed = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
        raise EvalkitError(f"{path}: no column of images, expected struct<bytes, path>; its columns: {listed}")
    image = next((name for name in images if name in ("image", "img")), images[0])
    label = next((name for name in _LABELS if name in schema.names and name != image), None)
    if label and not (types.is_integer(schema.field(label).type) or types.is_string(schema.field(label).type)):
        raise EvalkitError(f"{path}: column {label} is {schema.field(label).type}, expected whole numbers or words")
    about = features.get(label, {}) if label else {}
    names = about.get("names", ()) if isinstance(about, dict) else ()
    return image, label, tuple(map(str, names))


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
    return types.is_binary(kind) or types.is_large_binary(kind)


def _shards(split: str, path: Path, image: str, label: str | None, classes: tuple[str, ...]) -> Iterator[Rows]:
    metadata = pyarrow.parquet.read_metadata(path)
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        for first in range(0, rows, SHARD):
            yield Rows(split, str(path), group, first, min(SHARD, rows - first), image, label, classes)


def _words(split_files: list[tuple[str, Path]], label: str) -> tuple[str, ...]:
    words = set()
    for _, path in split_files:
        words.update(pyarrow.parquet.read_table(path, columns=[label]).column(label).unique().to_pylist())
    return tuple(sorted(words - {None}))


def _checked(split_files: list[tuple[str, Path]], label: str, names: tuple[str, ...]) -> tuple[str, ...]:
    highest: list[int] = []
    for _, path in split_files:
        numbers = _numbers(pyarrow.parquet.read_table(path, columns=[label]).column(label), ())
        checked_labels(numbers, names, path)
        highest.append(int(numbers.max(initial=-1)))
    return names or tuple(checked_labels(np.array(highest), (), split_files[0][1]))
