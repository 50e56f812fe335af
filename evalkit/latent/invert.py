"""Inversion: the z whose image comes nearest to a given image, by gradient descent on z."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from evalkit.errors import EvalkitError, ImageError
from evalkit.gan.networks import to_images, to_network_range
from evalkit.gan.recipes import Recipe
from evalkit.images import ResizeOptions
from evalkit.images.decode import decode_and_resize
from evalkit.latent.experiment import ExperimentResult, RenderedImage, Row, captioned_rows, png
from evalkit.latent.model import FrozenGAN
from evalkit.latent.settings import InvertSettings

_RANDOM = 128  # random z: the nearest ones are the starts, and the nearest one is the result to beat
_LR = 0.1  # of Adam, falling to 0 along a half cosine


def invert_images(
    gan: FrozenGAN, images: np.ndarray | Sequence[Path | str], settings: InvertSettings = InvertSettings()
) -> ExperimentResult:
    """The z of each image, with the error that remains.

    Error: root mean square difference of pixels, relative to 1, of the image that the generator makes of z. It is
    reported beside the error of the nearest of 128 random samples: a generator that does not cover an image stays near
    that.

    Args:
        images: uint8 (n, size, size, 3), or image files.

    Raises:
        ImageError: a file that is missing or no image.
        EvalkitError: no image, or fewer than one step or start.
    """
    steps, restarts, seed = settings.steps, settings.restarts, settings.seed
    if not len(images) or steps < 1 or restarts < 1:
        raise EvalkitError(f"{len(images)} images, {steps} steps, {restarts} restarts: expected at least one of each")
    pixels = images if isinstance(images, np.ndarray) else np.stack([read_image(Path(p), gan.recipe) for p in images])
    targets = to_network_range(torch.from_numpy(np.array(pixels)), gan.recipe).to(gan.device)
    starts, nearest = _nearest_random(gan, gan.sample_z(_RANDOM, seed=seed), targets, restarts)
    descents = [optimize_z(gan, z, target, steps=steps) for z, target in zip(starts, targets, strict=True)]
    z = torch.stack([ends[errors[-1].argmin()] for ends, errors in descents])
    generated, given = gan.images(z), to_images(targets, gan.recipe)
    errors = np.sqrt((((generated.astype(np.float32) - given) / 255) ** 2).mean((1, 2, 3)))
    table = pd.DataFrame({"image": np.arange(len(z)), "error": errors, "error_of_nearest_random": nearest.tolist()})
    rows = [Row("given", given), Row("generated from z", generated)]
    return ExperimentResult(
        "invert",
        {"steps": steps, "restarts": restarts, "random": _RANDOM, "seed": seed},
        {"invert.png": RenderedImage("images, and the nearest that the generator makes", png(captioned_rows(rows)))},
        measurements={"error_mean": float(errors.mean()), "error_of_nearest_random_mean": float(nearest.mean())},
        tables={"errors": table, "descent": _descent_table([errors for _, errors in descents])},
        arrays={"z": z.cpu().numpy()},
    )


def read_image(path: Path, recipe: Recipe) -> np.ndarray:
    """An image file in the network's size: shorter side resized, center cropped, uint8 (size, size, 3).

    For a generator of gray images the three channels are equal.

    Raises:
        ImageError: no such file, or no image that Pillow reads.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; expected an image") from None
    except OSError as error:
        raise ImageError(f"{path}: not readable ({error.strerror}); expected an image file") from None
    try:
        pixels = decode_and_resize(content, ResizeOptions(recipe.size, decode="exact")).images[0]
    except ImageError as error:
        raise ImageError(f"{path}: not readable as an image ({error}); expected a PNG, JPEG or similar") from None
    gray = Image.fromarray(pixels).convert("L")
    return pixels if recipe.channels == 3 else np.repeat(np.asarray(gray)[..., None], 3, axis=2)


def _nearest_random(gan: FrozenGAN, random: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """For each image the `count` nearest of the random z (n, count, z_dim), and the error of the nearest (n,)."""
    images = to_network_range(torch.from_numpy(gan.images(random)), gan.recipe).to(gan.device)
    errors = torch.stack([_rms(images, image, gan.recipe) for image in targets])
    order = errors.argsort(1)[:, :count]
    return random[order], errors.min(1).values


def optimize_z(gan: FrozenGAN, start: Tensor, image: Tensor, *, steps: int) -> tuple[Tensor, Tensor]:
    """z (n, z_dim) after descent towards `image` (C, H, W) in the network's range, and the errors (steps + 1, n).

    Uniform z are kept within the generator's -1 to 1.
    """
    z = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    errors = []
    for _ in range(steps):
        error = _rms(gan.decode(z), image, gan.recipe)
        errors.append(error.detach())
        (gradient,) = torch.autograd.grad((error**2).sum(), z)
        z.grad = gradient
        optimizer.step()
        schedule.step()
        if gan.recipe.z_distribution == "uniform":
            z.data.clamp_(-1, 1)
    with torch.no_grad():
        errors.append(_rms(gan.decode(z), image, gan.recipe))
    return z.detach(), torch.stack(errors)


def _rms(images: Tensor, image: Tensor, recipe: Recipe) -> Tensor:
    """Root mean square difference of (n, C, H, W) from (C, H, W), relative to the range from black to white."""
    span = 2 if recipe.output == "tanh" else 1
    return ((images - image) / span).square().mean((1, 2, 3)).add(1e-12).sqrt()


def _descent_table(errors: Sequence[Tensor]) -> pd.DataFrame:
    """One row per image, start and step."""
    table = np.stack([run.cpu().numpy() for run in errors])
    image, step, start = (axis.ravel() for axis in np.indices(table.shape))
    return pd.DataFrame({"image": image, "start": start, "step": step, "error": table.ravel()})
