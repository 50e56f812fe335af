"""Counts the operations and bytes of a fit's products with rows, to compare with the rates of the machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from torch import Tensor

from evalkit.solver.passes import FeatureMatrix


@dataclass
class ProductTotals:
    """Totals over all products of rows with weight vectors, including those of the sampled rows.

    Attributes:
        operations: number of additions and multiplications.
        row_bytes: bytes of the rows as stored, read once per product.
        columns: number of weight vectors.
        products: number of products.
    """

    operations: float = 0.0
    row_bytes: float = 0.0
    columns: int = 0
    products: int = 0

    def add(self, matrix: FeatureMatrix, columns: int) -> None:
        """Adds one product of all rows with `columns` weight vectors."""
        rows = matrix.rows
        self.operations += 2.0 * rows.num_rows * rows.num_features * columns
        self.row_bytes += float(rows.num_rows * rows.num_features * rows.stored.itemsize)
        self.columns += columns
        self.products += 1


@contextmanager
def count_products() -> Iterator[ProductTotals]:
    """Counts the products that this process computes inside the block."""
    totals, scores, weighted = ProductTotals(), FeatureMatrix.scores, FeatureMatrix.weighted_rows

    def counted_scores(self: FeatureMatrix, weights: Tensor) -> Tensor:
        totals.add(self, len(weights))
        return scores(self, weights)

    def counted_rows(self: FeatureMatrix, coefficients: Tensor) -> Tensor:
        totals.add(self, coefficients.shape[1])
        return weighted(self, coefficients)

    with (
        patch.object(FeatureMatrix, "scores", counted_scores),
        patch.object(FeatureMatrix, "weighted_rows", counted_rows),
    ):
        yield totals
