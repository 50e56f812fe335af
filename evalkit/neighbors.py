"""Nearest neighbors of some queries among many rows that arrive block by block, in bounded memory.

Behind the kNN probe, the 1-NN test of generated samples, the sample distance that training logs, and `latent nearest`.
"""

from typing import Literal

import torch
from torch import Tensor

Distance = Literal["relative", "squared", "euclidean"]


class NearestNeighbors:
    """The nearest rows so far of each query, by Euclidean distance; of equal rows the earlier one.

    Args:
        queries: float32 (Q, D).
        count: neighbors to keep per query.
        distance: what `distances` holds. "squared": |q|^2 + |r|^2 - 2 q.r, exact up to rounding. "relative": the same
            without |q|^2, which decides the order alone. "euclidean": the distance computed again from the difference
            of the nearest rows of every block, so that a copy is at distance 0.
        exclude: int64 (Q,), for each query the id of a row that does not count (the query itself), -1 for none.
        query_block: queries compared at once; None: all.

    Attributes:
        distances: float32 (Q, count), nearest first; infinite where fewer rows have come.
        ids: int64 (Q, count); -1 where fewer rows have come.
    """

    def __init__(
        self,
        queries: Tensor,
        *,
        count: int = 1,
        distance: Distance = "squared",
        exclude: Tensor | None = None,
        query_block: int | None = None,
    ):
        self.distances = torch.full((len(queries), count), torch.inf, device=queries.device)
        self.ids = torch.full((len(queries), count), -1, device=queries.device)
        self._queries, self._count, self._distance = queries, count, distance
        self._exclude, self._step = exclude, query_block or max(1, len(queries))
        self._squares = queries.square().sum(1, keepdim=True)

    def update(self, rows: Tensor, ids: Tensor) -> None:
        """Compares the queries with one more block: rows float32 (R, D) and their ids int64 (R,)."""
        squares = rows.square().sum(1)
        for first in range(0, len(self._queries), self._step):
            part = slice(first, first + self._step)
            distances, nearest = self._nearest(part, rows, squares, ids)
            distances = torch.cat([self.distances[part], distances], 1)
            order = distances.sort(dim=1, stable=True).indices[:, : self._count]
            self.distances[part] = distances.gather(1, order)
            self.ids[part] = torch.cat([self.ids[part], ids[nearest]], 1).gather(1, order)

    def _nearest(self, part: slice, rows: Tensor, squares: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and positions of the nearest rows of a block, (q, at most count), nearest first."""
        relative = torch.addmm(squares, self._queries[part], rows.T, alpha=-2)
        if self._exclude is not None:
            relative[self._exclude[part, None] == ids] = torch.inf
        if self._count == 1:
            distances, nearest = relative.min(dim=1, keepdim=True)
        else:
            nearest = relative.sort(dim=1, stable=True).indices[:, : self._count]
            distances = relative.gather(1, nearest)
        if self._distance == "squared":
            distances = distances + self._squares[part]
        elif self._distance == "euclidean":
            pairs = zip(self._queries[part], nearest, strict=True)
            differences = torch.stack([(rows[index] - query).norm(dim=1) for query, index in pairs])
            distances = differences.masked_fill(distances.isinf(), torch.inf)  # of excluded rows
        return distances, nearest
