"""The generator's hidden layers by name: recording their maps, and drawing with some maps dropped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evalkit.errors import EvalkitError
from evalkit.gan.networks import Generator
from evalkit.latent.gan import CHUNK, FrozenGAN


@dataclass(frozen=True)
class HiddenLayer:
    """A layer's maps after their ReLU: what the deconvolution `reader` takes in, `maps` of them."""

    name: str
    reader: nn.Module
    maps: int


def hidden_layers(generator: nn.Module) -> dict[str, HiddenLayer]:
    """ "first" (the reshaped linear layer), "deconv1" and so on up to the last below the picture."""
    assert isinstance(generator, Generator)
    maps = [multiple * generator.recipe.width for multiple in generator.recipe.g_maps]
    names = ["first", *(f"deconv{index}" for index in range(1, len(maps)))]
    layers = zip(names, generator.deconvs, maps, strict=True)
    return {name: HiddenLayer(name, reader, count) for name, reader, count in layers}


def find_layer(gan: FrozenGAN, name: str | None) -> HiddenLayer:
    """A hidden layer of the generator by name; None: the second highest, the paper's choice (sec. 6.3.1).

    Of the paper's bedroom network that is the one with 256 maps: 200 of them are dropped, more than the highest has.

    Raises:
        EvalkitError: no such layer; the message lists them.
    """
    layers = hidden_layers(gan.generator)
    if name is None:
        return list(layers.values())[max(0, len(layers) - 2)]
    if name not in layers:
        raise EvalkitError(f"recipe {gan.recipe.name}: its generator has no layer {name!r}; choose {', '.join(layers)}")
    return layers[name]


def recorded(gan: FrozenGAN, z: Tensor, layer: HiddenLayer) -> np.ndarray:
    """The layer's maps for each z: float32 (N, maps, h, w)."""
    found: list[Tensor] = []
    hook = layer.reader.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][:, : layer.maps].cpu()))
    try:
        with torch.no_grad():
            for chunk in z.split(CHUNK):
                gan.decode(chunk)
    finally:
        hook.remove()
    return torch.cat(found).numpy()


@contextmanager
def dropped(layer: HiddenLayer, maps: Sequence[int] | np.ndarray) -> Iterator[None]:
    """Within it, the generator draws with these maps of the layer at zero everywhere."""

    def zero(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        kept = inputs[0].clone()
        kept[:, maps] = 0
        return (kept,)

    hook = layer.reader.register_forward_pre_hook(zero)
    try:
        yield
    finally:
        hook.remove()
