"""What a fit keeps in memory, and how a memory budget is divided between resident rows, sampled rows and problems.

`fit` asks for a plan before it opens the features; `subsets` asks which label subsets can share one read of their rows.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evalkit.solver.problem import InputError
from evalkit.solver.rows import SLAB_BYTES

MAX_SAMPLE_ROWS = 6000  # of the sampled Hessian: its Gram matrix costs about 10 passes, and saves half of the passes
GROUP_PROBLEMS = 100  # problems per group in memory: more add no rate to passes and no directions to a class's subspace
_MIN_SAMPLE_ROWS = 500  # cheaper than one pass for any features
_SAMPLE_ROWS_PER_FEATURE = 10  # from here on a sampled Hessian is nearly exact
_LIBRARY_BYTES = 600_000_000  # Python, torch, scikit-learn and their buffers, as measured
_VECTORS_PER_PROBLEM = 36  # weight-sized vectors: ten L-BFGS pairs, the iterate, a step's temporaries
_VALUES_PER_ROW = 10  # per row and problem: signs, costs, scores and a step's temporaries
_ACTIVE_SHARE = 0.45  # largest share of active rows seen in a problem, which gives the size of its factor
_DEFAULT_SUBSETS_BYTES = 4_000_000_000  # without a budget: 100 subsets of 1,000 x 28,672 features are read once
_DUAL_MATRICES = 5  # float64 (N, N) matrices of the dual solver: the Gram matrix, a copy, factors
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class MemoryPlan:
    """How a fit uses memory.

    Attributes:
        resident_rows: number of rows kept in memory, None for all; the others stream from their file.
        sample_rows: number of rows of the sampled Hessian.
        group_size: number of binary problems solved together.
    """

    resident_rows: int | None
    sample_rows: int
    group_size: int


def parse_memory(memory: int | str | None) -> int | None:
    """Bytes from a number or a string such as "4GB" or "512 MiB"."""
    if memory is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", str(memory).upper())
    unit = (match[2] + "B" if match[2] in ("K", "M", "G") else match[2]) if match else ""
    if match is None or unit not in _UNITS:
        raise InputError(f"memory {memory!r} is not a size; write it like 4GB, 512MB or 2GiB")
    return int(float(match[1]) * _UNITS[unit])


def plan_memory(
    rows: int, num_features: int, problems: int, classes: int, *, stored: torch.dtype, memory: int | None
) -> MemoryPlan:
    """Keeps all rows in memory if they fit the budget (or there is none), else solves all problems over streamed rows.

    Args:
        rows, num_features: N and D of the training rows.
        problems: binary problems of all C values.
        classes: binary problems per C.
        stored: type the rows are stored in.
        memory: the budget in bytes, or None.
    """
    balanced = round(2 * (12 * rows * num_features) ** (1 / 3))  # factoring half of it costs as much as an iteration
    most = min(MAX_SAMPLE_ROWS, rows, max(_MIN_SAMPLE_ROWS, min(_SAMPLE_ROWS_PER_FEATURE * num_features, balanced)))
    group_size = max(classes, GROUP_PROBLEMS // classes * classes)
    row_bytes = num_features * stored.itemsize
    least = _fixed_bytes(rows, num_features, min(group_size, problems), most, row_bytes) + rows * row_bytes
    if memory is None or least <= memory:
        return MemoryPlan(None, most, group_size)
    for sample in (most, most // 2, most // 4):
        least = _fixed_bytes(rows, num_features, problems, sample, row_bytes) + 3 * SLAB_BYTES
        if least <= memory:
            return MemoryPlan(min(rows, (memory - least) // row_bytes), sample, problems)
    raise InputError(
        f"memory budget {memory / 1e9:.2f} GB: {problems} problems on {rows} x {num_features} features need at least "
        f"{least / 1e9:.2f} GB; raise it, or fit fewer C values at a time"
    )


def _fixed_bytes(rows: int, num_features: int, problems: int, sample: int, row_bytes: int) -> int:
    """Bytes needed in addition to the rows themselves."""
    vectors = problems * 4 * (_VECTORS_PER_PROBLEM * num_features + _VALUES_PER_ROW * rows)
    factors = 4 * sample * sample + problems * 4 * int(_ACTIVE_SHARE * sample) ** 2
    return _LIBRARY_BYTES + vectors + factors + sample * row_bytes


def group_subsets(
    subsets: Sequence[np.ndarray], num_features: int, problems: int, *, row_bytes: int, threads: int, memory: int | None
) -> list[list[np.ndarray]]:
    """Groups of consecutive subsets whose distinct rows and weights fit the budget together; a group reads a row once.

    Args:
        subsets: row indices of each label subset.
        num_features: D.
        problems: binary problems per subset.
        row_bytes: size of a stored row.
        threads: subsets solved at the same time, each on its own float32 copy of its rows.
        memory: the budget in bytes, 4 GB if None.
    """
    memory = _DEFAULT_SUBSETS_BYTES if memory is None else memory
    largest = max(len(subset) for subset in subsets)
    per_thread = 4 * largest * num_features + 8 * _DUAL_MATRICES * largest * largest
    fixed = _LIBRARY_BYTES + 4 * SLAB_BYTES + threads * per_thread
    groups: list[list[np.ndarray]] = []
    rows = np.empty(0, np.int64)
    for subset in subsets:
        together = np.union1d(rows, subset)
        members = len(groups[-1]) + 1 if groups else 1
        if groups and fixed + len(together) * row_bytes + 8 * members * problems * num_features <= memory:
            groups[-1].append(subset)
            rows = together
            continue
        least = fixed + len(subset) * row_bytes + 8 * problems * num_features
        if least > memory:
            raise InputError(
                f"memory budget {memory / 1e9:.2f} GB: subsets of {largest} x {num_features} features need at least "
                f"{least / 1e9:.2f} GB; raise it"
            )
        groups.append([subset])
        rows = np.unique(subset)
    return groups
