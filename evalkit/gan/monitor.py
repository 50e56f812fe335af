"""What a run shows of itself: metrics.csv and a grid of samples from fixed z."""

import copy
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalkit.artifacts import write_atomically
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import TrainingState
from evalkit.gan.networks import Generator, draw_z, to_pictures
from evalkit.gan.recipes import Recipe

COLUMNS = ("d_updates", "g_updates", "pictures", "seconds", "d_loss", "g_loss", "d_real", "d_fake")
_GRID_SEED = 20151119  # any fixed one: the same z in every grid of every run


class Metrics:
    """metrics.csv: a line every so many D updates, means since the line before. Losses stay on the device between.

    `seconds` counts the time spent training, over all resumptions; `pictures` the real ones D has seen.
    """

    def __init__(self, path: Path, state: TrainingState, *, device: torch.device):
        seconds = _cut_after(path, state.d_updates)
        self._path = path
        self._start = time.monotonic() - seconds
        self._d_sums, self._g_sum = torch.zeros(3, device=device), torch.zeros((), device=device)
        self._d_count = self._g_count = 0

    def add_generator(self, loss: Tensor) -> None:
        self._g_sum += loss
        self._g_count += 1

    def add_discriminator(self, loss: Tensor, real: Tensor, fake: Tensor) -> None:
        self._d_sums += torch.stack([loss, real, fake])
        self._d_count += 1

    def log(self, state: TrainingState) -> dict[str, float]:
        """Writes one line and returns its losses."""
        g_loss = float(self._g_sum) / max(self._g_count, 1)
        d_loss, real, fake = (self._d_sums / max(self._d_count, 1)).tolist()
        seconds = time.monotonic() - self._start
        pictures = state.d_updates * state.recipe.batch_size
        counts = f"{state.d_updates},{state.g_updates},{pictures},{seconds:.1f}"
        with open(self._path, "a") as file:
            file.write(f"{counts},{d_loss:.5f},{g_loss:.5f},{real:.5f},{fake:.5f}\n")
        self.check_finite(state)
        self._d_sums.zero_()
        self._g_sum.zero_()
        self._d_count = self._g_count = 0
        return {"D": round(d_loss, 3), "G": round(g_loss, 3)}

    def check_finite(self, state: TrainingState) -> None:
        """Raises EvalkitError when a loss since the last line is NaN or infinite, so that no such state is saved."""
        if not math.isfinite(float(self._d_sums.sum() + self._g_sum)):
            raise EvalkitError(
                f"the loss is no longer finite after {state.d_updates} D updates (lr {state.recipe.lr}); "
                "the last checkpoint is from before; try a smaller lr or --precision float32"
            )

    def sync(self) -> None:
        """Makes the lines durable."""
        with open(self._path, "a") as file:
            os.fsync(file.fileno())


def _cut_after(path: Path, d_updates: int) -> float:
    """Starts metrics.csv, or drops the lines beyond the resumed state; returns the seconds trained before it."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line for line in lines[1:] if line.count(",") == len(COLUMNS) - 1 and int(line.split(",")[0]) <= d_updates]
    write_atomically(path, "\n".join([",".join(COLUMNS), *rows]) + "\n")
    return float(rows[-1].split(",")[3]) if rows else 0.0


def write_sample_grid(path: Path, state: TrainingState, *, rows: int = 14) -> None:
    """A rows x rows grid of samples from z that stay the same over the run (the release shows 14 x 14)."""
    path.parent.mkdir(exist_ok=True)
    images = sample(state.generator, state.recipe, rows * rows, seed=_GRID_SEED)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(picture_grid(images, rows)).save(temporary, format="png")
    os.replace(temporary, path)


def sample(generator: Generator, recipe: Recipe, count: int, *, seed: int) -> np.ndarray:
    """Samples, uint8 (count, H, W, C); z depend on the seed alone. Conditional recipes show the classes in turn."""
    device = next(generator.parameters()).device
    z = draw_z(count, recipe, torch.Generator().manual_seed(seed)).to(device)
    classes = None
    if recipe.classes:
        classes = torch.nn.functional.one_hot(torch.arange(count, device=device) % recipe.classes, recipe.classes)
    with torch.no_grad():
        return to_pictures(copy.deepcopy(generator).train()(z, classes), recipe)


def picture_grid(images: np.ndarray, rows: int) -> np.ndarray:
    """uint8 (n, H, W, C) -> one RGB picture with `rows` rows, filled row by row."""
    columns = math.ceil(len(images) / rows)
    n, height, width, channels = images.shape
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:n] = images
    grid = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * height, columns * width, channels)
    return np.repeat(grid, 3, axis=2) if channels == 1 else grid
