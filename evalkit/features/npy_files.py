"""Other people's .npy files: the header is compared with the file's size before anything is mapped or unpacked.

NumPy only. `array_files.py` opens archives of such arrays, `featureset.py` those of feature sets.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError, one_line

_NO_ARRAY = "not a NumPy array of plain numbers or text"


def open_array(path: Path, shown: str = "") -> np.ndarray:
    """The array of a .npy file, memory-mapped.

    Args:
        path: the file.
        shown: what error messages call it; by default its path.

    Raises:
        EvalkitError: no such file, no .npy, a header that promises more than the file holds, or an array of Python
            objects, which would be a pickle.
    """
    shown = shown or str(path)
    if not path.is_file():
        raise EvalkitError(f"{shown}: no such file")
    with path.open("rb") as file:
        check_header(file, path.stat().st_size, shown)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise EvalkitError(f"{shown}: {_NO_ARRAY} ({ascii(one_line(error))[1:-1]})") from None


def check_header(file: Any, size: int, shown: str) -> None:
    """Reads a .npy file's header and compares the array with the file's size, before anything is mapped or unpacked.

    Raises:
        EvalkitError: no .npy, an array of Python objects, or another size.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
        shape, _, dtype = read(file)
    except Exception as error:  # a header is parsed as Python: SyntaxError, RecursionError, TokenError and others
        raise EvalkitError(f"{shown}: {_NO_ARRAY} ({ascii(one_line(error))[1:-1]})") from None
    if dtype.hasobject:
        raise EvalkitError(f"{shown}: {_NO_ARRAY} but Python objects; save it as an array of numbers or text")
    if any(side < 0 for side in shape) or dtype.itemsize == 0:
        raise EvalkitError(f"{shown}: {_NO_ARRAY} but {dtype} of shape {shape}"[:300])
    expected = math.prod(shape) * dtype.itemsize + file.tell()
    if expected != size:
        raise EvalkitError(
            f"{shown}: {size:,} bytes, its header says {dtype} {shortened(shape)}, which are {expected:,}; "
            "cut short or damaged, make it again"
        )


def shortened(shape: Sequence[int]) -> str:
    return " x ".join(f"{side:,}" for side in shape)[:100]
