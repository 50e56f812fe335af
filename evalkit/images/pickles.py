"""Arrays out of a pickle without running it: every class and function it names is refused or replaced by a stand-in.

A pickle is a program. Python's unpickler runs it, but what it may call is what `find_class` returns: here only records
of arguments, from which the arrays are then built with checks. Used for the pickled batches of downsampled ImageNet.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError

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
        """The array, if the pickle's claims about it hold together; else ValueError."""
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
    found = _Array()
    found.content, found.dtype, found.shape, found.fortran = content, dtype, shape, order == "F"
    return found


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
        """The stand-in for a name, or a refusal: nothing is imported."""
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place among arrays")
        return _STAND_INS[module, name]


def read_pickled_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays, and lists of whole numbers as arrays, in a pickled dict; other entries are left out.

    Raises:
        EvalkitError: no pickle, cut short, or one that names anything but numpy's arrays.
    """
    try:
        found = _Reader(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, expected a dict")
        named = {key.decode("ascii") if isinstance(key, bytes) else key: value for key, value in found.items()}
        arrays = {key: value.array() for key, value in named.items() if isinstance(value, _Array)}
        for key, value in named.items():
            if isinstance(value, list) and all(type(item) is int for item in value):
                arrays[key] = np.array(value, np.int64)
    except OSError:
        raise
    except Exception as error:  # a hostile pickle can fail in any way; it cannot do more than fail
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EvalkitError(f"{path}: not read as a pickled batch ({reason}); expected a dict of arrays") from None
    return arrays
