"""Arrays in other people's files, opened without reading them whole: .npy, .npz, .pt, .safetensors; labels as text.

No pickle is loaded. `importing.py` makes a feature set of what is found here.
"""

import json
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from evalkit.errors import EvalkitError, one_line
from evalkit.features.arrays import Splits, as_array, rows_by_split
from evalkit.features.labels import read_labels, read_lines
from evalkit.features.npy_files import check_header, open_array, shortened

SUFFIXES = ".npy, .npz, .pt, .pth or .safetensors"


class TensorArray:
    """A tensor, possibly mapped from its file, as an `arrays.Array`; see `as_array` for types that NumPy lacks."""

    def __init__(self, tensor: torch.Tensor):
        sparse = tensor.layout != torch.strided
        # rows of a compressed layout cannot be selected
        self._tensor = tensor.to_sparse_coo().coalesce().detach() if sparse else tensor.detach()
        self.shape = tuple(tensor.shape)
        self.dtype = as_array(self._rows(slice(0))).dtype if tensor.ndim else np.dtype("float32")

    def __getitem__(self, rows: Any) -> np.ndarray:
        return as_array(self._rows(rows))

    def _rows(self, rows: Any) -> torch.Tensor:
        if self._tensor.is_sparse and self._tensor.ndim:
            numbers = torch.arange(len(self._tensor))[torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows]
            return self._tensor.index_select(0, numbers)
        return self._tensor[torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows]


def open_bundle(path: Path, scratch: Path) -> Mapping[str, Any]:
    """The contents of a .npz, .pt or .safetensors file by name: arrays (large ones not in memory) and small values.

    Members are opened when they are looked up, so that nothing depends on those that nobody asks for.

    Args:
        path: the file.
        scratch: an empty folder; the members of a .npz are unpacked into it, one by one.

    Raises:
        EvalkitError: no such file, another format, or contents that are not arrays.
    """
    readers = {".npz": _Npz, ".pt": _open_torch, ".pth": _open_torch, ".safetensors": _Safetensors}
    if path.suffix.lower() not in readers:
        raise EvalkitError(f"{path}: features are read from {SUFFIXES}, found {path.suffix or 'no suffix'}")
    if not path.is_file():
        raise EvalkitError(f"{path}: no such file")
    return readers[path.suffix.lower()](path, scratch)


