"""import: features made elsewhere become a feature set, so that `evalkit svm` serves people who bring only arrays.

Arrays in other people's files, opened without being read: .npy, .npz, .pt, .safetensors. No pickle is loaded.

Labels and splits as people have them, made into ours: whole numbers from 0, rows of a split one after another.
"""

import json
import pickle
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from evalkit.artifacts import sha256_file
from evalkit.errors import EvalkitError
from evalkit.features.featureset import FeatureSet
from evalkit.features.pooling import Layer
from evalkit.features.writer import Content, write_features

_FEATURES = ("features", "X", "x", "embeddings", "data", "arr_0")
_LABELS = ("labels", "y", "Y", "targets", "arr_1")
_SPLITS = ("train", "validation", "test")


def import_features(
    paths: Sequence[Path],
    target: Path,
    *,
    dataset: str,
    encoder: str,
    test: Sequence[Path] | None = None,
    splits: Path | None = None,
    dtype: str | None = None,
    replace: bool = False,
) -> FeatureSet:
    """A feature set of arrays in files, read in chunks.

    Args:
        paths: X.npy (N, D) and labels (.npy or a line a row); or one .npz, .pt or .safetensors with both, named
            features and labels (or X and y), or X_train, y_train, X_test, y_test.
        target: the feature set's directory.
        dataset, encoder: names, as figures carry them.
        test: X and labels of the test split; `paths` are then the training split.
        splits: a file that says which rows are which, as `read_splits` takes it.
        dtype: float16 or float32 on disk; by default float16 stays so and all else becomes float32.
        replace: overwrite other features of that name.

    Raises:
        EvalkitError: arrays of another shape or type, lengths that differ, no splits, numbers that are not finite.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".import-", dir=target.parent) as scratch:
        found = _open(paths, test, Path(scratch))
        length = _checked_length(found.parts)
        labels, class_names = encode([part.labels for part in found.parts], found.class_names)
        order, places = _order(found, splits, paths[0])
        whole = all(part.features.dtype == np.float16 for part in found.parts)
        files = [*paths, *(test or ()), *([splits] if splits else [])]
        content = Content(
            read=lambda first, end: _gather(found.parts, order[first:end], length),
            shape=(len(order), length),
            dtype=dtype or ("float16" if whole else "float32"),
            labels=labels[order],
            class_names=class_names,
            splits=places,
            layers=[Layer("imported", length, 1, 0, length)],
            settings={"dataset": dataset, "encoder": encoder},
            made_from={"files": {str(path.name): sha256_file(path) for path in files}},
        )
        return write_features(content, target, replace=replace)


def _named(content: dict[str, Any], features: Sequence[str], labels: Sequence[str]) -> tuple[str, str] | None:
    x, y = (next((name for name in names if name in content), None) for names in (features, labels))
    return (x, y) if x and y else None


def _listed(value: Any) -> Any:
    """A value as it was before it went into a safetensors header, which holds texts alone."""
    return json.loads(value) if isinstance(value, str) else value


FORMS = ".npy, .npz, .pt, .pth or .safetensors"


class Array(Protocol):
    """What is asked of an array: its shape, and numbers for a slice or an array of row numbers."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class _Part:
    """Rows of features with their labels, from one file or pair of files; all of one split, unless that is empty."""

    source: str
    features: Array
    labels: np.ndarray
    split: str = ""


def _pair(features: Path, labels: Path, *, split: str) -> _Part:
    if features.suffix != ".npy":
        raise EvalkitError(f"{features}: expected X as .npy beside its labels; features come from {FORMS}")
    found = open_array(features)
    return _Part(str(features), found, checked_labels(read_texts(labels), len(found), str(labels)), split)


def _part(path: Path, content: dict[str, Any], pair: tuple[str, str], split: str) -> _Part:
    x, y = (content[name] for name in pair)
    if not all(hasattr(array, "shape") for array in (x, y)):
        raise EvalkitError(f"{path}: {pair[0]} and {pair[1]} are not both arrays")
    return _Part(f"{path}[{pair[0]}]", x, checked_labels(y, (*x.shape, 0)[0], f"{path}[{pair[1]}]"), split)


def _checked_length(parts: Sequence[_Part]) -> int:
    """D, the same in all parts."""
    for part in parts:
        shape, dtype = part.features.shape, np.dtype(part.features.dtype)
        if len(shape) != 2:
            more = "; X.reshape(len(X), -1) makes rows of maps" if len(shape) > 2 else ""
            raise EvalkitError(f"{part.source}: features of shape {shape}, expected (N, D), a row an image{more}")
        if 0 in shape or dtype.kind not in "fiub":
            raise EvalkitError(f"{part.source}: features {dtype} {shape}, expected numbers, at least one row of one")
        if shape[1] != parts[0].features.shape[1]:
            expected = f"{parts[0].features.shape[1]} as in {parts[0].source}"
            raise EvalkitError(f"{part.source}: rows of {shape[1]} numbers, expected {expected}")
    return int(parts[0].features.shape[1])


def _gather(parts: Sequence[_Part], rows: np.ndarray, length: int) -> np.ndarray:
    """Rows by their numbers over all parts, (n, length)."""
    found = np.empty((len(rows), length), np.result_type(np.float16, *(part.features.dtype for part in parts)))
    start = 0
    for part in parts:
        end = start + part.features.shape[0]
        inside = (rows >= start) & (rows < end)
        if inside.any():
            wanted = rows[inside] - start
            run = len(wanted) == wanted[-1] - wanted[0] + 1 and bool((np.diff(wanted) == 1).all())
            found[inside] = part.features[slice(wanted[0], wanted[-1] + 1) if run else wanted]
        start = end
    return found


