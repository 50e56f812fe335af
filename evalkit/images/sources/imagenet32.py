"""Downsampled ImageNet (Chrabaszcz et al. 2017): train_data_batch_1 … 10 and val_data, as .npz or as pickles.

Not the other "ImageNet 32x32", the unlabeled PNGs of van den Oord et al. 2016 (see tar.py and folder.py): these images
were resized by a box filter and have labels from 1 to 1000.

Pickles are read without running code: a pickle is a program, and Python's unpickler calls what `find_class` returns.
Here that is only a record of arguments, from which the arrays are built with checks; any other name is refused.
"""

import io
import mmap
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.images.sources.base import SHARD, Plan, Shard, SourceImage, checked_labels, identity_of
from evalkit.images.sources.npz import NpzRows, as_hwc

_BATCH = re.compile(r"(train_data_batch_\d+|val_data|train_data)(\.npz)?")
VARIANT = "chrabaszcz2017"


def is_downsampled(root: Path, files: Sequence[Path]) -> bool:
    """Whether all files have names of batches of downsampled ImageNet."""
    return bool(files) and all(_BATCH.fullmatch(path.name) for path in files)


@dataclass(frozen=True)
class PickledRows:
    """Rows of a pickled batch, read from the file at `offset`; -1 if the pickle holds them encoded."""

    split: str
    path: str
    offset: int
    width: int
    first: int
    labels: np.ndarray

    @property
    def count(self) -> int:
        return len(self.labels)

    def read(self) -> Iterator[SourceImage]:
        if self.offset < 0:
            rows = _decoded(self.path)[self.first : self.first + self.count]
        else:
            start = self.offset + self.first * self.width
            flat = np.fromfile(self.path, np.uint8, self.count * self.width, offset=start)
            rows = flat.reshape(self.count, self.width)
        for number, (row, label) in enumerate(zip(rows, self.labels, strict=True), self.first):
            yield SourceImage(f"{Path(self.path).name} {number}", as_hwc(row), int(label))


@lru_cache(maxsize=1)
def _decoded(path: str) -> np.ndarray:
    return read_pickled_arrays(Path(path))["data"]


def downsampled_plan(root: Path, files: Sequence[Path]) -> Plan:
    """The batches in the order of their numbers, validation last; labels 1 to K become 0 to K - 1.

    Raises:
        EvalkitError: a file is not such a batch.
    """
    shards: list[Shard] = []
    widths, highest = set(), 0
    for path in sorted(files, key=_number):
        width, labels, rows = (_npz if path.suffix == ".npz" else _pickle)(path)
        if len(labels) and labels.min() < 1:
            raise EvalkitError(f"{path}: label {labels.min()} is out of range, downsampled ImageNet counts from 1")
        widths.add(width)
        highest = max(highest, int(labels.max(initial=0)))
        split = "validation" if path.name.startswith("val") else "train"
        shards += [rows(split, first, labels[first : first + SHARD] - 1) for first in range(0, len(labels), SHARD)]
    if len(widths) != 1:
        raise EvalkitError(f"{root}: batches of different sizes ({sorted(widths)} bytes per image); prepare each")
    names = checked_labels(np.array([highest - 1]), (), root)
    variant = f"imagenet{int(np.sqrt(widths.pop() // 3))}-{VARIANT}"
    return Plan("downsampled-imagenet", shards, names, identity_of(sorted(files, key=_number), root), variant=variant)


def _number(path: Path) -> tuple[bool, int, str]:
    return path.name.startswith("val"), int("0" + "".join(re.findall(r"\d+", path.stem))), path.name


def _npz(path: Path) -> tuple[int, np.ndarray, Any]:
    try:
        with np.load(path, allow_pickle=False) as loaded:
            labels = _labels(loaded["labels"], path)
        with zipfile.ZipFile(path) as archive, archive.open("data.npy") as stream:
            np.lib.format.read_magic(stream)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise EvalkitError(f"{path}: not a batch of downsampled ImageNet ({error}); download it again") from None
    _check(shape, dtype, labels, path)
    if fortran:
        raise EvalkitError(f"{path}: data in Fortran order, expected C order; save it again")
    return shape[1], labels, lambda split, first, part: NpzRows(split, str(path), "data", first, part)


