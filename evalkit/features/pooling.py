"""Taps: which layers, how their outputs become numbers, and in which columns they lie.

28,672 numbers an image for the paper's network: six layers' maps max-pooled to 4 x 4, side by side.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.features.featureset import Layer

Pool = Literal["max", "average", "none"]
Tokens = Literal["mean", "class"]
Layout = Literal["auto", "channels-first", "channels-last"]
POOLS: tuple[Pool, ...] = ("max", "average", "none")
TOKENS: tuple[Tokens, ...] = ("mean", "class")
LAYOUTS: tuple[Layout, ...] = ("auto", "channels-first", "channels-last")


@dataclass(frozen=True)
class LayerSelection:
    """What to take of a network; the defaults are the paper's (Radford et al. 2016, section 5.1).

    Attributes:
        layers: names; empty: the encoder's own choice.
        grid: maps are pooled to grid x grid cells, or stay as they are where they are smaller.
        pool: by maximum, by average, or none: maps stay whole.
        tokens: of a transformer's tokens (N, T, C), their mean or the first, the class token.
        layout: whether maps are (N, C, h, w) or (N, h, w, C); auto: found out for each layer, see `layout.py`.
    """

    layers: tuple[str, ...] = ()
    pool_size: int = 4
    pool: Pool = "max"
    tokens: Tokens = "mean"
    layout: Layout = "auto"

    def __post_init__(self) -> None:
        if self.pool_size < 1:
            raise EvalkitError(f"grid {self.pool_size}: expected at least 1")
        for value, choices in ((self.pool, POOLS), (self.tokens, TOKENS), (self.layout, LAYOUTS)):
            if value not in choices:
                raise EvalkitError(f"{value!r}: expected {', '.join(choices)}")

    def __call__(self, output: Tensor, *, channels_last: bool = False) -> Tensor:
        """A layer's output (N, ...) -> (N, length); maps map by map, cell by cell."""
        if channels_last:
            output = output.permute(0, 3, 1, 2)
        if output.ndim == 4 and self.pool != "none":
            return pool_to_grid(output, self.pool_size, pool=self.pool)
        if output.ndim == 3:
            return output[:, 0] if self.tokens == "class" else output.mean(1)
        return output.flatten(1)

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self) | {"layers": list(self.layers)}

    def variant(self) -> list[str]:
        """What differs from the paper's, in words that a figure can carry."""
        layers = "+".join(self.layers)
        parts = {
            layers if len(layers) <= 40 else f"{len(self.layers)} layers {self.layers[0]} to {self.layers[-1]}": layers,
            f"grid {self.pool_size}": self.pool_size != 4 and self.pool != "none",
            "average pooled": self.pool == "average",
            "not pooled": self.pool == "none",
            "class token": self.tokens == "class",
            self.layout: self.layout != "auto",
        }
        return [name for name, differs in parts.items() if differs]


def feature_columns(
    shapes: Mapping[str, Sequence[int]], taps: LayerSelection, *, channels_last: Collection[str] = frozenset()
) -> list[Layer]:
    """The layers' places.

    Args:
        shapes: each output's shape without its first axis: (maps, h, w), (tokens, C) or (length,).
        channels_last: the layers whose maps are (h, w, maps).
    """
    layers: list[Layer] = []
    offset = 0
    for name, shape in shapes.items():
        maps, height, width = shape[-1], 1, 1
        if len(shape) == 3:
            maps, height, width = (shape[2], *shape[:2]) if name in channels_last else shape
            if taps.pool != "none":
                height, width = min(taps.pool_size, height), min(taps.pool_size, width)
        length = maps * height * width
        grid = height if height == width else 0
        layers.append(Layer(name, maps, grid, offset, length, name in channels_last))
        offset += length
    return layers


def pool_to_grid(maps: Tensor, grid: int, *, pool: Pool = "max") -> Tensor:
    """Pools (N, maps, h, w) to (N, maps x grid x grid); Radford et al. 2016, section 5.1.

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
    """One row of features an image, (N, D), from each layer's numbers (N, length), layers in order."""
    return torch.cat([outputs[layer.name] for layer in layers], dim=1)
