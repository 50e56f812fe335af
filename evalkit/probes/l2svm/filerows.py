"""Rows of a memory-mapped file, read in slabs, the next one while this one is in use. Used by rows and opening."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.probes.l2svm.problem import InputError

SLAB_BYTES = 64 << 20  # read from a file at a time: long enough to stream, and two of them are little memory


class FileRows:
    """Rows of a C-contiguous array in a file, read in slabs, each while the one before is in use.

    Args:
        array: (N, D) memory map; only its place in the file is used, so its pages do not fill memory.
        rows: sorted numbers of the rows wanted.
        dtype: to give them in.
    """

    def __init__(self, array: np.memmap, rows: np.ndarray, dtype: torch.dtype) -> None:
        self.path, self.offset = _place(array)
        self.kind, self.features = array.dtype, array.shape[1]
        self.rows = rows
        self.dtype = dtype
        self.slab = max(1, SLAB_BYTES // (self.features * self.kind.itemsize))

    def slabs(self) -> Iterator[Tensor]:
        """All rows in order, a slab at a time; a thread reads the next one meanwhile."""
        parts = [self.rows[start : start + self.slab] for start in range(0, len(self.rows), self.slab)]
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(self.read, part) for part in parts[:1]]
            for number in range(len(parts)):
                slab = coming.pop().result()
                coming = [reader.submit(self.read, part) for part in parts[number + 1 : number + 2]]
                yield slab

    def read(self, rows: np.ndarray) -> Tensor:
        """The rows with these sorted numbers."""
        chosen = np.empty((len(rows), self.features), self.kind)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        with open(self.path, "rb", buffering=0) as file:
            for run in np.split(np.arange(len(rows)), breaks):
                if len(run):
                    self._read_run(file, int(rows[run[0]]), chosen[run[0] : run[-1] + 1])
        return torch.from_numpy(chosen).to(self.dtype)

    def _read_run(self, file: Any, first: int, into: np.ndarray) -> None:
        width = self.features * self.kind.itemsize
        file.seek(self.offset + first * width)
        view = into.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise InputError(
                    f"{self.path}: ends inside row {first + done // width} of the features; the file was cut short, "
                    "make it anew"
                )
            done += count


def _place(array: np.memmap) -> tuple[Path, int]:
    """File of a memory map, or of a view of one, and where in it the view starts."""
    root: Any = array
    while isinstance(root.base, np.memmap):
        root = root.base
    start = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return Path(root.filename), root.offset + start
