"""The nearest of many rows, block by block: what nearest looks up in pixels and in features."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

Block = tuple[np.ndarray, Tensor]  # row numbers (b,), vectors float32 (b, D)


def nearest_rows(
    queries: Tensor, blocks: Iterable[Block], *, own: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each query the `count` nearest rows: Euclidean distances and row numbers, (q, count), nearest first.

    Found by |q|^2 + |b|^2 - 2 q.b, then measured anew by differences, so that a copy is at distance 0.

    Args:
        queries: float32 (q, D).
        own: (q,) a row that is the query itself and does not count, -1 for none.
    """
    best = torch.full((len(queries), count), torch.inf)
    rows = torch.full((len(queries), count), -1)
    squares, own_rows = queries.square().sum(1, keepdim=True), torch.from_numpy(own)[:, None]
    for numbers, vectors in blocks:
        block_rows = torch.from_numpy(numbers)
        estimate = squares + vectors.square().sum(1) - 2 * queries @ vectors.T
        estimate[own_rows == block_rows] = torch.inf
        found = estimate.topk(min(count, len(vectors)), largest=False).indices
        exact = torch.stack([(vectors[f] - q).norm(dim=1) for q, f in zip(queries, found, strict=True)])
        exact[block_rows[found] == own_rows] = torch.inf
        best, order = torch.cat([best, exact], 1).sort(dim=1, stable=True)
        rows = torch.cat([rows, block_rows[found]], 1).gather(1, order)[:, :count]
        best = best[:, :count]
    return best.numpy(), rows.numpy()
