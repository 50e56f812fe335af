"""export: a feature set as a file for other tools, written in chunks, in place only when it is whole.

What is in a feature set, in a few lines; the numbers are read in chunks.
"""

import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.features.featureset import FeatureSet
from evalkit.features.writer import rows_per_chunk

LARGEST_TEXT = 2_000_000_000  # bytes of LIBSVM text above which it has to be asked for: liblinear reads all of it


@dataclass(frozen=True)
class _Rows:
    """What is exported: consecutive rows, memory-mapped, with their labels and splits."""

    features: np.ndarray
    labels: np.ndarray
    splits: dict[str, tuple[int, int]]
    class_names: list[str]
    about: dict[str, str]

    def split_names(self) -> np.ndarray:
        """A split's name a row."""
        return np.repeat(list(self.splits), [end - first for first, end in self.splits.values()])


def export_features(features: FeatureSet, out: Path, *, split: str | None = None, large: bool = False) -> Path:
    """Writes all rows, or those of a split, to `out`; its suffix says the format.

    Args:
        features: the set.
        out: .npz, .parquet, .libsvm, .safetensors or .pt.
        split: LIBSVM has no place for splits, so it needs one.
        large: write LIBSVM text of more than 2 GB, too.

    Raises:
        EvalkitError: another suffix, no such split, or text that would be too large.
    """
    if out.suffix not in _WRITERS:
        raise EvalkitError(f"{out}: no format of that suffix; choose {', '.join(_WRITERS)}")
    rows = _chosen(features, split)
    if out.suffix == ".libsvm":
        _check_text(rows, out, split=split, large=large)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    try:
        with open(partial, "wb") as file:
            _WRITERS[out.suffix](rows, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def _chosen(features: FeatureSet, split: str | None) -> _Rows:
    about = {"dataset": features.dataset, "encoder": features.encoder, "features_sha256": features.sha256}
    names = [str(name) for name in features.class_names]
    if split is None:
        covered = sorted(features.splits.items(), key=lambda item: item[1])
        return _Rows(features.features, features.labels, dict(covered), names, about)
    rows = features.rows(split)
    place = slice(int(rows[0]), int(rows[-1]) + 1)
    return _Rows(features.features[place], features.labels[place], {split: (0, len(rows))}, names, about)


def _npz(rows: _Rows, file: BinaryIO) -> None:
    """features, labels, split (a name a row), class_names; numpy writes a memory-mapped array in pieces."""
    names = np.array(rows.class_names)
    np.savez(file, features=rows.features, labels=rows.labels, split=rows.split_names(), class_names=names)


def _parquet(rows: _Rows, file: BinaryIO) -> None:
    """Columns label, split, features: lists of float32, since half precision is not read everywhere."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    length, names = rows.features.shape[1], rows.split_names()
    columns = [("label", pa.int64()), ("split", pa.string()), ("features", pa.list_(pa.float32(), length))]
    schema = pa.schema(columns, metadata=rows.about | {"class_names": json.dumps(rows.class_names)})
    step = rows_per_chunk(length)
    with pq.ParquetWriter(file, schema) as writer:
        for first in range(0, len(rows.labels), step):
            chunk = slice(first, first + step)
            flat = pa.array(rows.features[chunk].astype(np.float32).reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(flat, length)
            arrays = [pa.array(rows.labels[chunk]), pa.array(names[chunk].tolist(), pa.string()), lists]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _libsvm(rows: _Rows, file: BinaryIO) -> None:
    """A line a row: label, then column:value from column 1 on, zeros left out."""
    from sklearn.datasets import dump_svmlight_file

    step = rows_per_chunk(rows.features.shape[1])
    for first in range(0, len(rows.labels), step):
        chunk = slice(first, first + step)
        dump_svmlight_file(rows.features[chunk].astype(np.float32), rows.labels[chunk], file, zero_based=False)


def _check_text(rows: _Rows, out: Path, *, split: str | None, large: bool) -> None:
    if split is None and len(rows.splits) > 1:
        raise EvalkitError(f"{out}: LIBSVM has no place for splits; choose one by --split {' or '.join(rows.splits)}")
    some = np.linspace(0, len(rows.labels) - 1, 8, dtype=np.int64)
    sample = io.BytesIO()
    _libsvm(_Rows(rows.features[some], rows.labels[some], {}, [], {}), sample)
    size = sample.tell() / len(some) * len(rows.labels)
    if size > LARGEST_TEXT and not large:
        raise EvalkitError(
            f"{out}: about {size / 1e9:.1f} GB of text; take .npz, .parquet or .safetensors, or --large for it anyway"
        )


def _safetensors(rows: _Rows, file: BinaryIO) -> None:
    """features and labels; splits and class_names as JSON in the header. By hand: the library wants all in memory."""
    sizes, header, place = [rows.features.nbytes, rows.labels.nbytes], {}, 0
    for name, array, size in zip(("features", "labels"), (rows.features, rows.labels), sizes, strict=True):
        kind = {"float16": "F16", "float32": "F32", "int64": "I64"}[str(array.dtype)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [place, place + size]}
        place += size
    texts = {"splits": json.dumps(rows.splits), "class_names": json.dumps(rows.class_names)}
    content = json.dumps({"__metadata__": rows.about | texts} | header).encode()
    content += b" " * (-len(content) % 8)
    file.write(len(content).to_bytes(8, "little") + content)
    step = rows_per_chunk(rows.features.shape[1])
    for first in range(0, len(rows.labels), step):
        file.write(np.ascontiguousarray(rows.features[first : first + step]).data)
    file.write(rows.labels.data)


def _torch(rows: _Rows, file: BinaryIO) -> None:
    """A dictionary for torch.load(weights_only=True): tensors features and labels, splits, class_names."""
    import torch

    with warnings.catch_warnings():
        # the mapping is read-only, and the tensor is only read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {"features": torch.from_numpy(rows.features), "labels": torch.from_numpy(rows.labels)}
    splits = {name: list(place) for name, place in rows.splits.items()}
    torch.save(tensors | {"splits": splits, "class_names": rows.class_names} | rows.about, file)


_WRITERS: dict[str, Callable[[_Rows, BinaryIO], None]] = {
    ".npz": _npz,
    ".parquet": _parquet,
    ".libsvm": _libsvm,
    ".safetensors": _safetensors,
    ".pt": _torch,
}


def summary(features: FeatureSet) -> Iterator[str]:
    """Lines: shape and type, data set, encoder, splits, hashes; then mean and std of every layer and of all."""
    count, length = features.features.shape
    manifest = features.manifest
    yield f"{count:,} x {length:,} {features.features.dtype}, {features.features.nbytes / 1e9:.2f} GB"
    yield f"dataset: {features.dataset}, {len(features.class_names)} classes"
    yield f"encoder: {features.encoder}"
    yield "splits: " + ", ".join(f"{name} {end - first:,}" for name, (first, end) in features.splits.items())
    yield f"created: {manifest['created']}, evalkit {manifest['versions']['evalkit']}"
    yield f"features sha256: {features.sha256}"
    for key in ("weights_sha256", "images_sha256"):
        yield f"{key.replace('_', ' ')}: {manifest['made_from'].get(key) or '-'}"
    for name, digest in manifest["made_from"].get("files", {}).items():
        yield f"{name} sha256: {digest}"
    yield from _statistics(features)


def _statistics(features: FeatureSet) -> Iterator[str]:
    """Mean and std over images and columns; a column counts as constant when it has one value throughout."""
    count, length = features.features.shape
    total, squares = np.zeros(length), np.zeros(length)
    least, most = np.full(length, np.inf, np.float32), np.full(length, -np.inf, np.float32)
    for rows, _ in features.chunks(rows=rows_per_chunk(length)):
        total += rows.sum(axis=0, dtype=np.float64)
        squares += np.einsum("nd,nd->d", rows, rows, dtype=np.float64)
        least, most = np.minimum(least, rows.min(axis=0)), np.maximum(most, rows.max(axis=0))
    yield f"{'layer':<24} {'columns':>15} {'mean':>10} {'std':>10} {'constant':>9}"
    for name, first, end in [*((x.name, x.offset, x.offset + x.length) for x in features.layers), ("all", 0, length)]:
        mean = total[first:end].sum() / (count * (end - first))
        std = np.sqrt(max(squares[first:end].sum() / (count * (end - first)) - mean**2, 0))
        constant = int((least[first:end] == most[first:end]).sum())
        yield f"{name:<24} {f'{first}-{end - 1}':>15} {mean:>10.4f} {std:>10.4f} {constant:>9}"
