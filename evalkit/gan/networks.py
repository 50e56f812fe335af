"""The DCGAN's two networks, built from a recipe (Radford et al. 2016, section 4 and the release's layer shapes).

Only batch norm has biases. Classes, where there are any, are concatenated as one-hot entries: to z, to each hidden
vector, and as constant maps to each convolution's input. Also the conversions between uint8 images and the networks'
range, and z.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.gan.norms import add_spectral_norm, init_weight
from evalkit.gan.recipes import Recipe


def join_classes(x: Tensor, classes: Tensor | None) -> Tensor:
    """`x` (N, C) or (N, C, H, W) with the one-hot `classes` (N, K) as K more columns or constant maps."""
    if classes is None:
        return x
    classes = classes.to(x.dtype)
    if x.ndim == 4:
        classes = classes[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, classes], 1)


class ConvBlock(nn.Module):
    """Convolution, batch norm (not on the image itself), leaky ReLU: (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(self, recipe: Recipe, inputs: int, channels: int, stride: int, *, batch_norm: bool):
        super().__init__()
        spectral = recipe.d_norm == "spectral"
        self.conv = nn.Conv2d(inputs, channels, recipe.kernel, stride, recipe.padding, bias=spectral)
        self.norm: nn.Module = nn.Identity()
        if batch_norm and not spectral:
            # momentum and running buffers matter only to features with `running` statistics
            self.norm = nn.BatchNorm2d(channels, eps=recipe.norm_eps, affine=recipe.norm_scale_shift)
        self.negative_slope = recipe.negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), self.negative_slope)


class Discriminator(nn.Module):
    """Images (N, C, size, size) in the generator's range -> logits (N,), positive for real."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe = recipe
        self.blocks = nn.ModuleList()
        channels, side = recipe.channels, recipe.size
        for index, (multiple, stride) in enumerate(zip(recipe.d_channel_mults, recipe.d_strides, strict=True)):
            outputs = multiple * recipe.base_channels
            # no batch norm on D's input layer: it made training oscillate [s4]
            self.blocks.append(ConvBlock(recipe, channels + recipe.classes, outputs, stride, batch_norm=index > 0))
            channels, side = outputs, math.ceil(side / stride)
        self.hidden = nn.ModuleList()
        self.hidden_norms = nn.ModuleList()
        length = channels * side * side
        for units in recipe.d_hidden:
            self.hidden.append(nn.Linear(length + recipe.classes, units, bias=False))
            self.hidden_norms.append(nn.BatchNorm1d(units, eps=recipe.norm_eps, affine=recipe.norm_scale_shift))
            length = units
        self.out = nn.Linear(length + recipe.classes, 1, bias=recipe.d_norm == "spectral")
        if recipe.d_norm == "spectral":
            for module in self.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    add_spectral_norm(module)

    def batch_norms(self) -> dict[str, nn.BatchNorm2d]:
        """The conv blocks' batch norms: {"conv2": ..., ...}, in layer order."""
        norms = {f"conv{index + 1}": block.norm for index, block in enumerate(self.blocks)}
        return {name: norm for name, norm in norms.items() if isinstance(norm, nn.BatchNorm2d)}

    def layer_outputs(self, images: Tensor, classes: Tensor | None = None) -> dict[str, Tensor]:
        """Output of each conv block after its leaky ReLU: {"conv1": (N, C, h, w), ...}, in layer order."""
        x, outputs = images, {}
        for index, block in enumerate(self.blocks):
            x = block(join_classes(x, classes))
            outputs[f"conv{index + 1}"] = x
        return outputs

    def forward(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        x = images
        for block in self.blocks:
            x = block(join_classes(x, classes))
        x = x.flatten(1)
        for linear, norm in zip(self.hidden, self.hidden_norms, strict=True):
            x = F.leaky_relu(norm(linear(join_classes(x, classes))), self.recipe.negative_slope)
        return self.out(join_classes(x, classes)).squeeze(1)


class FlatMapNorm(nn.Module):
    """Batch norm with one gain per feature map on flattened maps (N, C x S x S), as in pytorch/examples' DCGAN."""

    def __init__(self, recipe: Recipe, maps: int):
        super().__init__()
        self.maps = maps
        self.norm = _generator_norm(nn.BatchNorm2d, maps, recipe)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.unflatten(1, (self.maps, -1, 1))).flatten(1)


