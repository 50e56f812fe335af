"""import: features made elsewhere become a feature set, so that `evalkit svm` serves people who bring only arrays."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from evalkit.artifacts import sha256_file
from evalkit.errors import EvalkitError
from evalkit.features.exchange.arrays import FORMS, Array, open_array, open_bundle
from evalkit.features.exchange.labels import (
    Splits,
    checked_labels,
    encode,
    order_of,
    order_of_ranges,
    read_splits,
    read_texts,
)
from evalkit.features.exchange.write import Content, write_features
from evalkit.features.featureset import FeatureSet
from evalkit.features.grids import Layer

_FEATURES = ("features", "X", "x", "embeddings", "data", "arr_0")
_LABELS = ("labels", "y", "Y", "targets", "arr_1")
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class _Part:
    """Rows of features with their labels, from one file or pair of files; all of one split, unless that is empty."""

    source: str
    features: Array
    labels: np.ndarray
    split: str = ""


@dataclass(frozen=True)
class _Found:
    """What the files hold: parts, and, where they say so, the order of rows with their splits, and class names."""

    parts: list[_Part]
    splits: tuple[np.ndarray, Splits] | None = None
    class_names: list[str] | None = None


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


def _pair(features: Path, labels: Path, *, split: str) -> _Part:
    if features.suffix != ".npy":
        raise EvalkitError(f"{features}: expected X as .npy beside its labels; features come from {FORMS}")
    found = open_array(features)
    return _Part(str(features), found, checked_labels(read_texts(labels), len(found), str(labels)), split)


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


def _named(content: dict[str, Any], features: Sequence[str], labels: Sequence[str]) -> tuple[str, str] | None:
    x, y = (next((name for name in names if name in content), None) for names in (features, labels))
    return (x, y) if x and y else None


def _part(path: Path, content: dict[str, Any], pair: tuple[str, str], split: str) -> _Part:
    x, y = (content[name] for name in pair)
    if not all(hasattr(array, "shape") for array in (x, y)):
        raise EvalkitError(f"{path}: {pair[0]} and {pair[1]} are not both arrays")
    return _Part(f"{path}[{pair[0]}]", x, checked_labels(y, (*x.shape, 0)[0], f"{path}[{pair[1]}]"), split)


def _listed(value: Any) -> Any:
    """A value as it was before it went into a safetensors header, which holds texts alone."""
    return json.loads(value) if isinstance(value, str) else value


def _checked_length(parts: Sequence[_Part]) -> int:
    """D, the same in all parts."""
    for part in parts:
        shape, dtype = part.features.shape, np.dtype(part.features.dtype)
        if len(shape) != 2:
            more = "; X.reshape(len(X), -1) makes rows of maps" if len(shape) > 2 else ""
            raise EvalkitError(f"{part.source}: features of shape {shape}, expected (N, D), a row a picture{more}")
        if 0 in shape or dtype.kind not in "fiub":
            raise EvalkitError(f"{part.source}: features {dtype} {shape}, expected numbers, at least one row of one")
        if shape[1] != parts[0].features.shape[1]:
            expected = f"{parts[0].features.shape[1]} as in {parts[0].source}"
            raise EvalkitError(f"{part.source}: rows of {shape[1]} numbers, expected {expected}")
    return int(parts[0].features.shape[1])


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
