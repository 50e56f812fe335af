"""Products of the feature matrix with many weight vectors at once: the passes over all rows that a solver makes.

A weight vector has one entry per feature and, with an intercept, one more for the constant feature. float32 products
use the fastest accurate implementation on this machine: torch's default on a CPU is MKL's, which on some processors
runs at half the rate of oneDNN's. A check of a few milliseconds on first use decides, on speed and on float32 accuracy.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.runtime import Ranks
from evalkit.solver.rows import FeatureRows

Product = Callable[[Tensor, Tensor], Tensor]
_BENCHMARK_SHAPE = (256, 8192, 16)  # rows, features, problems: skinny like a pass, small enough to check in 20 ms
_BENCHMARK_REPEATS = 7
_MAX_ERROR_RATIO = 4.0  # to the default's error: rules out bfloat16 (100 times), but not another order of summation


class FeatureMatrix:
    """Products with the feature matrix X (N, D), which includes the constant column if there is an intercept.

    Args:
        rows: this rank's rows of X.
        intercept_scaling: value of the constant feature, or None without an intercept.
        ranks: the processes that share the rows of X.

    Attributes:
        num_weights: length of a weight vector, D or D + 1.
        num_passes: passes made so far.
    """

    def __init__(self, rows: FeatureRows, *, intercept_scaling: float | None, ranks: Ranks | None = None) -> None:
        self.rows = rows
        self.intercept_scaling = intercept_scaling
        self.ranks = ranks or Ranks()
        self.num_weights = rows.num_features + (intercept_scaling is not None)
        self.product = fastest_matrix_product(rows.device)
        self.num_passes = 0

    def scores(self, weights: Tensor) -> Tensor:
        """X @ weights.T for this rank's rows: (P, D or D + 1) to (N, P), in the type of the arithmetic."""
        self.num_passes += 1
        feature_weights = weights[:, : self.rows.num_features].contiguous()
        scores = weights.new_empty(self.rows.num_rows, len(weights))

        def multiply(worker: int, where: slice, chunk: Tensor) -> None:
            scores[where] = self.product(chunk, feature_weights)

        self.rows.for_each(multiply, len(weights))
        if self.intercept_scaling is not None:
            scores += self.intercept_scaling * weights[:, -1]
        return scores

    def weighted_rows(self, coefficients: Tensor) -> Tensor:
        """coefficients.T @ X, summed over all ranks: (N, P) to (P, D or D + 1), in the type of the arithmetic."""
        self.num_passes += 1
        transposed = coefficients.T.contiguous()
        totals = transposed.new_zeros(self.rows.num_workers, len(transposed), self.num_weights)

        def accumulate(worker: int, where: slice, chunk: Tensor) -> None:
            totals[worker, :, : self.rows.num_features] += self.product(transposed[:, where], chunk.T)

        self.rows.for_each(accumulate, len(transposed))
        total = totals.sum(0) if len(totals) > 1 else totals[0]
        if self.intercept_scaling is not None:
            total[:, -1] = self.intercept_scaling * transposed.sum(1)
        return self.ranks.sum(total)


def _default_product(left: Tensor, right: Tensor) -> Tensor:
    return left @ right.T


def _onednn_product(left: Tensor, right: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")


PRODUCTS: dict[str, Product] = {"default": _default_product, "onednn": _onednn_product}


@dataclass(frozen=True)
class MatrixProduct:
    """The implementation chosen to compute `left @ right.T`, with the measurements behind the choice.

    Attributes:
        name: a key of PRODUCTS.
        gflops: measured rate of each implementation that ran, in 1e9 operations per second, on a skinny product.
        errors: largest error of each implementation relative to the largest entry of the float64 product.
    """

    name: str
    gflops: dict[str, float]
    errors: dict[str, float]

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        """`left @ right.T` for matrices (a, c) and (b, c); the default outside float32 on a CPU."""
        on_cpu = left.dtype == torch.float32 and left.device.type == "cpu"
        return (PRODUCTS[self.name] if on_cpu else _default_product)(left, right)


def fastest_matrix_product(device: torch.device) -> MatrixProduct:
    """The fastest product with float32 accuracy, measured once for each device type and thread count."""
    return _benchmark_products(device.type, torch.get_num_threads())


@functools.cache
def _benchmark_products(device_type: str, threads: int) -> MatrixProduct:
    if device_type != "cpu":
        return MatrixProduct("default", {}, {})
    generator = torch.Generator().manual_seed(0)
    rows, features, problems = _BENCHMARK_SHAPE
    left = torch.randn(rows, features, generator=generator)
    right = torch.randn(problems, features, generator=generator)
    exact = left.double() @ right.double().T
    gflops, errors = {}, {}
    for name, product in PRODUCTS.items():
        try:
            seconds = min(_seconds(product, left, right) for _ in range(_BENCHMARK_REPEATS))
            error = (product(left, right).double() - exact).abs().max() / exact.abs().max()
        except (AttributeError, RuntimeError, NotImplementedError):  # a private operator: may be gone, or changed
            continue
        gflops[name] = 2e-9 * rows * features * problems / seconds
        errors[name] = float(error)
    accurate = [name for name in gflops if errors[name] <= _MAX_ERROR_RATIO * errors["default"]]
    return MatrixProduct(max(accurate, key=lambda name: gflops[name]), gflops, errors)


def _seconds(product: Product, left: Tensor, right: Tensor) -> float:
    """CPU seconds per thread, which a busy machine affects less than wall time."""
    start = time.process_time()
    product(left, right)
    return max(time.process_time() - start, 1e-9) / torch.get_num_threads()
