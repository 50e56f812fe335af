"""Guided backpropagation through the discriminator, and gradient ascent on its input. What filters shows."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.gan.networks import ConvBlock, Discriminator, join_classes


class GuidedLeakyReLU(torch.autograd.Function):
    """Leaky ReLU whose backward pass lets through only positive gradients into positive inputs.

    Springenberg et al. 2015 give the rule for ReLU: both masks at once. The negative side's slope of 0.2 is masked,
    too: what inhibits a feature would blur what drives it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, leak: float) -> Tensor:
        ctx.save_for_backward(x)
        return F.leaky_relu(x, leak)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient.clamp_min(0) * (x > 0), None


def guided_gradient(
    discriminator: Discriminator, images: Tensor, classes: Tensor | None, *, layer: int, units: Tensor
) -> Tensor:
    """The guided gradient of one unit of conv layer `layer` (0: the first) to each picture.

    Args:
        images: float32 (N, C, H, W) in the network's range; batch norm has to be frozen.
        units: int64 (N, 3): map, row and column of each picture's unit.

    Returns:
        float32 (N, C, H, W).
    """
    images = images.detach().requires_grad_(True)
    maps: Tensor = images
    for block in discriminator.blocks[: layer + 1]:
        assert isinstance(block, ConvBlock)
        maps = GuidedLeakyReLU.apply(block.norm(block.conv(join_classes(maps, classes))), block.leak)
    chosen = maps[torch.arange(len(images)), units[:, 0], units[:, 1], units[:, 2]]
    return torch.autograd.grad(chosen.sum(), images)[0]


def maximised(
    discriminator: Discriminator,
    classes: Tensor | None,
    *,
    layer: int,
    features: Tensor,
    start: Tensor,
    steps: int,
    decay: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Pictures that drive the middle unit of each of some features, by gradient ascent on the input.

    Each step adds 5 % of the range along the gradient, scaled to a root mean square of 1, and shrinks the
    picture by `decay` towards the middle grey; values stay within the range of pictures. The gradient is averaged
    over 3 x 3 pixels first: without that the inputs are noise (tried on imagenet32@1047).

    Args:
        features: int64 (N,), the map each picture is for.
        start: float32 (N, C, H, W), in the network's range.

    Returns:
        The pictures, and the units' responses (N,) to them.
    """
    tanh = discriminator.recipe.output == "tanh"
    low, high = (-1.0, 1.0) if tanh else (0.0, 1.0)
    middle, images = (low + high) / 2, start.clone()
    for _ in range(steps):
        images.requires_grad_(True)
        (gradient,) = torch.autograd.grad(_middle(discriminator, images, classes, layer, features).sum(), images)
        with torch.no_grad():
            gradient = F.avg_pool2d(gradient, 3, 1, 1)
            size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
            moved = images + 0.05 * (high - low) * gradient / size
            images = (middle + (1 - decay) * (moved - middle)).clamp(low, high)
    with torch.no_grad():
        return images, _middle(discriminator, images, classes, layer, features)


def _middle(
    discriminator: Discriminator, images: Tensor, classes: Tensor | None, layer: int, features: Tensor
) -> Tensor:
    maps = images
    for block in discriminator.blocks[: layer + 1]:
        maps = block(join_classes(maps, classes))
    return maps[torch.arange(len(images)), features, maps.shape[2] // 2, maps.shape[3] // 2]
