"""What is found out about an encoder before it runs over all pictures: its layers, whether its outputs are usable."""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from evalkit.errors import EvalkitError, one_line
from evalkit.features.encoders.encoder import Encoder, Reduce, shape_only, whole
from evalkit.features.grids import Layer, Taps, lay_out
from evalkit.features.layout import channels_last_layers

SAMPLE = 8  # pictures that are tried
_FEWER = 3  # of them once more, without the others
_TOLERANCE = 1e-3  # of a layer's largest output; float32 in another order differs by about 1e-6


def layer_shapes(encoder: Encoder, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Every layer's output shape, without its first axis, for pictures uint8 (N, H, W, 3).

    Raises:
        EvalkitError: pictures of a size that the encoder does not take, or the network fails on them.
    """
    encoder.preprocessing.check(images.shape[1], images.shape[2], encoder.name)
    return {name: tuple(output.shape[1:]) for name, output in _tried(encoder, images, None, shape_only).items()}


def list_layers(encoder: Encoder, images: Tensor, taps: Taps) -> list[tuple[Layer, tuple[int, ...], bool]]:
    """Every layer with its features' length under `taps`, its output's shape, and whether it would be taken."""
    shapes = layer_shapes(encoder, images)
    chosen = choose_layers(encoder, shapes, taps)
    last = channels_last_layers(encoder, images, shapes, taps)
    layers = lay_out(shapes, taps, channels_last=last)
    return [(layer, shapes[layer.name], layer.name in chosen) for layer in layers]


def choose_layers(encoder: Encoder, shapes: dict[str, tuple[int, ...]], taps: Taps) -> list[str]:
    """The layers to take, in the encoder's order.

    Raises:
        EvalkitError: no layer of that name; the message offers the nearest.
    """
    wanted = taps.layers or encoder.network.default or [name for name in shapes if name.split(".")[0] == "output"]
    for name in wanted:
        if name not in shapes:
            near = difflib.get_close_matches(name, shapes, n=3, cutoff=0) or ["none"]
            raise EvalkitError(f"{encoder.name}: no layer {name!r}; nearest: {', '.join(near)}; see --list-layers")
    if not wanted:
        raise EvalkitError(f"{encoder.name}: returns no tensor (N, ...) of floats; name its layers, see --list-layers")
    return [name for name in shapes if name in wanted]


def check_outputs(encoder: Encoder, images: Tensor, layers: Sequence[str], *, alone: bool) -> None:
    """Tries a few pictures.

    Args:
        images: uint8 (N, H, W, 3), at most SAMPLE.
        alone: whether a picture's features must not depend on the pictures beside it.

    Raises:
        EvalkitError: outputs that are not finite, or that change with the batch; the message names the layer.
    """
    outputs = _tried(encoder, images, layers, whole)
    for name, output in outputs.items():
        if not torch.isfinite(output).all():
            bad = output[~torch.isfinite(output)][0]
            raise EvalkitError(
                f"{encoder.name}: layer {name} gives {bad:g}, expected finite numbers; the weights may have diverged, "
                f"or expect another range than {encoder.preprocessing.describe()}"
            )
    if not alone or len(images) <= _FEWER:
        return
    for name, output in _tried(encoder, images[:_FEWER], layers, whole).items():
        difference = (output - outputs[name][:_FEWER]).abs().max()
        if difference > _TOLERANCE * outputs[name].abs().max():
            raise EvalkitError(
                f"{encoder.name}: layer {name} of a picture changes by {difference:.2g} with the number of pictures "
                "beside it or from run to run; expected the same (is it in eval mode? normalised over the batch?)"
            )


def _tried(encoder: Encoder, images: Tensor, layers: Sequence[str] | None, reduce: Reduce | None) -> dict[str, Tensor]:
    """The network's outputs; whatever fails inside it is the encoder's error, in one line."""
    try:
        with torch.no_grad():
            return encoder.network(encoder.preprocessing(images), layers, reduce)
    except Exception as error:  # other people's code
        height, width = images.shape[1:3]
        raise EvalkitError(
            f"{encoder.name}: fails on {len(images)} pictures of {height}x{width} ({one_line(error)}); "
            "expected a network for any number of pictures of this size"
        ) from error
