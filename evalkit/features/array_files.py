"""Arrays in other people's files, opened without reading them whole: .npy, .npz, .pt, .safetensors; labels as text.

No pickle is loaded. `importing.py` makes a feature set of what is found here.
"""

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from evalkit.errors import EvalkitError
from evalkit.features.arrays import Splits, as_array, rows_by_split

SUFFIXES = ".npy, .npz, .pt, .pth or .safetensors"


class TensorArray:
    """A tensor, possibly mapped from its file, as an `arrays.Array`; bfloat16, which NumPy lacks, becomes float32."""

    def __init__(self, tensor: torch.Tensor):
        self._tensor = tensor.detach()
        self.shape = tuple(tensor.shape)
        self.dtype = as_array(self._tensor[:0]).dtype if tensor.ndim else np.dtype("float32")

    def __getitem__(self, rows: Any) -> np.ndarray:
        return as_array(self._tensor[torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows])


def open_array(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped.

    Raises:
        EvalkitError: no such file, no .npy, or an array of Python objects, which would be a pickle.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise EvalkitError(f"{path}: not a NumPy array of plain numbers or text ({_first_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise EvalkitError(f"{path}: an archive of arrays named .npy; rename it to .npz")
    return array


def open_bundle(path: Path, scratch: Path) -> dict[str, Any]:
    """The contents of a .npz, .pt or .safetensors file by name: arrays (large ones not in memory) and small values.

    Args:
        path: the file.
        scratch: an empty folder; the members of a .npz are unpacked into it, one by one.

    Raises:
        EvalkitError: no such file, another format, or contents that are not arrays.
    """
    readers = {".npz": _open_npz, ".pt": _open_torch, ".pth": _open_torch, ".safetensors": _open_safetensors}
    if path.suffix not in readers:
        raise EvalkitError(f"{path}: features are read from {SUFFIXES}, found {path.suffix or 'no suffix'}")
    if not path.is_file():
        raise EvalkitError(f"{path}: no such file")
    return readers[path.suffix](path, scratch)


def _open_npz(path: Path, scratch: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for number, member in enumerate(name for name in archive.namelist() if name.endswith(".npy")):
                unpacked = scratch / f"{number}.npy"
                with archive.open(member) as source, open(unpacked, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                try:
                    arrays[member.removesuffix(".npy")] = open_array(unpacked)
                except EvalkitError as error:
                    raise EvalkitError(f"{path}[{member}]{str(error).removeprefix(str(unpacked))}") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise EvalkitError(f"{path}: not readable as .npz ({_first_line(error)})") from None
    return arrays


def _open_torch(path: Path, scratch: Path) -> dict[str, Any]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise EvalkitError(f"{path}: expected only tensors, as torch.save writes them ({_first_line(error)})") from None
    if not isinstance(loaded, dict):
        raise EvalkitError(f'{path}: holds {type(loaded).__name__}, expected {{"features": …, "labels": …}}')
    return {str(k): TensorArray(v) if isinstance(v, torch.Tensor) else v for k, v in loaded.items()}


def _open_safetensors(path: Path, scratch: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            arrays: dict[str, Any] = {name: TensorArray(file.get_tensor(name)) for name in file.keys()}
            return arrays | (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise EvalkitError(f"{path}: not a safetensors file ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_text_rows(path: Path) -> np.ndarray:
    """One label, or the name of one split, per row: an array in a .npy, or the lines of a text file.

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
        raise EvalkitError(f"{path}: neither .npy nor text with one line per row") from None


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
        ranges = json.loads(path.read_text())
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise EvalkitError(f"{path}: not readable as JSON ({error})") from None
    return rows_by_split(ranges if isinstance(ranges, dict) else {}, rows, str(path))
