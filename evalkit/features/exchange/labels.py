"""Labels and splits as people have them, made into ours: whole numbers from 0, rows of a split one after another."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.features.exchange.arrays import Array, open_array

Splits = dict[str, tuple[int, int]]


def read_texts(path: Path) -> np.ndarray:
    """One label, or one split's name, a row: an array in a .npy, or the lines of a text file.

    Raises:
        EvalkitError: no such file, or not text.
    """
    if path.suffix == ".npy":
        return open_array(path)
    try:
        return np.array(path.read_text().splitlines())
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise EvalkitError(f"{path}: neither .npy nor text, a line a row") from None


def checked_labels(labels: Array, rows: int, source: str) -> np.ndarray:
    """Labels (N,) of any plain kind, for `rows` rows.

    Raises:
        EvalkitError: another length, more than one column, or numbers that name no class.
    """
    values = np.asarray(labels[:])
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        hint = "; one-hot rows become labels by argmax(1)" if values.ndim == 2 else ""
        raise EvalkitError(f"{source}: labels of shape {values.shape}, expected one a row{hint}")
    if len(values) != rows:
        raise EvalkitError(f"{source}: {len(values):,} labels for {rows:,} rows of features")
    if values.dtype.kind == "f" and np.array_equal(values, np.floor(values)):
        values = values.astype(np.int64)
    if values.dtype.kind not in "iubUS":
        raise EvalkitError(f"{source}: labels of type {values.dtype}, expected whole numbers or names")
    return values.astype(str) if values.dtype.kind in "US" else values.astype(np.int64)


def encode(labels: Sequence[np.ndarray], class_names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """(int64 (N,) from 0 to K - 1, the K names) of all parts' labels together; -1 stays: no label.

    `class_names`, where they are known, name the labels 0 to K - 1.

    Raises:
        EvalkitError: names in one part and numbers in another, or a label beyond the class names.
    """
    if len({part.dtype.kind for part in labels}) > 1:
        raise EvalkitError("labels are numbers in one part and names in another")
    everything = np.concatenate(labels)
    numbers = everything.dtype.kind == "i"
    if numbers and class_names is not None:
        if everything.max(initial=-1) >= len(class_names):
            raise EvalkitError(f"label {everything.max()}, but there are {len(class_names)} class names")
        return everything, list(class_names)
    known = everything >= 0 if numbers else np.ones(len(everything), bool)
    names, codes = np.unique(everything[known], return_inverse=True)
    encoded = np.full(len(everything), -1)
    encoded[known] = codes
    return encoded, [str(name) for name in names]


def read_splits(path: Path, rows: int) -> tuple[np.ndarray, Splits]:
    """The rows in the order of their splits, and where each split then lies.

    Args:
        path: .json with {"train": [0, 50000], "test": [50000, 60000]}, or a split's name a row (.npy, text).
        rows: how many rows there are.

    Raises:
        EvalkitError: not readable so, another number of rows, or rows that overlap.
    """
    if path.suffix != ".json":
        return order_of(read_texts(path), rows, str(path))
    try:
        return order_of_ranges(json.loads(path.read_text()), rows, str(path))
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise EvalkitError(f"{path}: not readable as JSON ({error})") from None


def order_of(names: np.ndarray, rows: int, source: str) -> tuple[np.ndarray, Splits]:
    """As `read_splits`, from a split's name a row; splits come in the order in which they begin."""
    if names.ndim != 1 or names.dtype.kind not in "US" or len(names) != rows:
        found = f"{names.dtype} {names.shape}"
        raise EvalkitError(f"{source}: splits are {found}, expected the name of a split for each of {rows:,} rows")
    firsts = np.unique(names, return_index=True)[1]
    chosen = [names[first] for first in sorted(firsts)]
    members = [np.flatnonzero(names == name) for name in chosen]
    ends = np.cumsum([len(part) for part in members]).tolist()
    starts = [0, *ends[:-1]]
    return np.concatenate(members), {
        str(name): (start, end) for name, start, end in zip(chosen, starts, ends, strict=True)
    }


def order_of_ranges(ranges: Any, rows: int, source: str) -> tuple[np.ndarray, Splits]:
    """As `read_splits`, from {name: [first row, row after the last]}; rows in no range are left out."""
    form = '{"train": [first, end], "test": [first, end]}'
    if not isinstance(ranges, dict) or not all(_is_range(value, rows) for value in ranges.values()):
        raise EvalkitError(f"{source}: expected splits as {form} within {rows:,} rows")
    order = np.concatenate([np.arange(*value) for value in ranges.values()])
    if len(np.unique(order)) < len(order):
        raise EvalkitError(f"{source}: splits overlap; a row belongs to one")
    ends = np.cumsum([end - first for first, end in ranges.values()]).tolist()
    return order, {name: (end - (b - a), end) for (name, (a, b)), end in zip(ranges.items(), ends, strict=True)}


def _is_range(value: Any, rows: int) -> bool:
    whole = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(number) is int for number in value)
    return whole and 0 <= value[0] < value[1] <= rows
