"""Which axis of a layer's maps holds the channels: (N, C, h, w), or (N, h, w, C) as in Swin and other networks.

Shapes alone do not say. Height and width are the two axes that grow with the picture: the network is run on a picture
of twice the size, too. Where it takes no other size or the axes do not grow (adaptive pooling), height and width are
the two that are equal, for square pictures; where that leaves both open, channels come first. `--layout` overrides.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.features.encoders.encoder import Encoder, shape_only
from evalkit.features.grids import Taps

Shapes = Mapping[str, tuple[int, ...]]


def channels_last_layers(encoder: Encoder, images: Tensor, shapes: Shapes, taps: Taps) -> frozenset[str]:
    """Names of the layers whose maps are (N, h, w, C).

    Args:
        images: uint8 (N, H, W, 3), of which the first is tried.
        shapes: each layer's output for such pictures, without its first axis.
        taps: whose `layout` decides, unless it is `auto`.
    """
    maps = {name: shape for name, shape in shapes.items() if len(shape) == 3}
    if taps.layout != "auto" or not maps:
        return frozenset(maps if taps.layout == "channels-last" else ())
    pictures = encoder.preprocessing(images[:1])
    larger = _shapes_of_larger(encoder, pictures, list(maps))
    square = pictures.shape[2] == pictures.shape[3]
    return frozenset(name for name, shape in maps.items() if _is_channels_last(shape, larger.get(name), square))


def _shapes_of_larger(encoder: Encoder, pictures: Tensor, layers: list[str]) -> Shapes:
    """The layers' shapes for pictures of twice the size; empty where the network does not take them."""
    try:
        with torch.no_grad():
            outputs = encoder.network(F.interpolate(pictures, scale_factor=2), layers, shape_only)
    except Exception:  # other people's code
        return {}
    return {name: tuple(output.shape[1:]) for name, output in outputs.items()}


def _is_channels_last(shape: tuple[int, ...], larger: tuple[int, ...] | None, square: bool) -> bool:
    grown = [new > old for old, new in zip(shape, larger or shape, strict=False)]
    if sum(grown) == 2:
        return grown == [True, True, False]
    return square and shape[0] == shape[1] != shape[2]
