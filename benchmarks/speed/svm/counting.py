"""What a fit asked of the machine: the operations and bytes of its products with rows, to hold against its rates."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from torch import Tensor

from evalkit.solver.passes import FeatureMatrix


@dataclass
class Work:
    """Of all products of rows with columns, the sample's included.

    Attributes:
        operations: additions and multiplications.
        row_bytes: of the rows as stored, read once a product.
        columns: of all products together.
        products: their number.
    """

    operations: float = 0.0
    row_bytes: float = 0.0
    columns: int = 0
    products: int = 0

    def add(self, passes: FeatureMatrix, columns: int) -> None:
        """One product of all rows with so many columns."""
        rows = passes.rows
        self.operations += 2.0 * rows.count * rows.features * columns
        self.row_bytes += float(rows.count * rows.features * rows.stored.itemsize)
        self.columns += columns
        self.products += 1


@contextmanager
def counted() -> Iterator[Work]:
    """Counts the products made meanwhile in this process."""
    work, scores, weighted = Work(), FeatureMatrix.scores, FeatureMatrix.weighted_rows

    def counted_scores(self: FeatureMatrix, weights: Tensor) -> Tensor:
        work.add(self, len(weights))
        return scores(self, weights)

    def counted_rows(self: FeatureMatrix, coefficients: Tensor) -> Tensor:
        work.add(self, coefficients.shape[1])
        return weighted(self, coefficients)

    with (
        patch.object(FeatureMatrix, "scores", counted_scores),
        patch.object(FeatureMatrix, "weighted_rows", counted_rows),
    ):
        yield work
