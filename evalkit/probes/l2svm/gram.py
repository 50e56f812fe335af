"""The Gram matrix of a few rows: float32 products, summed so that float64 factors are worth having. Used by few."""

import torch
from torch import Tensor

from evalkit.probes.l2svm.products import matrix_path

_FEATURES = 1024  # of a float32 partial product; the parts are added in float64
_ROWS = 125  # of a block: 9/16 of the work of the square, with products still large
_DOUBLE_OPERATIONS = 2e10  # Gram matrices up to here are computed in float64: under a second


def gram_matrix(features: Tensor, *, constant: float | None) -> Tensor:
    """X X^T of float32 or float64 rows (N, D) with their constant feature, float64 (N, N).

    Products are of rows less their mean m, whose part is added in float64:
    x_i.x_j = (x_i - m).(x_j - m) + x_i.m + m.x_j - m.m. Features of one sign have large sums, which float32 rounds by
    more than the rest is worth; the diagonal, where every term has one sign, is summed in float64 altogether.
    """
    product = matrix_path(features.device)
    count = len(features)
    if count * count * features.shape[1] <= _DOUBLE_OPERATIONS:
        features = features.double()
    mean = features.mean(0)
    gram = features.new_zeros((count, count), dtype=torch.float64)
    squares, centred = features.new_zeros((2, count), dtype=torch.float64)
    buffer = features.new_empty(count * _FEATURES)
    for start in range(0, features.shape[1], _FEATURES):
        whole, centre = features[:, start : start + _FEATURES], mean[start : start + _FEATURES]
        part = torch.sub(whole, centre, out=buffer[: count * len(centre)].view(count, len(centre)))
        for first in range(0, count, _ROWS):  # the lower triangle, block row by block row
            last = min(first + _ROWS, count)
            gram[first:last, :last] += product(part[first:last], part[:last])
        squares += torch.linalg.vector_norm(whole, dim=1, dtype=torch.float64).square_()
        centred += torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).square_()
    gram = gram.tril_(-1)
    gram += gram.T.clone()
    gram.diagonal().copy_(centred)
    square = mean.double() @ mean.double()
    along = (squares - centred - square) / 2  # (x_i - m).m, so that x_i.m + m.x_j - m.m is two of them and m.m
    return gram.add_(along[:, None]).add_(along + square + (constant or 0.0) ** 2)