class _Npz(Mapping[str, Any]):
    """The arrays of a .npz, each unpacked to the disk and mapped when it is looked up."""

    def __init__(self, path: Path, scratch: Path):
        self._path, self._scratch, self._opened = path, scratch, dict[str, np.ndarray]()
        with self._archive() as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        self._members = {member.filename.removesuffix(".npy"): member for member in members}
        if len(self._members) < len(members):
            names = [member.filename for member in members]
            twice = next(name for name in names if names.count(name) > 1)
            raise EvalkitError(f"{path}: two members named {twice!r}; make it again")

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._opened:
            self._opened[name] = self._unpack(self._members[name])
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def _unpack(self, member: zipfile.ZipInfo) -> np.ndarray:
        shown, unpacked = f"{self._path}[{member.filename}]", self._scratch / f"{len(self._opened)}.npy"
        with self._archive() as archive:
            with archive.open(member) as source:
                check_header(source, member.file_size, shown)
            require_space(self._scratch, member.file_size, shown)
            with archive.open(member) as source, open(unpacked, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        return open_array(unpacked, shown)

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        """The archive; what zipfile raises about a damaged one becomes one line."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except EvalkitError:
            raise
        except Exception as error:  # BadZipFile, zlib.error, NotImplementedError, RuntimeError (encrypted), OSError ...
            raise EvalkitError(f"{self._path}: not readable as .npz ({_why(error)})") from None


def require_space(folder: Path, size: int, shown: str) -> None:
    """Refuses what does not fit on the disk.

    Raises:
        EvalkitError: the message has both sizes.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise EvalkitError(f"{shown}: {size / 1e9:,.1f} GB, {folder} has {free / 1e9:,.1f} GB left; free some space")


def _why(error: Exception) -> str:
    """A library's error on one line, without the control characters that torch colours its texts with."""
    return "".join(each if each.isprintable() else "?" for each in one_line(error))


def _open_torch(path: Path, scratch: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own deprecated kinds of tensors
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # the file decides which of many exceptions it is
        # torch would check the sparse tensors of this file again when the next one is loaded
        getattr(torch._utils, "_sparse_tensors_to_validate", []).clear()
        raise EvalkitError(f"{path}: expected only tensors, as torch.save writes them ({_why(error)})") from None
    if not isinstance(loaded, dict):
        raise EvalkitError(f'{path}: holds {type(loaded).__name__}, expected {{"features": …, "labels": …}}')
    largest = path.stat().st_size
    content = {str(key): _tensor(value, f"{path}[{key}]", largest) for key, value in loaded.items()}
    if len(content) < len(loaded):
        raise EvalkitError(f"{path}: two keys that read alike; name each once")
    return content


def _is_zip(path: Path) -> bool:
    """Whether a file is of torch.save's format since 1.6, which can be mapped."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _tensor(value: Any, shown: str, largest: int) -> Any:
    """A tensor as an Array; other values as they are.

    Raises:
        EvalkitError: a tensor whose numbers are not all in the file, which could be of any size.
    """
    if not isinstance(value, torch.Tensor):
        return value
    if value.layout == torch.strided and value.numel() * value.element_size() > largest:
        raise EvalkitError(f"{shown}: {shortened(value.shape)} numbers in a file of {largest:,} bytes; save a copy")
    if value.ndim and value.layout != torch.strided and value.shape[-1] > _MOST_COLUMNS:
        raise EvalkitError(f"{shown}: sparse {shortened(value.shape)}, expected at most {_MOST_COLUMNS:,} columns")
    try:
        return TensorArray(value)
    except (RuntimeError, ValueError, TypeError) as error:
        raise EvalkitError(f"{shown}: not a tensor of numbers ({_why(error)})") from None


_MOST_COLUMNS = 1 << 24


class _Safetensors(Mapping[str, Any]):
    """The tensors of a .safetensors file, and of its header's texts those that are not named like a tensor."""

    def __init__(self, path: Path, scratch: Path):
        self._path, self._opened = path, dict[str, Any]()
        with self._file() as file:
            self._tensors, self._texts = list(file.keys()), file.metadata() or {}
        self._texts = {name: text for name, text in self._texts.items() if name not in self._tensors}

    def __getitem__(self, name: str) -> Any:
        if name in self._texts:
            return self._texts[name]
        if name not in self._tensors:
            raise KeyError(name)
        if name not in self._opened:
            with self._file() as file:
                self._opened[name] = TensorArray(file.get_tensor(name))
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._tensors, *self._texts])

    def __len__(self) -> int:
        return len(self._tensors) + len(self._texts)

    @contextmanager
    def _file(self) -> Iterator[Any]:
        try:
            with safe_open(self._path, framework="pt") as file:
                yield file
        except EvalkitError:
            raise
        except Exception as error:  # SafetensorError, OSError, and torch's about types that it lacks
            raise EvalkitError(f"{self._path}: not a safetensors file of tensors ({_why(error)})") from None


def read_text_rows(path: Path) -> np.ndarray:
    """The name of one split per row: an array in a .npy, or the lines of a text file.

    Raises:
        EvalkitError: no such file, or not text.
    """
    return open_array(path) if path.suffix == ".npy" else np.array(read_lines(path))


def read_label_rows(path: Path) -> np.ndarray:
    """One label per row: an array in a .npy, or the lines of a text file.

    Raises:
        EvalkitError: no such file, not text, or several columns.
    """
    return open_array(path) if path.suffix == ".npy" else read_labels(path)


def read_splits(path: Path, rows: int) -> tuple[np.ndarray, Splits]:
    """The row numbers in the order of their splits, and where each split then lies.

    Args:
        path: .json with {"train": [0, 50000], "test": [50000, 60000]}, or the name of a split per row (.npy, text).
        rows: how many rows there are.

    Raises:
        EvalkitError: not readable as one of these, another number of rows, or splits that overlap.
    """
    if path.suffix != ".json":
        return rows_by_split(read_text_rows(path), rows, str(path))
    try:
        ranges = json.loads("\n".join(read_lines(path)))
    except (ValueError, RecursionError) as error:
        raise EvalkitError(f"{path}: not readable as JSON ({_why(error)})") from None
    return rows_by_split(ranges if isinstance(ranges, dict) else {}, rows, str(path))
