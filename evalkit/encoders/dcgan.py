"""Discriminators as encoders: of a run or checkpoint, of pretrained weights, or of a recipe with random weights.

`load_encoder` comes here for RUN[@UPDATES], pretrained:NAME and random:RECIPE. The discriminators come from gan and
pretrained; features are the outputs of their conv blocks.
"""

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evalkit.encoders.encoder import BatchNorm, Encoder, Network, Preprocessing, Reduce
from evalkit.encoders.module import Autocast
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import load_weights, read_checkpoint, stored_recipe, weights_file
from evalkit.gan.networks import ConvBlock, Discriminator, build_networks
from evalkit.gan.norms import remove_spectral_norm
from evalkit.gan.recipes import Recipe, load_recipe
from evalkit.gan.run_dir import find_checkpoint, run_of
from evalkit.pretrained.registry import find_pretrained
from evalkit.pretrained.store import load_discriminator, load_source_statistics, read_pretrained
from evalkit.workspace import Workspace

_RANDOM_SEED = 0


def run_encoder(name: str, workspace: Workspace) -> Encoder:
    """The discriminator of a run's last checkpoint, or of RUN@UPDATES or a path; "latest" is the latest run.

    Where training kept a moving average of the discriminator, the encoder is the average.
    """
    checkpoint = find_checkpoint(name, workspace)
    manifest = read_checkpoint(checkpoint)
    discriminator = Discriminator(stored_recipe(manifest))
    weights = checkpoint / weights_file(manifest, "discriminator")
    load_weights(discriminator, weights)
    return discriminator_encoder(
        f"{run_of(checkpoint).name}@{manifest['settings']['d_updates']}",
        discriminator,
        sha256=manifest["files"][weights.name]["sha256"],
        weights=str(weights.resolve()),
        images_sha256=manifest["made_from"]["images_sha256"],
    )


def pretrained_encoder(name: str, workspace: Workspace, *, download: bool = True) -> Encoder:
    """The discriminator, or its first layers, of the pretrained weights of that name.

    Args:
        download: fetch a release that the workspace does not have.
    """
    path = find_pretrained(name, workspace, download=download)
    discriminator, manifest = load_discriminator(path), read_pretrained(path)
    weights = path / "discriminator.safetensors"
    encoder = discriminator_encoder(
        f"pretrained:{name}",
        discriminator,
        sha256=manifest["files"][weights.name]["sha256"],
        weights=str(weights.resolve()),
        images_sha256=manifest["made_from"].get("images_sha256", ""),
    )
    return replace(encoder, source_statistics=load_source_statistics(path, manifest))


def random_encoder(recipe_name: str) -> Encoder:
    """The recipe's discriminator with its initial weights."""
    recipe = load_recipe(recipe_name)
    discriminator = build_networks(recipe, seed=_RANDOM_SEED)[1]
    sha256 = hashlib.sha256(save({k: v.contiguous() for k, v in discriminator.state_dict().items()})).hexdigest()
    return discriminator_encoder(f"random:{recipe.name}", discriminator, sha256=sha256)


def discriminator_encoder(
    name: str, discriminator: Discriminator, *, sha256: str, weights: str = "", images_sha256: str = ""
) -> Encoder:
    """A discriminator as an encoder: its layers are conv1, conv2, ... after their leaky ReLU.

    Raises:
        EvalkitError: a conditional discriminator, which needs each image's class.
    """
    recipe = discriminator.recipe
    if recipe.classes:
        raise EvalkitError(
            f"recipe {recipe.name}: its discriminator takes the class beside the image, so it cannot be an encoder"
        )
    network = DiscriminatorNetwork(discriminator)
    return Encoder(name, network, preprocessing_of(recipe), sha256, weights, images_sha256, "target")


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """From pixels to the generator's range: x / 127.5 - 1 for tanh [s4], x / 255 for sigmoid [release]."""
    low = -1.0 if recipe.output == "tanh" else 0.0
    return Preprocessing(size=recipe.size, channels=recipe.channels, range=(low, 1.0))


class DiscriminatorNetwork(Network):
    """The conv blocks; all of them are the paper's features (Radford et al. 2016, section 5.1)."""

    def __init__(self, discriminator: Discriminator):
        super().__init__()
        self.discriminator = discriminator
        self.default = tuple(f"conv{index + 1}" for index in range(len(discriminator.blocks)))

    def forward(
        self, images: Tensor, layers: Sequence[str] | None = None, reduce: Reduce | None = None
    ) -> dict[str, Tensor]:
        return _run_blocks(self.discriminator.blocks, images, layers, reduce)

    def batch_norms(self) -> dict[str, BatchNorm]:
        return dict(self.discriminator.batch_norms())

    def optimized_for_inference(self, layers: Sequence[str], *, precision: str, sample: Tensor) -> nn.Module:
        if any(norm.running_mean is None for norm in self.batch_norms().values()):
            return Autocast(self, precision)
        return FoldedDiscriminator(self.discriminator, dtype=getattr(torch, precision))


def _run_blocks(
    blocks: nn.ModuleList, maps: Tensor, layers: Sequence[str] | None, reduce: Reduce | None
) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    for index, block in enumerate(blocks):
        name = f"conv{index + 1}"
        maps = block(maps)
        if layers is None or name in layers:
            outputs[name] = reduce(name, maps) if reduce else maps
        if layers is not None and len(outputs) == len(layers):
            break
    return outputs


class FoldedDiscriminator(nn.Module):
    """The conv blocks with frozen batch norm folded into their weights, in `dtype`; called as `Network.forward`.

    With g = gain / sqrt(variance + eps), norm(conv(x)) = conv_gw(x) + (bias - g mean).
    """

    def __init__(self, discriminator: Discriminator, *, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.blocks = nn.ModuleList()
        for block in discriminator.blocks:
            assert isinstance(block, ConvBlock)
            self.blocks.append(_FoldedBlock(block))
        self.to(dtype).to(memory_format=torch.channels_last).requires_grad_(False)

    def forward(
        self, images: Tensor, layers: Sequence[str] | None = None, reduce: Reduce | None = None
    ) -> dict[str, Tensor]:
        return _run_blocks(self.blocks, images.to(self.dtype), layers, reduce)


class _FoldedBlock(nn.Module):
    def __init__(self, block: ConvBlock):
        super().__init__()
        norm = block.norm
        self.conv = fuse_conv_bn_eval(block.conv, norm) if isinstance(norm, nn.BatchNorm2d) else deepcopy(block.conv)
        remove_spectral_norm(self.conv)
        self.negative_slope = block.negative_slope

    def forward(self, maps: Tensor) -> Tensor:
        return F.leaky_relu_(self.conv(maps), self.negative_slope)