class TensorArray:
    """A tensor, perhaps mapped from its file, as an Array; bfloat16, which numpy lacks, becomes float32."""

    def __init__(self, tensor: torch.Tensor):
        self._tensor = tensor.detach()
        self.shape = tuple(tensor.shape)
        self.dtype = self._numpy(self._tensor[:0]).dtype if tensor.ndim else np.dtype("float32")

    @staticmethod
    def _numpy(tensor: torch.Tensor) -> np.ndarray:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._numpy(self._tensor[torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows])


def open_array(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped.

    Raises:
        EvalkitError: no such file, no .npy, or an array of Python objects, which would be a pickle.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise EvalkitError(f"{path}: no NumPy array of plain numbers or texts ({_first_line(error)})") from None
    if not isinstance(found, np.ndarray):
        raise EvalkitError(f"{path}: an archive of arrays named .npy; rename it to .npz")
    return found


def open_bundle(path: Path, scratch: Path) -> dict[str, Any]:
    """The named contents of a .npz, .pt or .safetensors file: arrays (large ones not in memory) and small values.

    Args:
        path: the file.
        scratch: an empty folder; the members of a .npz are unpacked into it, one by one.

    Raises:
        EvalkitError: no such file, another form, or content that is not arrays.
    """
    readers = {".npz": _npz, ".pt": _torch, ".pth": _torch, ".safetensors": _safetensors}
    if path.suffix not in readers:
        raise EvalkitError(f"{path}: features come from {FORMS}, found {path.suffix or 'no suffix'}")
    if not path.is_file():
        raise EvalkitError(f"{path}: no such file")
    return readers[path.suffix](path, scratch)


def _npz(path: Path, scratch: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for number, member in enumerate(name for name in archive.namelist() if name.endswith(".npy")):
                unpacked = scratch / f"{number}.npy"
                with archive.open(member) as source, open(unpacked, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                try:
                    found[member.removesuffix(".npy")] = open_array(unpacked)
                except EvalkitError as error:
                    raise EvalkitError(f"{path}[{member}]{str(error).removeprefix(str(unpacked))}") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise EvalkitError(f"{path}: not readable as .npz ({_first_line(error)})") from None
    return found


def _torch(path: Path, scratch: Path) -> dict[str, Any]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise EvalkitError(f"{path}: not tensors alone, as torch.save writes them ({_first_line(error)})") from None
    if not isinstance(loaded, dict):
        raise EvalkitError(f'{path}: holds {type(loaded).__name__}, expected {{"features": …, "labels": …}}')
    return {str(k): TensorArray(v) if isinstance(v, torch.Tensor) else v for k, v in loaded.items()}


def _safetensors(path: Path, scratch: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, Any] = {name: TensorArray(file.get_tensor(name)) for name in file.keys()}
            return found | (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise EvalkitError(f"{path}: no safetensors file ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


Splits = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class _Found:
    """What the files hold: parts, and, where they say so, the order of rows with their splits, and class names."""

    parts: list[_Part]
    splits: tuple[np.ndarray, Splits] | None = None
    class_names: list[str] | None = None


def _open(paths: Sequence[Path], test: Sequence[Path] | None, scratch: Path) -> _Found:
    if len(paths) > 2:
        raise EvalkitError(f"{len(paths)} files, expected X and y, or one file with both; test rows come by --test X y")
    if len(paths) == 2:
        parts = [_pair(*paths, split="train" if test else "")]
        return _Found(parts + ([_pair(*test, split="test")] if test else []))
    if paths[0].suffix == ".npy":
        raise EvalkitError(f"{paths[0]}: features without labels; give both: X.npy y.npy")
    if test:
        raise EvalkitError(f"{paths[0]}: --test goes with X.npy y.npy; a file with both holds its test rows itself")
    return _bundle(paths[0], open_bundle(paths[0], scratch))


def _bundle(path: Path, content: dict[str, Any]) -> _Found:
    class_names = content.get("class_names")
    names = [str(name) for name in _listed(class_names)] if class_names is not None else None
    whole = _named(content, _FEATURES, _LABELS)
    if whole is None:
        pairs = [
            (split, _named(content, [f"{n}_{split}" for n in _FEATURES], [f"{n}_{split}" for n in _LABELS]))
            for split in _SPLITS
        ]
        parts = [_part(path, content, pair, split) for split, pair in pairs if pair]
        if not parts:
            listed = ", ".join(content) or "none"
            raise EvalkitError(f"{path}: no features and labels (X and y, X_train and y_train); it has {listed}")
        return _Found(parts, class_names=names)
    part = _part(path, content, whole, "")
    count = part.features.shape[0]
    if "split" in content:
        return _Found([part], order_of(np.asarray(content["split"][:]), count, f"{path}[split]"), names)
    if "splits" in content:
        return _Found([part], order_of_ranges(_listed(content["splits"]), count, f"{path}[splits]"), names)
    return _Found([part], class_names=names)


def _order(found: _Found, splits: Path | None, source: Path) -> tuple[np.ndarray, Splits]:
    """Which row comes where, and the splits; there have to be rows to train on and rows to test on."""
    counts = [part.features.shape[0] for part in found.parts]
    ends = np.cumsum(counts).tolist()
    places = {part.split: (end - n, end) for part, n, end in zip(found.parts, counts, ends, strict=True)}
    order, places = found.splits or (np.arange(ends[-1]), places)
    if splits:
        order, places = read_splits(splits, ends[-1])
    if "train" not in places or "test" not in places:
        listed = ", ".join(name for name in places if name) or "none"
        cure = "say which rows are which by --test or --splits"
        raise EvalkitError(f"{splits or source}: splits {listed}, expected train and test; {cure}")
    return order, places


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
