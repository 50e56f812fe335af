"""Arrays in other people's files, opened without being read: .npy, .npz, .pt, .safetensors. No pickle is loaded."""

import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from evalkit.errors import EvalkitError

FORMS = ".npy, .npz, .pt, .pth or .safetensors"


class Array(Protocol):
    """What is asked of an array: its shape, and numbers for a slice or an array of row numbers."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


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
