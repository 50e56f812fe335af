"""filters: what drives features of the discriminator, beside random weights (Radford et al. 2016, sec. 6.2, fig. 5).

Guided backpropagation through the discriminator, and gradient ascent on its input. What filters shows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.gan.networks import ConvBlock, Discriminator, build_networks, join_classes, to_images
from evalkit.latent.experiment import ExperimentResult, RenderedImage, Row, captioned, png
from evalkit.latent.model import FrozenDiscriminator, FrozenGAN


def filters(
    gan: FrozenGAN,
    images: np.ndarray,
    *,
    layer: str | None = None,
    features: Sequence[int] = range(6),
    top: int = 6,
    steps: int = 64,
    seed: int = 0,
) -> ExperimentResult:
    """The images that drive some features of D most, what in them does so, and images made to drive them.

    The paper shows the first 6 features of D's last conv layer, beside random weights: so do the defaults.

    Args:
        images: uint8 (n, H, W, 3), searched for the strongest responses; the first 256 freeze the batch norms.
        layer: a conv layer, "conv1" up [the last].
        features: maps of that layer.
        top: images shown for each feature, the strongest first, one unit each.
        steps: of the gradient ascent on the input.
        seed: of the random weights and of the noise that the ascent starts from.

    Raises:
        EvalkitError: no such layer or feature.
    """
    trained = FrozenDiscriminator(gan, normalised_by=images)
    untrained = FrozenDiscriminator(gan, normalised_by=images, discriminator=build_networks(gan.recipe, seed=seed)[1])
    layer = layer or trained.layers[-1]
    features, top = list(features), min(top, len(images))
    tables, shown = [], {}
    for name, critic in (("trained", trained), ("random", untrained)):
        strongest = strongest_units(critic, images, layer, features, top=top)
        guided = _guided(critic, images, layer, strongest)
        shown[f"guided-{name}.png"] = RenderedImage(
            f"guided backpropagation, {layer}, {name} weights",
            png(captioned(_in_turn(features, images[strongest["row"]], guided, top))),
        )
        made, responses = _ascended(critic, layer, features, steps=steps, seed=seed)
        title = f"inputs that drive {layer} feature {', '.join(map(str, features))} most, {name} weights"
        shown[f"maximised-{name}.png"] = RenderedImage(title, png(captioned([Row(title, made)])))
        strongest["response_made"] = np.repeat(responses, top)
        tables.append(strongest.assign(weights=name))
    table = pd.concat(tables, ignore_index=True)
    settings = {"layer": layer, "features": features, "top": top, "steps": steps, "seed": seed}
    return ExperimentResult(
        "filters",
        settings | {"images": len(images)},
        shown,
        figures={f"{name}_strongest": float(rows["response"].max()) for name, rows in table.groupby("weights")},
        tables={"units": table},
    )


def strongest_units(
    critic: FrozenDiscriminator, images: np.ndarray, layer: str, features: Sequence[int], *, top: int
) -> pd.DataFrame:
    """For each feature the `top` images with the largest response, and where: feature, rank, row, y, x, response.

    Raises:
        EvalkitError: no such layer or feature.
    """
    maps = critic.taps(images, layer)
    beyond = [feature for feature in features if feature >= maps.shape[1]]
    if beyond:
        raise EvalkitError(f"{layer}: has features 0 to {maps.shape[1] - 1}, not {beyond[0]}")
    found = []
    for feature in features:
        responses = maps[:, feature].reshape(len(maps), -1)
        rows = np.argsort(-responses.max(1), kind="stable")[:top]
        y, x = np.divmod(responses[rows].argmax(1), maps.shape[3])
        values = {"rank": np.arange(top), "row": rows, "y": y, "x": x, "response": responses[rows].max(1)}
        found.append(pd.DataFrame({"feature": feature, **values}))
    return pd.concat(found, ignore_index=True)


def _guided(critic: FrozenDiscriminator, pictures: np.ndarray, layer: str, units: pd.DataFrame) -> np.ndarray:
    """The guided gradients as images, uint8 (units, H, W, C)."""
    images = critic.images(pictures[units["row"]])
    places = torch.tensor(units[["feature", "y", "x"]].to_numpy(), device=images.device)
    index = critic.layers.index(layer)
    gradient = guided_gradient(critic.discriminator, images, critic.classes(len(images)), layer=index, units=places)
    return as_images(gradient)


def as_images(gradient: Tensor) -> np.ndarray:
    """float (n, C, H, W) -> uint8 (n, H, W, C): 0 is grey, each image's largest magnitude black or white."""
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return (127.5 * (1 + gradient / largest)).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _ascended(
    critic: FrozenDiscriminator, layer: str, features: Sequence[int], *, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    recipe = critic.recipe
    noise = torch.empty(len(features), recipe.channels, recipe.size, recipe.size)
    noise.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    start = (noise if recipe.output == "tanh" else 0.5 + noise / 2).to(critic.device)
    images, responses = maximised(
        critic.discriminator,
        critic.classes(len(features)),
        layer=critic.layers.index(layer),
        features=torch.tensor(features, device=critic.device),
        start=start,
        steps=steps,
    )
    return to_images(images, recipe), responses.cpu().numpy()


def _in_turn(features: Sequence[int], images: np.ndarray, guided: np.ndarray, top: int) -> list[Row]:
    """For each feature a row: its strongest images, then the guided gradients of the same images."""
    rows = []
    for index, feature in enumerate(features):
        part = slice(index * top, (index + 1) * top)
        both = np.concatenate([images[part][..., : guided.shape[3]], guided[part]])
        rows.append(Row(f"feature {feature}: strongest images, and what in them drives it", both))
    return rows


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
    """The guided gradient of one unit of conv layer `layer` (0: the first) to each image.

    Args:
        images: float32 (N, C, H, W) in the network's range; batch norm has to be frozen.
        units: int64 (N, 3): map, row and column of each image's unit.

    Returns:
        float32 (N, C, H, W).
    """
    images = images.detach().requires_grad_(True)
    maps: Tensor = images
    for block in discriminator.blocks[: layer + 1]:
        assert isinstance(block, ConvBlock)
        maps = GuidedLeakyReLU.apply(block.norm(block.conv(join_classes(maps, classes))), block.negative_slope)
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
    """Images that drive the middle unit of each of some features, by gradient ascent on the input.

    Each step adds 5 % of the range along the gradient, scaled to a root mean square of 1, and shrinks the
    image by `decay` towards the middle grey; values stay within the range of images. The gradient is averaged
    over 3 x 3 pixels first: without that the inputs are noise (tried on imagenet32@1047).

    Args:
        features: int64 (N,), the map each image is for.
        start: float32 (N, C, H, W), in the network's range.

    Returns:
        The images, and the units' responses (N,) to them.
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
