"""Pooling: from the outputs of layers to one row of features per image, and the columns of each layer.

The paper's network gives 28,672 numbers per image: the maps of six layers max-pooled to 4 x 4, side by side.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.features.featureset import Layer
from evalkit.features.options import LayerSelection, Pool


def pool_output(output: Tensor, selection: LayerSelection, *, channels_last: bool = False) -> Tensor:
    """A layer's output (N, ...) -> (N, length); maps channel by channel, cell by cell."""
    if channels_last:
        output = output.permute(0, 3, 1, 2)
    if output.ndim == 4 and selection.pool != "none":
        return pool_to_grid(output, selection.pool_size, pool=selection.pool)
    if output.ndim == 3:
        return output[:, 0] if selection.tokens == "class" else output.mean(1)
    return output.flatten(1)


def pool_to_grid(maps: Tensor, grid: int, *, pool: Pool = "max") -> Tensor:
    """Pools (N, C, h, w) to (N, C x grid x grid); Radford et al. 2016, sec. 5.1.

    Where h is a multiple of the grid, the windows are h / grid wide and do not overlap (8, 4, 4, 2, 2, 1 for the
    paper's network). A side smaller than the grid stays as it is.
    """
    height, width = maps.shape[2:]
    if height == width and height % grid == 0:
        window = height // grid
        fixed = F.max_pool2d if pool == "max" else F.avg_pool2d
        return (fixed(maps, window) if window > 1 else maps).flatten(1)
    cells = (min(grid, height), min(grid, width))
    adaptive = F.adaptive_max_pool2d if pool == "max" else F.adaptive_avg_pool2d
    pooled = adaptive(maps, cells)
    assert isinstance(pooled, Tensor)
    return pooled.flatten(1)


def join(outputs: Mapping[str, Tensor], layers: Sequence[Layer]) -> Tensor:
    """One row of features per image, (N, D), from each layer's numbers (N, length), in the order of `layers`."""
    return torch.cat([outputs[layer.name] for layer in layers], dim=1)


def feature_columns(
    shapes: Mapping[str, Sequence[int]], selection: LayerSelection, *, channels_last: Collection[str] = frozenset()
) -> list[Layer]:
    """The columns of each layer.

    Args:
        shapes: each output's shape without its first axis: (C, h, w), (tokens, C) or (length,).
        selection: how the outputs are pooled.
        channels_last: names of the layers whose maps are (h, w, C).
    """
    layers: list[Layer] = []
    offset = 0
    for name, shape in shapes.items():
        channels, height, width = shape[-1], 1, 1
        if len(shape) == 3:
            channels, height, width = (shape[2], *shape[:2]) if name in channels_last else shape
            if selection.pool != "none":
                height, width = min(selection.pool_size, height), min(selection.pool_size, width)
        length = channels * height * width
        grid = height if height == width else 0
        layers.append(Layer(name, channels, grid, offset, length, name in channels_last))
        offset += length
    return layers
