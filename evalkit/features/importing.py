"""Import: features made elsewhere become a feature set on disk, so that `evalkit svm` works on plain arrays.

`array_files.py` opens the files, `arrays.py` checks what is in them, `writer.py` writes the feature set in chunks.
"""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from evalkit.artifacts import sha256_file
from evalkit.errors import EvalkitError
from evalkit.features.array_files import SUFFIXES, open_bundle, read_label_rows, read_splits
from evalkit.features.arrays import Array, Splits, as_array, check_features, rows_by_split
from evalkit.features.featureset import KIND, FeatureSet, Layer
from evalkit.features.labels import check_labels, cleaned_text, encode_labels
from evalkit.features.npy_files import open_array
from evalkit.features.writer import Content, write_features
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)

_FEATURES = ("features", "X", "x", "embeddings", "data", "arr_0")
_LABELS = ("labels", "y", "Y", "targets", "arr_1")
_SPLITS = ("train", "validation", "test")
_READER = 2  # raised when the same files become other features or labels: older imports are then made again


def import_features(
    files: Sequence[Path | str] | Path | str,
    *,
    home: Workspace | Path | str | None = None,
    test: Sequence[Path | str] | None = None,
    splits: Path | str | None = None,
    dataset: str | None = None,
    encoder: str = "imported",
    name: str | None = None,
    dtype: Literal["float16", "float32"] | None = None,
    replace: bool = False,
    out: Path | str | None = None,
) -> FeatureSet:
    """A feature set on disk of arrays in files, which are read in chunks.

    Args:
        files: X.npy (N, D) and labels (.npy, or text with one line per row); or one .npz, .pt or .safetensors with
            both, named features and labels (or X and y), or X_train, y_train, X_test, y_test.
        home: the workspace; None: a temporary one that lasts as long as the feature set.
        test: X and labels of the split `test`; `files` are then the split `train`.
        splits: a file that says which rows belong to which split, as `read_splits` takes it.
        dataset: the data set's name, as results show it; by default the first file's.
        encoder: the encoder's name, likewise.
        name: of the feature set; by default DATASET--ENCODER.
        dtype: type on disk; by default float16 stays and other types become float32.
        replace: overwrite other features of that name.
        out: the feature set's directory, in place of one in the workspace.

    Raises:
        EvalkitError: arrays of another shape or type, lengths that differ, no splits, numbers that are not finite.
    """
    paths = [Path(each) for each in ([files] if isinstance(files, (str, Path)) else files)]
    tests, split_file = [Path(each) for each in test or ()], Path(splits) if splits else None
    if not paths:
        raise EvalkitError("no files, expected X and y, or one file with both")
    workspace, dataset = Workspace.of(home), dataset or paths[0].stem
    target = Path(out) if out else workspace.path_of(KIND, name or f"{dataset}--{encoder.replace(':', '-')}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".import-", dir=target.parent) as scratch:
        opened = _open(paths, tests, Path(scratch))
        content = _content(opened, split_file, paths[0], dtype)
        roles = {"train": paths, "test": tests, "splits": [split_file] if split_file else []}
        settings: dict[str, Any] = {"dataset": dataset, "encoder": encoder, "reader": _READER}
        settings["roles"] = {role: [path.name for path in each] for role, each in roles.items()}
        made_from = {"files": _hashes([path for each in roles.values() for path in each])}
        features = write_features(content, target, settings=settings, made_from=made_from, replace=replace)
    if out is None:
        workspace.mark_latest(target)
    count, length = features.features.shape
    logger.info("%s x %s features, %d classes", f"{count:,}", f"{length:,}", len(features.class_names))
    return features.kept_by(workspace)


def _hashes(paths: Sequence[Path]) -> dict[str, str]:
    """Hashes by file name; of files of one name, which are in several folders, by the number in the list, too."""
    names = [path.name for path in paths]
    unique = [name if names.count(name) == 1 else f"{number}: {name}" for number, name in enumerate(names)]
    return {name: sha256_file(path) for name, path in zip(unique, paths, strict=True)}


def _content(opened: "_Opened", splits: Path | None, source: Path, dtype: str | None) -> Content:
    """The rows to write, in the order of their splits, with encoded labels."""
    length = check_features(opened.parts[0].features, opened.parts[0].source)
    for part in opened.parts[1:]:
        check_features(part.features, part.source, columns=length, like=opened.parts[0].source)
    labels, class_names = encode_labels([part.labels for part in opened.parts], opened.class_names)
    order, places = _order(opened, splits, source)
    half = all(part.features.dtype == np.float16 for part in opened.parts)
    return Content(
        read=lambda first, end: _gather(opened.parts, order[first:end], length),
        shape=(len(order), length),
        dtype=dtype or ("float16" if half else "float32"),
        labels=labels[order],
        class_names=class_names,
        splits=places,
        layers=[Layer("imported", length, 1, 0, length)],
    )


@dataclass(frozen=True)
class _Part:
    """Rows of features with their labels, from one file or pair of files; all of one split, unless that is empty."""

    source: str
    features: Array
    labels: np.ndarray
    split: str = ""


@dataclass(frozen=True)
class _Opened:
    """The contents of the files: parts, and, where the files say so, the rows by split, and class names."""

    parts: list[_Part]
    splits: tuple[np.ndarray, Splits] | None = None
    class_names: list[str] | None = None


def _open(paths: Sequence[Path], test: Sequence[Path], scratch: Path) -> _Opened:
    if len(paths) > 2:
        raise EvalkitError(
            f"{len(paths)} files, expected X and y, or one file with both; --test X y adds the test rows"
        )
    if len(paths) == 2:
        parts = [_open_pair(*paths, split="train" if test else "")]
        return _Opened(parts + ([_open_pair(*test, split="test")] if test else []))
    if paths[0].suffix == ".npy":
        raise EvalkitError(f"{paths[0]}: features without labels; give both: X.npy y.npy")
    if test:
        raise EvalkitError(f"{paths[0]}: --test goes with X.npy y.npy; a file with both holds its test rows itself")
    return _parts_of_bundle(paths[0], open_bundle(paths[0], scratch))


def _open_pair(features: Path, labels: Path, *, split: str) -> _Part:
    if features.suffix != ".npy":
        raise EvalkitError(f"{features}: expected X as .npy beside its labels; features are read from {SUFFIXES}")
    array = open_array(features)
    return _Part(
        str(features), array, check_labels(read_label_rows(labels), _rows_of(array, features), str(labels)), split
    )


def _rows_of(array: np.ndarray, path: Path) -> int:
    check_features(array, str(path))
    return len(array)


def _parts_of_bundle(path: Path, content: Mapping[str, Any]) -> _Opened:
    names = _class_names(path, content)
    both = _named(content, _FEATURES, _LABELS)
    if both is None:
        return _Opened(_parts_by_split(path, content), class_names=names)
    part, used = _part(path, content, both, ""), {*both, "class_names"}
    count, splits = part.features.shape[0], None
    if "split" in content and not isinstance(content["split"], str):
        splits = rows_by_split(np.asarray(content["split"][:]), count, f"{path}[split]")
        used.add("split")
    elif ranges := _ranges(path, content):
        splits = rows_by_split(ranges, count, f"{path}[splits]")
        used.add("splits")
    _say_what_is_read(path, content, [both], used)
    return _Opened([part], splits, names)


def _parts_by_split(path: Path, content: Mapping[str, Any]) -> list[_Part]:
    """The parts of a file with X_train, y_train, X_test, y_test."""
    pairs = [
        (split, _named(content, [f"{n}_{split}" for n in _FEATURES], [f"{n}_{split}" for n in _LABELS]))
        for split in _SPLITS
    ]
    parts = [_part(path, content, pair, split) for split, pair in pairs if pair]
    if not parts:
        listed = ascii(", ".join(content))[1:-1][:200] or "none"
        raise EvalkitError(f"{path}: no features and labels (X and y, X_train and y_train); it has {listed}")
    taken = [pair for _, pair in pairs if pair]
    _say_what_is_read(path, content, taken, {"class_names", *(name for pair in taken for name in pair)})
    return parts


def _say_what_is_read(
    path: Path, content: Mapping[str, Any], pairs: Sequence[tuple[str, str]], used: Collection[str]
) -> None:
    read = "; ".join(f"features {x}, labels {y}" for x, y in pairs)
    others = ascii(", ".join(name for name in content if name not in used))[1:-1][:200]
    logger.info("%s: %s%s", path, read, f"; not read: {others}" if others else "")


def _part(path: Path, content: Mapping[str, Any], pair: tuple[str, str], split: str) -> _Part:
    x, y = (content[name] for name in pair)
    y = as_array(y) if isinstance(y, (list, tuple)) else y
    if not all(hasattr(array, "shape") for array in (x, y)):
        raise EvalkitError(f"{path}: {pair[0]} and {pair[1]} are not both arrays")
    if not y.shape:
        raise EvalkitError(f"{path}[{pair[1]}]: labels of shape (), expected one label per row")
    return _Part(f"{path}[{pair[0]}]", x, check_labels(y, (*x.shape, 0)[0], f"{path}[{pair[1]}]"), split)


def _named(content: Mapping[str, Any], features: Sequence[str], labels: Sequence[str]) -> tuple[str, str] | None:
    """The first of the names that are there, not counting texts of a header."""
    x, y = (
        next((name for name in names if name in content and not isinstance(content[name], str)), None)
        for names in (features, labels)
    )
    return (x, y) if x and y else None


def _class_names(path: Path, content: Mapping[str, Any]) -> list[str] | None:
    """The names of the labels 0 to K - 1, if the file has a list of them; anything else by that name is left out."""
    given = _from_header(content.get("class_names"))
    if given is None:
        return None
    if hasattr(given, "shape"):
        given = as_array(given[:]).tolist() if given.shape else None
    if isinstance(given, (list, tuple)) and given and all(isinstance(each, (str, bytes, int)) for each in given):
        texts = np.array([str(each) if isinstance(each, int) else each for each in given], object)
        return cleaned_text(texts, f"{path}[class_names]").tolist()
    logger.warning("%s: class_names is not a list of names and is left out; labels keep their numbers", path)
    return None


def _ranges(path: Path, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rows of each split, if the file has them; other text by that name is left out."""
    given = _from_header(content.get("splits"))
    if given is None or isinstance(given, dict):
        return given
    logger.warning("%s: splits is not {name: [first row, row after the last]} and is left out", path)
    return None


def _from_header(value: Any) -> Any:
    """A value as it was before it went into a safetensors header, which holds text only; other text as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _order(opened: _Opened, splits: Path | None, source: Path) -> tuple[np.ndarray, Splits]:
    """The row numbers in the order to write them, and the splits; there must be rows to train and to test on."""
    counts = [part.features.shape[0] for part in opened.parts]
    ends = np.cumsum(counts).tolist()
    places = {part.split: (end - n, end) for part, n, end in zip(opened.parts, counts, ends, strict=True)}
    order, places = opened.splits or (np.arange(ends[-1]), places)
    if splits:
        order, places = read_splits(splits, ends[-1])
    if "train" not in places or "test" not in places:
        listed = ", ".join(name for name in places if name)[:200] or "none"
        hint = "say which rows are which by --test or --splits"
        raise EvalkitError(f"{splits or source}: splits {listed}, expected train and test; {hint}")
    return order, places


def _gather(parts: Sequence[_Part], rows: np.ndarray, length: int) -> np.ndarray:
    """Rows by their numbers over all parts, (n, length)."""
    gathered = np.empty((len(rows), length), np.result_type(*(part.features.dtype for part in parts)))
    start = 0
    for part in parts:
        end = start + part.features.shape[0]
        inside = (rows >= start) & (rows < end)
        if inside.any():
            wanted = rows[inside] - start
            run = len(wanted) == wanted[-1] - wanted[0] + 1 and bool((np.diff(wanted) == 1).all())
            gathered[inside] = part.features[slice(wanted[0], wanted[-1] + 1) if run else wanted]
        start = end
    return gathered
