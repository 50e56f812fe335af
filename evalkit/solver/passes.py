"""Passes over all rows: scores of many columns at once, and the sums over rows that gradients need.

A weight vector has one entry a feature and, with an intercept, one more for the constant feature.

Float32 matrix products on the fastest path this machine has, and passes over rows built from them.

torch's default float32 product on a CPU is MKL's, which on some processors runs at half the rate of oneDNN's. Which
is faster, and whether its error is float32's, is found by a check of a few milliseconds when first needed.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.runtime import Ranks
from evalkit.solver.rows import Rows


class FeatureMatrix:
    """Products of the feature matrix X (N, D), with its constant column if any, by blocks of columns.

    Args:
        rows: this rank's rows of X.
        constant: value of the constant feature (intercept_scaling), or None without an intercept.
        ranks: the processes among which the rows of X are divided.

    Attributes:
        width: length of a weight vector, D or D + 1.
        count: passes made so far.
    """

    def __init__(self, rows: Rows, *, constant: float | None, ranks: Ranks | None = None) -> None:
        self.rows = rows
        self.constant = constant
        self.ranks = ranks or Ranks()
        self.width = rows.features + (constant is not None)
        self.product = matrix_path(rows.device)
        self.count = 0

    def scores(self, weights: Tensor) -> Tensor:
        """X @ weights.T of this rank's rows: (columns, width) to (N, columns), in the type of the arithmetic."""
        self.count += 1
        features = weights[:, : self.rows.features].contiguous()
        scores = weights.new_empty(self.rows.count, len(weights))

        def work(worker: int, where: slice, chunk: Tensor) -> None:
            scores[where] = self.product(chunk, features)

        self.rows.for_each(work, len(weights))
        if self.constant is not None:
            scores += self.constant * weights[:, -1]
        return scores

    def weighted_rows(self, coefficients: Tensor) -> Tensor:
        """coefficients.T @ X over all ranks: (N, columns) to (columns, width), in the type of the arithmetic."""
        self.count += 1
        across = coefficients.T.contiguous()
        totals = across.new_zeros(self.rows.workers, len(across), self.width)

        def work(worker: int, where: slice, chunk: Tensor) -> None:
            totals[worker, :, : self.rows.features] += self.product(across[:, where], chunk.T)

        self.rows.for_each(work, len(across))
        total = totals.sum(0) if len(totals) > 1 else totals[0]
        if self.constant is not None:
            total[:, -1] = self.constant * across.sum(1)
        return self.ranks.sum(total)


Product = Callable[[Tensor, Tensor], Tensor]
_CHECK_SHAPE = (256, 8192, 16)  # rows, features, columns: skinny like a pass, small enough to check in 20 ms
_CHECK_REPEATS = 7
_ERROR_ALLOWED = 4.0  # times the default path's error: rules out bfloat16 (100 times), not another order of sums


def _default(left: Tensor, right: Tensor) -> Tensor:
    return left @ right.T


def _onednn(left: Tensor, right: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")


PRODUCTS: dict[str, Product] = {"default": _default, "onednn": _onednn}


@dataclass(frozen=True)
class MatrixPath:
    """The chosen way to compute `left @ right.T`, with what the check saw.

    Attributes:
        name: a key of PRODUCTS.
        gflops: measured rate of each way that ran, 1e9 operations a second, on a skinny product.
        errors: largest error of each way relative to the largest entry of the float64 product.
    """

    name: str
    gflops: dict[str, float]
    errors: dict[str, float]

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        """`left @ right.T` for float32 matrices (a, c) and (b, c)."""
        product = PRODUCTS[self.name] if left.dtype == torch.float32 and left.device.type == "cpu" else _default
        return product(left, right)


def matrix_path(device: torch.device) -> MatrixPath:
    """The fastest product whose error is float32's, measured once for each device type and thread count."""
    return _checked_path(device.type, torch.get_num_threads())


@functools.cache
def _checked_path(device_type: str, threads: int) -> MatrixPath:
    if device_type != "cpu":
        return MatrixPath("default", {}, {})
    generator = torch.Generator().manual_seed(0)
    rows, features, columns = _CHECK_SHAPE
    left = torch.randn(rows, features, generator=generator)
    right = torch.randn(columns, features, generator=generator)
    exact = left.double() @ right.double().T
    gflops, errors = {}, {}
    for name, product in PRODUCTS.items():
        try:
            seconds = min(_seconds(product, left, right) for _ in range(_CHECK_REPEATS))
            error = (product(left, right).double() - exact).abs().max() / exact.abs().max()
        except (AttributeError, RuntimeError, NotImplementedError):  # a private operator: may be gone, or changed
            continue
        gflops[name] = 2e-9 * rows * features * columns / seconds
        errors[name] = float(error)
    sound = [name for name in gflops if errors[name] <= _ERROR_ALLOWED * errors["default"]]
    return MatrixPath(max(sound, key=lambda name: gflops[name]), gflops, errors)


def _seconds(product: Product, left: Tensor, right: Tensor) -> float:
    """CPU seconds a thread, which a busy machine lengthens less than it does wall time."""
    start = time.process_time()
    product(left, right)
    return max(time.process_time() - start, 1e-9) / torch.get_num_threads()