def _pickle(path: Path) -> tuple[int, np.ndarray, Any]:
    arrays = read_pickled_arrays(path)
    if "data" not in arrays or "labels" not in arrays:
        raise EvalkitError(f"{path}: holds {', '.join(arrays) or 'nothing'}, expected data and labels")
    data, labels = arrays["data"], _labels(arrays["labels"], path)
    _check(data.shape, data.dtype, labels, path)
    offset = _offset(path, data)
    width = data.shape[1]
    return width, labels, lambda split, first, part: PickledRows(split, str(path), offset, width, first, part)


def _labels(labels: np.ndarray, path: Path) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise EvalkitError(f"{path}: labels are {labels.dtype}, expected whole numbers")
    return labels.reshape(-1).astype(np.int64)


def _check(shape: tuple[int, ...], dtype: np.dtype, labels: np.ndarray, path: Path) -> None:
    side = int(np.sqrt(shape[1] // 3)) if len(shape) == 2 else 0
    if dtype != np.uint8 or not side or shape[1] != 3 * side * side or shape[0] != len(labels):
        raise EvalkitError(f"{path}: data is {dtype} {shape} with {len(labels)} labels, expected uint8 (N, 3 x side²)")


def _offset(path: Path, data: np.ndarray) -> int:
    """Where the file holds the bytes of the array unchanged, or -1."""
    content = np.ascontiguousarray(data).reshape(-1).data
    if not len(content):
        return -1
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        at = mapped.find(bytes(content[:4096]))
        same = at >= 0 and mapped[at : at + len(content)] == content
    return at if same else -1


_ITEMS = {"u1": 1, "i4": 4, "i8": 8, "f4": 4, "f8": 8}


class _DType:
    """Stands in for numpy.dtype: remembers its name and byte order."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name.decode("ascii") if isinstance(name, bytes) else name
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        self.order = order.decode("ascii") if isinstance(order, bytes) else order


class _Array:
    """Stands in for numpy.ndarray: remembers its shape, dtype and bytes."""

    shape: Any = ()
    dtype: Any = None
    content: Any = b""
    fortran: Any = False

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.content = state

    def array(self) -> np.ndarray:
        """The array, if what the pickle says about it is consistent; else ValueError."""
        if (
            not isinstance(self.dtype, _DType)
            or self.dtype.name not in _ITEMS
            or self.dtype.order not in ("<", "|", "=")
        ):
            raise ValueError(f"an array of {getattr(self.dtype, 'name', self.dtype)}")
        if not isinstance(self.content, (bytes, bytearray)) or not isinstance(self.shape, tuple):
            raise ValueError("an array without bytes")
        items = len(self.content) // _ITEMS[self.dtype.name]
        if any(type(n) is not int or n < 0 for n in self.shape) or np.prod(self.shape, dtype=object) != items:
            raise ValueError(f"an array of shape {self.shape} in {len(self.content)} bytes")
        flat = np.frombuffer(self.content, "<" + self.dtype.name)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes in an odd encoding")
    return text.encode("latin1")


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.content, array.dtype, array.shape, array.fortran = content, dtype, shape, order == "F"
    return array


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}
for _package in ("numpy.core", "numpy._core"):
    _STAND_INS[_package + ".multiarray", "_reconstruct"] = _reconstruct
    _STAND_INS[_package + ".numeric", "_frombuffer"] = _from_buffer


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; other names are refused, and nothing is imported."""
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not part of an array")
        return _STAND_INS[module, name]


def read_pickled_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays, and lists of whole numbers as arrays, in a pickled dict; other entries are left out.

    Raises:
        EvalkitError: not a pickle, cut short, or one that names anything but NumPy arrays.
    """
    try:
        content = _Reader(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, expected a dict")
        named = {key.decode("ascii") if isinstance(key, bytes) else key: value for key, value in content.items()}
        arrays = {key: value.array() for key, value in named.items() if isinstance(value, _Array)}
        for key, value in named.items():
            if isinstance(value, list) and all(type(item) is int for item in value):
                arrays[key] = np.array(value, np.int64)
    except OSError:
        raise
    except Exception as error:  # a hostile pickle can fail in any way, but it can only fail
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EvalkitError(f"{path}: not read as a pickled batch ({reason}); expected a dict of arrays") from None
    return arrays
