"""invert: the z whose image comes nearest to a given one, by gradient descent on z."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from evalkit.errors import EvalkitError, ImageError
from evalkit.gan.networks import to_images, to_network_range
from evalkit.gan.recipes import Recipe
from evalkit.images import ResizeOptions
from evalkit.images.decode import resize_and_crop
from evalkit.latent.experiment import ExperimentResult, RenderedImage, Row, captioned, png
from evalkit.latent.model import FrozenGAN

_RANDOM = 128  # random z of which the nearest ones are starts, and the nearest one is the figure to beat
_LR = 0.1  # Adam's, falling to 0 by a half cosine


def read_image(path: Path, recipe: Recipe) -> np.ndarray:
    """An image file as the network takes it: shorter side resized, centre cropped, uint8 (size, size, 3).

    For a generator of grey images the three channels are equal.

    Raises:
        ImageError: no such file, or none that Pillow reads.
    """
    try:
        with Image.open(path) as image:
            colours = image if recipe.channels == 3 else image.convert("L")
            return resize_and_crop(colours.convert("RGB"), ResizeOptions(recipe.size))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; expected an image") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ImageError(f"{path}: not readable as an image ({error}); expected PNG, JPEG or the like") from None


def invert(
    gan: FrozenGAN, targets: np.ndarray, *, steps: int = 150, restarts: int = 4, seed: int = 0
) -> ExperimentResult:
    """The z of each of `targets` (uint8, n x size x size x 3), with the error left.

    Error: root mean square difference of pixels, of 1, of the image that the generator draws. It stands beside that
    of the nearest of 128 random samples: a generator that does not cover an image stays near that.

    Args:
        steps: of Adam, for each start.
        restarts: starts for each image, the nearest random samples; the best end counts.

    Raises:
        EvalkitError: no image, or fewer than one step or start.
    """
    if not len(targets) or steps < 1 or restarts < 1:
        raise EvalkitError(f"{len(targets)} images, {steps} steps, {restarts} restarts: expected at least one of each")
    random = gan.draw(_RANDOM, seed=seed)
    wanted = to_network_range(torch.from_numpy(np.array(targets)), gan.recipe).to(gan.device)
    starts, nearest = _nearest(gan, random, wanted, restarts)
    runs = [descend(gan, z, image, steps=steps) for z, image in zip(starts, wanted, strict=True)]
    z = torch.stack([ends[errors[-1].argmin()] for ends, errors in runs])
    images, shown = gan.images(z), to_images(wanted, gan.recipe)
    errors = np.sqrt((((images.astype(np.float32) - shown) / 255) ** 2).mean((1, 2, 3)))
    table = pd.DataFrame({"image": np.arange(len(z)), "error": errors, "error_of_nearest_random": nearest.tolist()})
    rows = [Row("given", shown), Row("drawn from the z found", images)]
    return ExperimentResult(
        "invert",
        {"steps": steps, "restarts": restarts, "random": _RANDOM, "seed": seed},
        {"invert.png": RenderedImage("images, and the nearest the generator draws", png(captioned(rows)))},
        figures={"error_mean": float(errors.mean()), "error_of_nearest_random_mean": float(nearest.mean())},
        tables={"errors": table, "descent": _descent([errors for _, errors in runs])},
        arrays={"z": z.cpu().numpy()},
    )


def _nearest(gan: FrozenGAN, random: Tensor, wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """For each image the `count` nearest of the random z (n, count, Z), and the nearest's error (n,)."""
    images = to_network_range(torch.from_numpy(gan.images(random)), gan.recipe).to(gan.device)
    errors = torch.stack([_rms(images, image, gan.recipe) for image in wanted])
    order = errors.argsort(1)[:, :count]
    return random[order], errors.min(1).values


def descend(gan: FrozenGAN, start: Tensor, image: Tensor, *, steps: int) -> tuple[Tensor, Tensor]:
    """z (n, Z) moved to draw `image` (C, H, W) in the network's range, and the errors (steps + 1, n) on the way.

    Uniform z are kept within the generator's -1 to 1.
    """
    z = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([z], lr=_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    errors = []
    for _ in range(steps):
        error = _rms(gan.decode(z), image, gan.recipe)
        errors.append(error.detach())
        (gradient,) = torch.autograd.grad((error**2).sum(), z)
        z.grad = gradient
        optimiser.step()
        schedule.step()
        if gan.recipe.z_distribution == "uniform":
            z.data.clamp_(-1, 1)
    with torch.no_grad():
        errors.append(_rms(gan.decode(z), image, gan.recipe))
    return z.detach(), torch.stack(errors)


def _rms(images: Tensor, image: Tensor, recipe: Recipe) -> Tensor:
    """Root mean square difference of (n, C, H, W) from (C, H, W), as a share of black to white."""
    span = 2 if recipe.output == "tanh" else 1
    return ((images - image) / span).square().mean((1, 2, 3)).add(1e-12).sqrt()


def _descent(errors: Sequence[Tensor]) -> pd.DataFrame:
    """A line an image, start and step."""
    table = np.stack([run.cpu().numpy() for run in errors])
    image, step, start = (axis.ravel() for axis in np.indices(table.shape))
    return pd.DataFrame({"image": image, "start": start, "step": step, "error": table.ravel()})