class Generator(nn.Module):
    """z (N, z_dim) -> images (N, C, size, size) in [-1, 1] (tanh) or [0, 1] (sigmoid).

    Batch norm always uses the statistics of the current batch, as the release's samples do; it keeps no running ones.
    """

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe = recipe
        self.side = recipe.size // recipe.g_total_stride
        self.first_maps = recipe.g_channel_mults[0] * recipe.base_channels
        self.linears, self.linear_norms = nn.ModuleList(), nn.ModuleList()
        length = recipe.z_dim
        for units in (*recipe.g_hidden, self.first_maps * self.side**2):
            self.linears.append(nn.Linear(length + recipe.classes, units, bias=False))
            self.linear_norms.append(_generator_norm(nn.BatchNorm1d, units, recipe))  # a gain per unit [release]
            length = units
        if recipe.g_first_norm == "map":
            self.linear_norms[-1] = FlatMapNorm(recipe, self.first_maps)
        self.deconvs, self.deconv_norms = nn.ModuleList(), nn.ModuleList()
        channels = [multiple * recipe.base_channels for multiple in recipe.g_channel_mults] + [recipe.channels]
        for inputs, maps, stride in zip(channels, channels[1:], recipe.g_strides, strict=False):
            inputs += recipe.classes
            extra = stride - recipe.kernel + 2 * recipe.padding  # output padding that makes the output input x stride
            self.deconvs.append(
                nn.ConvTranspose2d(inputs, maps, recipe.kernel, stride, recipe.padding, extra, bias=False)
            )
        for maps in channels[1:-1]:  # none on G's output [s4]
            self.deconv_norms.append(_generator_norm(nn.BatchNorm2d, maps, recipe))

    def forward(self, z: Tensor, classes: Tensor | None = None) -> Tensor:
        x = z
        for linear, norm in zip(self.linears, self.linear_norms, strict=True):
            x = F.relu(norm(linear(join_classes(x, classes))))
        x = x.view(len(x), self.first_maps, self.side, self.side).contiguous(memory_format=torch.channels_last)
        for deconv, norm in zip(self.deconvs[:-1], self.deconv_norms, strict=True):
            x = F.relu(norm(deconv(join_classes(x, classes))))
        x = self.deconvs[-1](join_classes(x, classes))
        return torch.tanh(x) if self.recipe.output == "tanh" else torch.sigmoid(x)


def _generator_norm(norm: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], maps: int, recipe: Recipe) -> nn.Module:
    return norm(maps, eps=recipe.norm_eps, affine=recipe.norm_scale_shift, track_running_stats=False)


def init_weights(network: Generator | Discriminator, generator: torch.Generator) -> None:
    """Initializes weights from N(0, init_std), batch-norm gains from N(1, init_std) and biases with 0 [release]."""
    std = network.recipe.init_std
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            init_weight(module, std, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.affine:
            nn.init.normal_(module.weight, 1.0, std, generator=generator)
            nn.init.zeros_(module.bias)


def build_networks(recipe: Recipe, *, seed: int) -> tuple[Generator, Discriminator]:
    """Newly initialized float32 networks on the CPU; equal seeds give equal weights."""
    generator, discriminator = Generator(recipe), Discriminator(recipe)
    random = torch.Generator().manual_seed(seed)
    init_weights(generator, random)
    init_weights(discriminator, random)
    return generator, discriminator


def to_network_range(images: Tensor, recipe: Recipe) -> Tensor:
    """uint8 images (N, H, W, 3) -> float32 (N, C, H, W) in the generator's range; with C = 1 the first channel.

    tanh: x / 127.5 - 1 [s4]; sigmoid: x / 255 [release].
    """
    x = images.permute(0, 3, 1, 2)[:, : recipe.channels].float()
    return x / 127.5 - 1 if recipe.output == "tanh" else x / 255


def to_images(images: Tensor, recipe: Recipe) -> np.ndarray:
    """float (N, C, H, W) in the generator's range -> uint8 (N, H, W, C); the inverse of `to_network_range`."""
    images = (images.float() + 1) * 127.5 if recipe.output == "tanh" else images.float() * 255
    return images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def draw_z(count: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """z (count, z_dim), float32 on the generator's device: U(-1, 1) or N(0, 1)."""
    z = torch.empty(count, recipe.z_dim, device=generator.device)
    if recipe.z_distribution == "uniform":
        return z.uniform_(-1, 1, generator=generator)
    return z.normal_(generator=generator)
