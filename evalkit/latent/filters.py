"""Filters: what drives features of the discriminator, beside random weights (Radford et al. 2016, sec. 6.2, fig. 5).

Guided backpropagation through the discriminator, and gradient ascent on its input.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.gan.networks import ConvBlock, Discriminator, build_networks, join_classes, to_images
from evalkit.latent.experiment import ExperimentResult, RenderedImage, Row, captioned_rows, png
from evalkit.latent.model import FrozenDiscriminator, FrozenGAN, training_images
from evalkit.latent.nearest import training_rows
from evalkit.latent.settings import FilterSettings
from evalkit.workspace import Workspace


def visualize_filters(
    gan: FrozenGAN,
    images: Any = None,
    settings: FilterSettings = FilterSettings(),
    *,
    home: Workspace | Path | str | None = None,
) -> ExperimentResult:
    """The images that drive some features of D most, what in them does so, and inputs made to drive them.

    The paper shows the first 6 features of D's last conv layer, beside random weights: so do the defaults.

    Args:
        images: searched for the strongest responses: uint8 (n, H, W, 3), or anything else that `as_image_set` takes, of
            whose training images `num_images` are searched [the workspace's set that the GAN was trained on]. The
            first 256 freeze the batch norms.
        home: the workspace that names refer to.

    Raises:
        EvalkitError: no such set, layer or feature.
    """
    searched = _searched(gan, images, settings, home)
    trained = FrozenDiscriminator(gan, statistics_from=searched)
    weights = build_networks(gan.recipe, seed=settings.seed)[1]
    untrained = FrozenDiscriminator(gan, statistics_from=searched, discriminator=weights)
    layer = settings.layer or trained.layers[-1]
    tables: list[pd.DataFrame] = []
    shown: dict[str, RenderedImage] = {}
    for name, discriminator in (("trained", trained), ("random", untrained)):
        table, images_of_weights = _visualize(discriminator, searched, layer, settings, name)
        tables.append(table)
        shown |= images_of_weights
    table = pd.concat(tables, ignore_index=True)
    return ExperimentResult(
        "filters",
        {
            "layer": layer,
            "features": list(settings.features),
            "top": min(settings.top, len(searched)),
            "steps": settings.steps,
            "seed": settings.seed,
            "images": len(searched),
        },
        shown,
        measurements={f"{name}_strongest": float(rows["response"].max()) for name, rows in table.groupby("weights")},
        tables={"units": table},
    )


def _searched(
    gan: FrozenGAN,
    images: Any,
    settings: FilterSettings,
    home: Workspace | Path | str | None,
) -> np.ndarray:
    if isinstance(images, np.ndarray):
        return images
    training = training_images(gan, images, home=home)
    return training.images[training_rows(training, settings.num_images, seed=settings.seed)]


def _visualize(
    discriminator: FrozenDiscriminator, images: np.ndarray, layer: str, settings: FilterSettings, name: str
) -> tuple[pd.DataFrame, dict[str, RenderedImage]]:
    """The strongest units of one discriminator, and the two images that show them."""
    features, top = list(settings.features), min(settings.top, len(images))
    units = strongest_units(discriminator, images, layer, features, top=top)
    guided = _guided(discriminator, images, layer, units)
    rows = _rows_by_feature(features, images[units["row"]], guided, top)
    inputs, responses = _ascend(discriminator, layer, features, steps=settings.steps, seed=settings.seed)
    units["response_of_input"] = np.repeat(responses, top)
    title = f"inputs that drive {layer} feature {', '.join(map(str, features))} most, {name} weights"
    return units.assign(weights=name), {
        f"guided-{name}.png": RenderedImage(
            f"guided backpropagation, {layer}, {name} weights", png(captioned_rows(rows))
        ),
        f"maximized-{name}.png": RenderedImage(title, png(captioned_rows([Row(title, inputs)]))),
    }


def strongest_units(
    discriminator: FrozenDiscriminator, images: np.ndarray, layer: str, features: Sequence[int], *, top: int
) -> pd.DataFrame:
    """For each feature the `top` images with the largest response, and where: feature, rank, row, y, x, response.

    Raises:
        EvalkitError: no such layer or feature.
    """
    maps = discriminator.layer_outputs(images, layer)
    beyond = [feature for feature in features if feature >= maps.shape[1]]
    if beyond:
        raise EvalkitError(f"{layer}: has features 0 to {maps.shape[1] - 1}, not {beyond[0]}")
    tables = []
    for feature in features:
        responses = maps[:, feature].reshape(len(maps), -1)
        rows = np.argsort(-responses.max(1), kind="stable")[:top]
        y, x = np.divmod(responses[rows].argmax(1), maps.shape[3])
        values = {"rank": np.arange(top), "row": rows, "y": y, "x": x, "response": responses[rows].max(1)}
        tables.append(pd.DataFrame({"feature": feature, **values}))
    return pd.concat(tables, ignore_index=True)


def _guided(discriminator: FrozenDiscriminator, images: np.ndarray, layer: str, units: pd.DataFrame) -> np.ndarray:
    """The guided gradients as images, uint8 (units, H, W, C)."""
    inputs = discriminator.as_input(images[units["row"]])
    places = torch.tensor(units[["feature", "y", "x"]].to_numpy(), device=inputs.device)
    classes, index = discriminator.classes(len(inputs)), discriminator.layers.index(layer)
    return gradients_as_images(guided_gradient(discriminator.network, inputs, classes, layer=index, units=places))


def gradients_as_images(gradient: Tensor) -> np.ndarray:
    """float (n, C, H, W) -> uint8 (n, H, W, C): 0 is gray, each image's largest magnitude black or white."""
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return (127.5 * (1 + gradient / largest)).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _ascend(
    discriminator: FrozenDiscriminator, layer: str, features: Sequence[int], *, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    recipe = discriminator.recipe
    noise = torch.empty(len(features), recipe.channels, recipe.size, recipe.size)
    noise.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    start = (noise if recipe.output == "tanh" else 0.5 + noise / 2).to(discriminator.device)
    images, responses = maximize_units(
        discriminator.network,
        discriminator.classes(len(features)),
        layer=discriminator.layers.index(layer),
        features=torch.tensor(features, device=discriminator.device),
        start=start,
        steps=steps,
    )
    return to_images(images, recipe), responses.cpu().numpy()


def _rows_by_feature(features: Sequence[int], images: np.ndarray, guided: np.ndarray, top: int) -> list[Row]:
    """One row per feature: its strongest images, then the guided gradients of the same images."""
    rows = []
    for index, feature in enumerate(features):
        part = slice(index * top, (index + 1) * top)
        both = np.concatenate([images[part][..., : guided.shape[3]], guided[part]])
        rows.append(Row(f"feature {feature}: strongest images, and what in them drives it", both))
    return rows


class GuidedLeakyReLU(torch.autograd.Function):
    """Leaky ReLU whose backward pass lets through only positive gradients into positive inputs.

    Springenberg et al. 2015 give the rule for ReLU: both masks at once. The negative side, of slope 0.2, is masked as
    well: what inhibits a feature would blur what drives it.
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
        images: float32 (N, C, H, W) in the network's range; batch norm must be frozen.
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


def maximize_units(
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

    Each step adds 5 % of the range along the gradient, scaled to a root mean square of 1, and moves the image by
    `decay` towards middle gray; values stay within the range of images. The gradient is averaged over 3 x 3 pixels
    first: otherwise the inputs are noise (tried on imagenet32@1047).

    Args:
        features: int64 (N,), the map that each image drives.
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
