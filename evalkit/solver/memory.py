"""What a fit of the block solver keeps in memory, and how to divide a stated budget. Used by path."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evalkit.solver.problem import InputError
from evalkit.solver.rows import SLAB_BYTES

SAMPLE_ROWS = 6000  # of the sampled Hessian: its Gram matrix costs as much as about 10 passes, and saves half of them
_LEAST_SAMPLE = 500  # cheaper than one pass whatever the features
_PER_FEATURE = 10  # sampled rows a feature from which a sampled Hessian is nearly exact
GROUP_COLUMNS = 100  # columns a group in memory: beyond it passes gain no rate, and a span of one class no directions
_LIBRARY_BYTES = 600_000_000  # Python, torch, scikit-learn and their buffers, as measured
_VECTORS = 36  # weight-sized vectors a column: ten pairs of history, the state, a step's temporaries
_ROW_VALUES = 10  # values a row and column: signs, costs, scores and a step's temporaries
_ACTIVE = 0.45  # largest share of active rows seen in a column, for the size of its factor
_DRAWS_BYTES = 4_000_000_000  # for label draws when no budget is given: 100 draws of 1,000 rows of 28,672 are read once
_FEW_MATRICES = 5  # float64 (N, N) matrices of the kernel solver: the Gram matrix, a copy, factors
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Plan:
    """How a fit uses memory.

    Attributes:
        resident: rows kept in memory, or None for all; the others stream from their file.
        sample: rows of the sampled Hessian.
        group: columns solved together.
    """

    resident: int | None
    sample: int
    group: int


def parse_memory(memory: int | str | None) -> int | None:
    """Bytes from a number or a text such as "4GB" or "512 MiB"."""
    if memory is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", str(memory).upper())
    unit = (match[2] + "B" if match[2] in ("K", "M", "G") else match[2]) if match else ""
    if match is None or unit not in _UNITS:
        raise InputError(f"memory {memory!r} is no size; write it like 4GB, 512MB or 2GiB")
    return int(float(match[1]) * _UNITS[unit])


def plan_memory(
    rows: int, features: int, columns: int, classes: int, *, stored: torch.dtype, memory: int | None
) -> Plan:
    """Everything in memory when it fits the budget (or none is given), else all columns at once over streamed rows."""
    balanced = round(2 * (12 * rows * features) ** (1 / 3))  # factoring half of it costs as much as an iteration
    most = min(SAMPLE_ROWS, rows, max(_LEAST_SAMPLE, min(_PER_FEATURE * features, balanced)))
    group = max(classes, GROUP_COLUMNS // classes * classes)
    row_bytes = features * stored.itemsize
    if memory is None or _fixed(rows, features, min(group, columns), most, row_bytes) + rows * row_bytes <= memory:
        return Plan(None, most, group)
    least = 0
    for sample in (most, most // 2, most // 4):
        least = _fixed(rows, features, columns, sample, row_bytes) + 3 * SLAB_BYTES
        if least <= memory:
            return Plan(min(rows, (memory - least) // row_bytes), sample, columns)
    raise InputError(
        f"memory budget {memory / 1e9:.2f} GB: {columns} problems on {rows} x {features} features need at least "
        f"{least / 1e9:.2f} GB; raise it, or fit fewer C values at a time"
    )


def _fixed(rows: int, features: int, columns: int, sample: int, row_bytes: int) -> int:
    """Bytes needed beside the rows themselves."""
    vectors = columns * 4 * (_VECTORS * features + _ROW_VALUES * rows)
    factors = 4 * sample * sample + columns * 4 * int(_ACTIVE * sample) ** 2
    return _LIBRARY_BYTES + vectors + factors + sample * row_bytes


def group_subsets(
    subsets: Sequence[np.ndarray], features: int, columns: int, *, row_bytes: int, threads: int, memory: int | None
) -> list[list[np.ndarray]]:
    """Consecutive draws whose distinct rows and weights fit the budget together; each group reads a row once.

    Args:
        draws: row numbers of each draw.
        features: D.
        columns: problems of a draw.
        row_bytes: of a stored row.
        threads: draws solved at a time, each on float32 rows of its own.
        memory: the budget in bytes, 4 GB when None.
    """
    memory = _DRAWS_BYTES if memory is None else memory
    most = max(len(draw) for draw in subsets)
    fixed = _LIBRARY_BYTES + 4 * SLAB_BYTES + threads * (4 * most * features + 8 * _FEW_MATRICES * most * most)
    groups: list[list[np.ndarray]] = []
    rows = np.empty(0, np.int64)
    for draw in subsets:
        together = np.union1d(rows, draw)
        members = len(groups[-1]) + 1 if groups else 1
        if groups and fixed + len(together) * row_bytes + 8 * members * columns * features <= memory:
            groups[-1].append(draw)
            rows = together
            continue
        least = fixed + len(draw) * row_bytes + 8 * columns * features
        if least > memory:
            raise InputError(
                f"memory budget {memory / 1e9:.2f} GB: draws of {most} x {features} features need at least "
                f"{least / 1e9:.2f} GB; raise it"
            )
        groups.append([draw])
        rows = np.unique(draw)
    return groups
