"""Export: a feature set as one file for other tools, written in chunks and renamed when it is complete.

`importing.py` reads most of these formats again.
"""

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from evalkit.artifacts import atomic_file
from evalkit.errors import EvalkitError
from evalkit.features.featureset import FeatureSet, as_feature_set
from evalkit.features.writer import rows_per_chunk
from evalkit.workspace import Workspace

LARGEST_TEXT = 2_000_000_000  # bytes of LIBSVM text that need no --large: liblinear reads all of it into memory


def export_features(
    features: Any,
    out: Path | str,
    *,
    home: Workspace | Path | str | None = None,
    split: str | None = None,
    large: bool = False,
) -> Path:
    """Writes all rows, or those of a split, to `out`; its suffix says the format.

    Args:
        features: what `as_feature_set` takes: a FeatureSet, its directory, or its name in the workspace.
        out: .npz, .parquet, .libsvm, .safetensors or .pt.
        home: the workspace, for a name.
        split: the split to write; required for LIBSVM, which cannot hold splits.
        large: whether to write LIBSVM text of more than 2 GB.

    Raises:
        EvalkitError: another suffix, no such split, or text that would be too large.
    """
    out = Path(out)
    if out.suffix not in _WRITERS:
        raise EvalkitError(f"{out}: no format of that suffix; choose {', '.join(_WRITERS)}")
    rows = _rows_of(as_feature_set(features, home=home), split)
    if out.suffix == ".libsvm":
        _check_text(rows, out, split=split, large=large)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as file:
        _WRITERS[out.suffix](rows, file)
    return out


@dataclass(frozen=True)
class _Rows:
    """The rows to export, consecutive and memory-mapped, with their labels and splits."""

    features: np.ndarray
    labels: np.ndarray
    splits: dict[str, tuple[int, int]]
    class_names: list[str]
    about: dict[str, str]

    def split_names(self) -> np.ndarray:
        """The name of the split of each row."""
        return np.repeat(list(self.splits), [end - first for first, end in self.splits.values()])


def _rows_of(features: FeatureSet, split: str | None) -> _Rows:
    about = {"dataset": features.dataset, "encoder": features.encoder, "features_sha256": features.sha256}
    names = [str(name) for name in features.class_names]
    if split is None:
        covered = sorted(features.splits.items(), key=lambda item: item[1])
        return _Rows(features.features, features.labels, dict(covered), names, about)
    rows = features.rows(split)
    place = slice(int(rows[0]), int(rows[-1]) + 1)
    return _Rows(features.features[place], features.labels[place], {split: (0, len(rows))}, names, about)


def _npz(rows: _Rows, file: BinaryIO) -> None:
    """features, labels, split (one name per row), class_names; NumPy writes a memory-mapped array in pieces."""
    names = np.array(rows.class_names)
    np.savez(file, features=rows.features, labels=rows.labels, split=rows.split_names(), class_names=names)


def _parquet(rows: _Rows, file: BinaryIO) -> None:
    """Columns label, split and features; lists of float32, since not every reader takes half precision."""
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
    """One line per row: the label, then column:value from column 1 on, without zeros."""
    from sklearn.datasets import dump_svmlight_file

    step = rows_per_chunk(rows.features.shape[1])
    for first in range(0, len(rows.labels), step):
        chunk = slice(first, first + step)
        dump_svmlight_file(rows.features[chunk].astype(np.float32), rows.labels[chunk], file, zero_based=False)


def _check_text(rows: _Rows, out: Path, *, split: str | None, large: bool) -> None:
    if split is None and len(rows.splits) > 1:
        raise EvalkitError(f"{out}: LIBSVM cannot hold splits; choose one by --split {' or '.join(rows.splits)}")
    some = np.linspace(0, len(rows.labels) - 1, 8, dtype=np.int64)
    sample = io.BytesIO()
    _libsvm(_Rows(rows.features[some], rows.labels[some], {}, [], {}), sample)
    size = sample.tell() / len(some) * len(rows.labels)
    if size > LARGEST_TEXT and not large:
        raise EvalkitError(
            f"{out}: about {size / 1e9:.1f} GB of text; choose .npz, .parquet or .safetensors, or add --large"
        )


def _safetensors(rows: _Rows, file: BinaryIO) -> None:
    """features and labels; splits and class_names as JSON in the header.

    Written by hand, since the library needs all of it in memory.
    """
    sizes, header, place = [rows.features.nbytes, rows.labels.nbytes], {}, 0
    for name, array, size in zip(("features", "labels"), (rows.features, rows.labels), sizes, strict=True):
        kind = {"float16": "F16", "float32": "F32", "int64": "I64", "uint8": "U8"}[str(array.dtype)]
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
        # the mapping is read-only, and so is the use of the tensor
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
