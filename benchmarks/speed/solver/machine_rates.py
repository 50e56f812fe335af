"""The rates of this machine in the same run: matrix products and memory reads, to put the seconds in context."""

from collections.abc import Callable
from typing import Any

import torch
from results_table import timed

from evalkit.solver.passes import fastest_matrix_product


def measure_rates(dimensions: int) -> dict[str, float]:
    """GFLOP/s of float32 products of 2,048 rows with 10 and 70 columns and with themselves; GB/s of memory reads."""
    product = fastest_matrix_product(torch.device("cpu"))
    rows = torch.randn(2048, dimensions)
    rates = {}
    for name, columns in (("10 columns", 10), ("70 columns", 70), ("square", 2048)):
        other = torch.randn(columns, dimensions)
        seconds = _least(lambda other=other: product(rows, other))
        rates[f"GFLOP/s, {product.name}, {name}"] = 2e-9 * 2048 * dimensions * columns / seconds
    rates["GB/s read"] = 4e-9 * rows.numel() / _least(rows.sum)
    return rates


def _least(action: Callable[[], Any]) -> float:
    """The least wall seconds of three runs."""
    seconds = []
    for _ in range(3):
        with timed() as spent:
            action()
        seconds.append(spent()[0])
    return min(seconds)
