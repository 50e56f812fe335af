"""What a run shows of itself: samples, and the grids of them."""

import math
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalkit.gan.networks import Discriminator, Generator, draw_z, to_pictures
from evalkit.gan.recipe import Recipe

_GRID_SEED = 20151119  # any fixed one: the same z in every grid of every run
_ROWS = 14  # the release shows 14 x 14 fixed z
_SORTED = 20  # and 20 x 20 samples in the order of D's score


def sample(generator: Generator, recipe: Recipe, count: int, *, seed: int) -> np.ndarray:
    """Samples, uint8 (count, H, W, C); z depend on the seed alone. Conditional recipes show the classes in turn."""
    return to_pictures(_generated(generator, recipe, count, seed=seed)[0], recipe)


@torch.no_grad()
def _generated(generator: Generator, recipe: Recipe, count: int, *, seed: int) -> tuple[Tensor, Tensor | None]:
    """What G draws as one batch, and the one-hot classes. On a copy: alone, whatever the trainer made of G's norms."""
    device = next(generator.parameters()).device
    alone = Generator(recipe).to(device)
    alone.load_state_dict(generator.state_dict())
    z = draw_z(count, recipe, torch.Generator().manual_seed(seed)).to(device)
    classes = None
    if recipe.classes:
        classes = torch.nn.functional.one_hot(torch.arange(count, device=device) % recipe.classes, recipe.classes)
    return alone.train()(z, classes), classes


def write_sample_grid(path: Path, generator: Generator, recipe: Recipe) -> None:
    """A grid of samples from z that stay the same over the run, as the release shows each epoch."""
    write_picture(path, picture_grid(sample(generator, recipe, _ROWS**2, seed=_GRID_SEED), _ROWS))


@torch.no_grad()
def write_sorted_grid(path: Path, generator: Generator, discriminator: Discriminator, recipe: Recipe) -> None:
    """400 samples sorted by D's score, the most real first; both networks with batch statistics [release]."""
    images, classes = _generated(generator, recipe, _SORTED**2, seed=_GRID_SEED + 1)
    alone = Discriminator(recipe).to(images.device)
    alone.load_state_dict(discriminator.state_dict())
    order = alone(images, classes).argsort(descending=True)
    write_picture(path, picture_grid(to_pictures(images[order], recipe), _SORTED))


def write_picture(path: Path, picture: np.ndarray) -> None:
    """A PNG, whole or absent; uint8 (H, W, 3)."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(picture).save(temporary, format="png")
    os.replace(temporary, path)


def picture_grid(images: np.ndarray, rows: int) -> np.ndarray:
    """uint8 (n, H, W, C) -> one RGB picture with `rows` rows, filled row by row."""
    columns = math.ceil(len(images) / rows)
    n, height, width, channels = images.shape
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:n] = images
    grid = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * height, columns * width, channels)
    return np.repeat(grid, 3, axis=2) if channels == 1 else grid


def diversity(pictures: np.ndarray) -> float:
    """How far pictures differ from their mean picture: 0 for equal ones, 1 where they have nothing in common.

    The root of the share of all pixels' variance that is left when the mean picture is taken off. Contrast has no part
    in it: that of G's pictures drifts, as D cannot see it (its first batch norm takes it out of each batch).

    Args:
        pictures: uint8 (n, H, W, C).
    """
    values = pictures.astype(np.float32)
    everything = values.var(axis=(0, 1, 2)).mean()
    return float(np.sqrt(values.var(axis=0).mean() / everything)) if everything else 0.0
