"""Encoders: what turns pictures into named layer outputs ("taps"), by one short name.

`RUN`, `RUN@UPDATES` or a path to a run or checkpoint: its discriminator. `random:RECIPE`: the same network with its
initial weights. `pixels`: the pictures themselves, in [0, 1].
"""

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evalkit.artifacts import sha256_file
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import find_checkpoint, load_weights, read_checkpoint, stored_recipe
from evalkit.gan.networks import ConvBlock, Discriminator, build_networks, to_network_range
from evalkit.gan.recipes import Recipe, recipe_named
from evalkit.workspace import Workspace

_RANDOM_SEED = 0


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder.

    Attributes:
        name: as figures carry it, e.g. "imagenet32@800" (run @ D updates), "random:imagenet32", "pixels".
        sha256: hash of the weights (of the file, for a checkpoint); empty for pixels.
        weights: path of the weights file, empty where there is none.
        discriminator: the network; None for pixels.
        images_sha256: hash of the pictures the network was trained on; empty where it was not trained.
    """

    name: str
    sha256: str = ""
    weights: str = ""
    discriminator: Discriminator | None = None
    images_sha256: str = ""


def find_encoder(name: str, workspace: Workspace) -> Encoder:
    """The encoder of that name; "latest" is the workspace's latest run.

    Raises:
        EvalkitError: nothing of that name, or weights that do not fit.
    """
    if name == "pixels":
        return Encoder("pixels")
    if name.startswith("random:"):
        return _random_encoder(recipe_named(name.removeprefix("random:")))
    return _checkpoint_encoder(find_checkpoint(name, workspace))


def _checkpoint_encoder(checkpoint: Path) -> Encoder:
    manifest = read_checkpoint(checkpoint)
    recipe = stored_recipe(manifest)
    discriminator = Discriminator(recipe)
    weights = checkpoint / "discriminator.safetensors"
    load_weights(discriminator, weights)
    run = checkpoint.parent.parent.name
    return Encoder(
        name=f"{run}@{manifest['settings']['d_updates']}",
        sha256=manifest["files"][weights.name]["sha256"],
        weights=str(weights.resolve()),
        discriminator=_usable(discriminator, recipe),
        images_sha256=manifest["made_from"]["images_sha256"],
    )


def _random_encoder(recipe: Recipe) -> Encoder:
    discriminator = build_networks(recipe, seed=_RANDOM_SEED)[1]
    sha256 = hashlib.sha256(save({k: v.contiguous() for k, v in discriminator.state_dict().items()})).hexdigest()
    return Encoder(f"random:{recipe.name}", sha256, discriminator=_usable(discriminator, recipe))


def _usable(discriminator: Discriminator, recipe: Recipe) -> Discriminator:
    if recipe.classes:
        raise EvalkitError(
            f"recipe {recipe.name}: its discriminator takes classes, so it gives no features of a picture"
        )
    return discriminator


def check_weights(path: str, sha256: str) -> None:
    """Refuses features whose weights file has changed since.

    Raises:
        EvalkitError: the file is there and hashes to something else.
    """
    if path and Path(path).is_file() and sha256_file(Path(path)) != sha256:
        raise EvalkitError(f"{path}: no longer the weights these features were made with; run `evalkit extract` again")


class FoldedDiscriminator(nn.Module):
    """The conv blocks with frozen batch norm folded into their weights: uint8 (N, H, W, 3) -> taps, in `dtype`.

    With g = gain / sqrt(variance + eps), norm(conv(x)) = conv_gw(x) + (bias - g mean).
    """

    def __init__(self, discriminator: Discriminator, *, dtype: torch.dtype):
        super().__init__()
        self.recipe, self.dtype = discriminator.recipe, dtype
        self.convs = nn.ModuleList()
        for block in discriminator.blocks:
            assert isinstance(block, ConvBlock)
            self.convs.append(_folded(block).to(dtype).to(memory_format=torch.channels_last))
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, taps = to_network_range(images, self.recipe).to(self.dtype), {}
        for index, conv in enumerate(self.convs):
            maps = F.leaky_relu_(conv(maps), self.recipe.leak)
            taps[f"conv{index + 1}"] = maps
        return taps


def _folded(block: ConvBlock) -> nn.Conv2d:
    """The block's convolution with its frozen batch norm as a scale of the weights and a bias."""
    return fuse_conv_bn_eval(block.conv, block.norm) if isinstance(block.norm, nn.BatchNorm2d) else deepcopy(block.conv)


class Pixels(nn.Module):
    """uint8 (N, H, W, 3) -> one vector tap of H x W x 3 numbers in [0, 1]."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"pixels": images.flatten(1).float() / 255}
