"""The DCGAN of pytorch/examples as networks of ours: 4x4 kernels, stride 2, padding 1, one batch-norm gain per channel.

Its state dicts name layers by their index in an nn.Sequential ("main.0.weight"). A state dict is recognised by all of
its names and shapes together, and refused otherwise; nothing is guessed.
"""

import math
from pathlib import Path

from evalkit.artifacts import sha256_file
from evalkit.errors import EvalkitError
from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.recipes import Recipe
from evalkit.pretrained.store import Pretrained, PretrainedSettings, Weights
from evalkit.weights_files import read_weights, refuse_not_finite

_SOURCE = "the layout of pytorch/examples, dcgan/main.py"
_STRIDES = (2, 2, 2, 2)
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# index in nn.Sequential -> layer of ours; activations lie between. Both end in a layer without batch norm.
_D_CONVS = {0: "blocks.0.conv", 2: "blocks.1.conv", 5: "blocks.2.conv", 8: "blocks.3.conv", 11: "out"}
_D_NORMS = {3: "blocks.1.norm", 6: "blocks.2.norm", 9: "blocks.3.norm"}
_G_CONVS = {0: "linears.0", 3: "deconvs.0", 6: "deconvs.1", 9: "deconvs.2", 12: "deconvs.3"}
_G_NORMS = {1: "linear_norms.0.norm", 4: "deconv_norms.0", 7: "deconv_norms.1", 10: "deconv_norms.2"}


def read_torch_dcgan(paths: list[Path], *, source: str, licence: str) -> Pretrained:
    """The weights in one or two state dicts (netD, netG) of that DCGAN, read with `weights_only=True`.

    Args:
        source, licence: for the card.

    Raises:
        EvalkitError: not a state dict, or names or shapes of another network; the message names them.
    """
    networks: dict[str, Weights] = {}
    for path in paths:
        weights = _state_dict(path)
        network = "generator" if "main.12.weight" in weights else "discriminator"
        if network in networks:
            raise EvalkitError(f"{path}: a second {network}; give one discriminator and one generator")
        _check_names(path, network, weights)
        networks[network] = weights
    d, g = networks.get("discriminator"), networks.get("generator")
    recipe = _recipe(d, g)
    settings = PretrainedSettings(
        recipe=recipe,
        about=f"a DCGAN in {_SOURCE}",
        source=source,
        licence=licence,
        notes=("running statistics kept for the discriminator, not for the generator, which normalises by the batch",),
        complete=True,
        training_known=False,
    )
    return Pretrained(
        settings,
        _discriminator(d, recipe, paths) if d else None,
        _generator(g, recipe, paths) if g else None,
        {"sha256": {path.name: sha256_file(path) for path in paths}},
    )


def _state_dict(path: Path) -> Weights:
    weights = {name.removeprefix("module."): value for name, value in read_weights(path).items()}  # DataParallel's
    refuse_not_finite(weights, str(path))
    return weights


def _check_names(path: Path, network: str, weights: Weights) -> None:
    convs, norms = (_D_CONVS, _D_NORMS) if network == "discriminator" else (_G_CONVS, _G_NORMS)
    expected = {f"main.{i}.weight" for i in convs} | {f"main.{i}.{field}" for i in norms for field in _NORM}
    missing, surplus = sorted(expected - weights.keys()), sorted(weights.keys() - expected)
    if missing or surplus:
        parts = (("missing", missing), ("surplus", surplus))
        listed = "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in parts if names)
        raise EvalkitError(f"{path}: not the {network} in {_SOURCE} ({listed})")


def _recipe(d: Weights | None, g: Weights | None) -> Recipe:
    """The recipe with the channels of the first layers; every other shape is checked against it afterwards."""
    d_channels, channels = (int(d["main.0.weight"].shape[0]), int(d["main.0.weight"].shape[1])) if d else (0, 0)
    g_channels, g_image_channels = (int(n) for n in g["main.12.weight"].shape[:2]) if g else (0, 0)
    z_dim = int(g["main.0.weight"].shape[0]) if g else 100
    base = math.gcd(d_channels, g_channels)
    return Recipe(
        "torch-dcgan",
        size=64,
        channels=channels or g_image_channels,
        base_channels=base,
        kernel=4,
        d_channel_mults=tuple((d_channels or g_channels) // base * multiple for multiple in (1, 2, 4, 8)),
        d_strides=_STRIDES,
        g_channel_mults=tuple((g_channels or d_channels) // base * multiple for multiple in (8, 4, 2, 1)),
        g_strides=_STRIDES,
        g_first_norm="map",
        z_dim=z_dim,
        z_distribution="normal",
        norm_eps=1e-5,
        schedule="both",
    )


def _discriminator(weights: Weights, recipe: Recipe, paths: list[Path]) -> Weights:
    taken = {f"{ours}.weight": weights[f"main.{index}.weight"] for index, ours in _D_CONVS.items()}
    for index, ours in _D_NORMS.items():
        taken |= {f"{ours}.{field}": weights[f"main.{index}.{field}"] for field in _NORM}
    taken["out.weight"] = taken["out.weight"].flatten(1)  # a 4x4 convolution of 4x4 maps is a linear layer
    return _checked(taken, Discriminator(recipe).state_dict(), paths)


def _generator(weights: Weights, recipe: Recipe, paths: list[Path]) -> Weights:
    taken = {f"{ours}.weight": weights[f"main.{index}.weight"] for index, ours in _G_CONVS.items()}
    for index, ours in _G_NORMS.items():
        taken |= {f"{ours}.{field}": weights[f"main.{index}.{field}"] for field in _NORM[:2]}
    taken["linears.0.weight"] = taken["linears.0.weight"].flatten(1).T  # a 4x4 deconvolution of one cell, likewise
    return _checked(taken, Generator(recipe).state_dict(), paths)


def _checked(taken: Weights, expected: Weights, paths: list[Path]) -> Weights:
    wrong = [name for name in expected if taken[name].shape != expected[name].shape]
    if wrong:
        actual, needed = tuple(taken[wrong[0]].shape), tuple(expected[wrong[0]].shape)
        files = ", ".join(path.name for path in paths)
        raise EvalkitError(f"{files}: {wrong[0]} is {actual}, expected {needed}; not the network in {_SOURCE}")
    return {name: taken[name].to(value.dtype) for name, value in expected.items()}
