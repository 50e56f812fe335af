"""Nearest neighbors block by block against all distances at once (reference), their order and exclusions (value)."""

import numpy as np
import pytest
import torch

from evalkit.neighbors import NearestNeighbors


def all_distances(queries, rows):
    return np.linalg.norm(queries[:, None].astype(np.float64) - rows, axis=2)


def in_blocks(neighbors, rows, block):
    for first in range(0, len(rows), block):
        part = torch.from_numpy(rows[first : first + block])
        neighbors.update(part, torch.arange(first, first + len(part)) + 100)
    return neighbors


@pytest.mark.parametrize("query_block", [None, 3])
@pytest.mark.parametrize("block", [1, 7, 40])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("distance", ["relative", "squared", "euclidean"])
def test_reference_all_distances(distance, count, block, query_block):
    random = np.random.default_rng(0)
    queries, rows = random.normal(size=(8, 5)).astype(np.float32), random.normal(size=(40, 5)).astype(np.float32)
    neighbors = NearestNeighbors(
        torch.from_numpy(queries), count=count, distance=distance, query_block=query_block
    )  # fmt: skip
    in_blocks(neighbors, rows, block)
    expected = all_distances(queries, rows)
    np.testing.assert_array_equal(neighbors.ids.numpy() - 100, expected.argsort(axis=1)[:, :count])
    expected = np.sort(expected, axis=1)[:, :count]
    if distance != "euclidean":
        expected = expected**2 - (distance == "relative") * (queries.astype(np.float64) ** 2).sum(1, keepdims=True)
    np.testing.assert_allclose(neighbors.distances, expected, rtol=1e-5, atol=1e-5)  # float32, 5 terms


def test_excluded_row_is_no_neighbor():
    rows = np.array([[0.0], [1.0], [3.0]], np.float32)
    neighbors = NearestNeighbors(
        torch.from_numpy(rows), count=2, distance="euclidean", exclude=torch.tensor([100, 101, -1])
    )
    in_blocks(neighbors, rows, 2)
    assert neighbors.ids.tolist() == [[101, 102], [100, 102], [102, 101]]
    assert neighbors.distances.tolist() == [[1, 3], [1, 2], [0, 2]]


def test_earlier_of_equal_rows_comes_first():
    rows = np.array([[2.0], [1.0], [1.0], [-1.0], [1.0]], np.float32)
    neighbors = in_blocks(NearestNeighbors(torch.zeros(1, 1), count=4), rows, 2)
    assert neighbors.ids.tolist() == [[101, 102, 103, 104]]


def test_fewer_rows_than_neighbors_leave_infinite_distances():
    neighbors = in_blocks(NearestNeighbors(torch.zeros(1, 1), count=3), np.ones((2, 1), np.float32), 2)
    assert neighbors.ids.tolist() == [[100, 101, -1]]
    assert neighbors.distances.tolist() == [[1, 1, np.inf]]


def test_copy_is_at_euclidean_distance_zero():
    row = torch.from_numpy(np.random.default_rng(0).random((1, 3072), dtype=np.float32))
    neighbors = NearestNeighbors(row, distance="euclidean")
    neighbors.update(row, torch.tensor([7]))
    assert neighbors.distances.item() == 0
