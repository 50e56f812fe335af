"""Refuses features that no fit can use: NaN, infinite, or so large that float32 overflows. Used by path and fit."""

import numpy as np
import torch
from torch import Tensor

from evalkit.probes.l2svm.problem import InputError
from evalkit.probes.l2svm.rows import Rows

_LARGEST = 1e18  # squares of larger values, summed over features, leave float32


def check_finite(rows: Rows, numbers: np.ndarray | None = None) -> Tensor:
    """Squared length of each row (N,); refuses NaN, infinite and overflowing features, naming the place.

    `numbers` are the rows' own, where they were chosen out of more.
    """
    lengths = torch.empty(rows.count, dtype=rows.dtype, device=rows.device)
    for where, chunk in rows.chunks():
        lengths[where] = torch.linalg.vector_norm(chunk, dim=1)
        if not torch.isfinite(lengths[where]).all() or lengths[where].max() > _LARGEST:
            _refuse(chunk, np.arange(rows.count)[where] if numbers is None else numbers[where])
    return lengths.square_()


def _refuse(chunk: Tensor, numbers: np.ndarray) -> None:
    bad = (~torch.isfinite(chunk)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        kind = "NaN" if chunk[row, column].isnan() else "infinity"
        raise InputError(f"features row {numbers[row]}, column {column} is {kind}; remove or mend that row")
    row, column = divmod(int(chunk.abs().argmax()), chunk.shape[1])
    raise InputError(
        f"features row {numbers[row]}, column {column} is {chunk[row, column]:.3g}: float32 overflows in the products; "
        "divide the features by a constant (and multiply C by its square)"
    )
