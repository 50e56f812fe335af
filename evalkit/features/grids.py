"""Pooling feature maps to a grid and laying layers side by side: 28,672 numbers a picture for the paper's network."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Layer:
    """Where one layer's features lie: columns offset to offset + length; maps x grid x grid, map by map."""

    name: str
    maps: int
    grid: int
    offset: int
    length: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def lay_out(shapes: dict[str, Sequence[int]], grid: int) -> list[Layer]:
    """The layers' places, from each tap's shape without its first axis: (maps, h, w), or (length,) for a vector."""
    layers: list[Layer] = []
    offset = 0
    for name, shape in shapes.items():
        side = grid if len(shape) == 3 else 1
        length = shape[0] * side * side
        layers.append(Layer(name, shape[0], side, offset, length))
        offset += length
    return layers


def pool_to_grid(maps: Tensor, grid: int) -> Tensor:
    """Max-pools (N, maps, h, w) to (N, maps x grid x grid); Radford et al. 2016, section 5.1.

    Where h is a multiple of the grid, the windows are h / grid wide and do not overlap (8, 4, 4, 2, 2, 1 for the
    paper's network). Vectors (N, length) pass as they are.
    """
    if maps.ndim == 2:
        return maps
    height, width = maps.shape[2:]
    if height == width and height % grid == 0:
        pooled = F.max_pool2d(maps, height // grid) if height > grid else maps
    else:
        pooled = F.adaptive_max_pool2d(maps, grid)
    return pooled.flatten(1)


def concatenate(taps: dict[str, Tensor], layers: Sequence[Layer], *, grid: int) -> Tensor:
    """One row of features a picture, float32 (N, D) on the CPU, layers in order."""
    count = len(next(iter(taps.values())))
    rows = torch.empty(count, sum(layer.length for layer in layers))
    for layer in layers:
        rows[:, layer.offset : layer.offset + layer.length] = pool_to_grid(taps[layer.name], grid)
    return rows
