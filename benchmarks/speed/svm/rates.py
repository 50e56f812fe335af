"""What this machine does in this run: rates of matrix products and of reading memory, to judge seconds by."""

from collections.abc import Callable
from typing import Any

import torch
from table import timed

from evalkit.solver.passes import matrix_path


def rates(dimensions: int) -> dict[str, float]:
    """GFLOP/s of float32 products of 2,048 rows with 10 and 70 columns and with themselves; GB/s read."""
    path = matrix_path(torch.device("cpu"))
    rows = torch.randn(2048, dimensions)
    found = {}
    for name, columns in (("10 columns", 10), ("70 columns", 70), ("square", 2048)):
        other = torch.randn(columns, dimensions)
        seconds = _least(lambda other=other: path(rows, other))
        found[f"GFLOP/s, {path.name}, {name}"] = 2e-9 * 2048 * dimensions * columns / seconds
    found["GB/s read"] = 4e-9 * rows.numel() / _least(rows.sum)
    return found


def _least(action: Callable[[], Any]) -> float:
    """Wall seconds, the least of three."""
    seconds = []
    for _ in range(3):
        with timed() as spent:
            action()
        seconds.append(spent()[0])
    return min(seconds)
