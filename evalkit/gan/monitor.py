"""What a run logs of itself: metrics.csv, TensorBoard events, grids of samples, and the signs of a collapse.

The trainer calls these between its updates; nothing here changes the weights.
"""

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalkit.artifacts import atomic_file, write_atomically
from evalkit.errors import EvalkitError
from evalkit.files import open_to_write, own_folder
from evalkit.gan.checkpoint import TrainingState
from evalkit.gan.networks import Discriminator, Generator, draw_z, to_images
from evalkit.gan.recipes import Recipe
from evalkit.neighbors import NearestNeighbors
from evalkit.runtime import ALONE, Ranks

COLUMNS = (
    "d_updates", "g_updates", "images", "seconds", "d_loss", "g_loss", "d_real", "d_fake", "diversity", "nnd",
)  # fmt: skip

# -- metrics


class Metrics:
    """metrics.csv: one line every few D updates, means since the previous line. In between, losses stay on the device.

    `seconds` is the time spent training, summed over resumptions; `images` the number of real images that D has seen;
    `diversity` is 0 where samples are equal and 1 where they have nothing in common; `nnd` is the mean distance of real
    images to the nearest sample.
    """

    def __init__(self, path: Path, state: TrainingState, *, device: torch.device, ranks: Ranks = ALONE):
        self._path, self._ranks = path, ranks
        self.rows = _cut_after(path, state.d_updates) if ranks.writes else []
        self._start = time.monotonic() - (self.rows[-1]["seconds"] if self.rows else 0.0)
        self._sums, self._counts = torch.zeros(4, device=device), [0, 0]

    def add_generator(self, loss: Tensor) -> None:
        self._sums[0] += loss
        self._counts[0] += 1

    def add_discriminator(self, loss: Tensor, real: Tensor, fake: Tensor) -> None:
        self._sums[1:] += torch.stack([loss, real, fake])
        self._counts[1] += 1

    def log(self, state: TrainingState, sample_metrics: Mapping[str, float]) -> dict[str, float]:
        """Writes one line, with means over all ranks and the metrics of the samples, and returns it."""
        self._ranks.average([self._sums])
        g_count, d_count = (max(count, 1) for count in self._counts)
        g_loss, d_loss, real, fake = (self._sums.cpu() / torch.tensor([g_count, d_count, d_count, d_count])).tolist()
        counts = (state.d_updates, state.g_updates, state.d_updates * state.recipe.batch_size)
        of_samples = (sample_metrics.get("diversity", math.nan), sample_metrics.get("nnd", math.nan))
        values = (*counts, time.monotonic() - self._start, d_loss, g_loss, real, fake, *of_samples)
        row = dict(zip(COLUMNS, values, strict=True))
        if self._ranks.writes:
            with open_to_write(self._path, "ab") as file:
                file.write((_line(row) + "\n").encode())
            self.rows.append(row)
        self.check_finite(state)
        self._sums.zero_()
        self._counts = [0, 0]
        return row

    def check_finite(self, state: TrainingState) -> None:
        """Raises EvalkitError if a loss since the last line is NaN or infinite, so that no such state is saved."""
        if not math.isfinite(float(self._sums.sum())):
            raise EvalkitError(
                f"the loss is no longer finite after {state.d_updates} D updates (lr {state.recipe.lr}); "
                "the last checkpoint is older; try a smaller lr or --precision float32"
            )

    def sync(self) -> None:
        """Makes the lines durable."""
        with open_to_write(self._path, "ab") as file:
            os.fsync(file.fileno())


class Events:
    """Writes metrics as TensorBoard scalars to RUN/events; what a resumed run had logged after `from_step` is hidden.

    Raises:
        EvalkitError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, from_step: int):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about TensorBoard's own imports
                from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise EvalkitError(
                "TensorBoard is not installed; pip install 'evalkit[tensorboard]', or train without --tensorboard"
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=from_step)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to the curve of each name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


_COLLAPSE_LINES = 10  # in a row: a bad moment passes, a broken run does not
_SATURATED_LOSS = 2e-3  # of D, BCE or hinge: telling real from fake with certainty leaves G hardly any gradient
_COLLAPSED_DIVERSITY = 0.1  # 99 % of the variance is in the mean image; natural images have 0.99


def detect_collapse(rows: Sequence[Mapping[str, float]]) -> tuple[str, int] | None:
    """What is wrong according to the last lines of metrics.csv, and since how many D updates; None if nothing is.

    Args:
        rows: the lines, oldest first, with at least `d_updates`, `d_loss` and `diversity`.
    """
    last = rows[-_COLLAPSE_LINES:]
    if len(last) < _COLLAPSE_LINES:
        return None
    since = int(last[0]["d_updates"])
    if all(row["d_loss"] < _SATURATED_LOSS for row in last):
        return f"D tells all samples from real images (its loss is below {_SATURATED_LOSS})", since
    if all(row["diversity"] < _COLLAPSED_DIVERSITY for row in last):
        return f"samples have collapsed (their diversity is below {_COLLAPSED_DIVERSITY})", since
    return None


def _line(row: dict[str, float]) -> str:
    formats = ("{}", "{}", "{}", "{:.1f}", "{:.5f}", "{:.5f}", "{:.5f}", "{:.5f}", "{:.3f}", "{:.4f}")
    cells = [form.format(row[column]) for form, column in zip(formats, COLUMNS, strict=True)]
    return ",".join("" if cell == "nan" else cell for cell in cells)


def _cut_after(path: Path, d_updates: int) -> list[dict[str, float]]:
    """Starts metrics.csv, or drops incomplete lines and those after the resumed state; returns the remaining lines."""
    lines = path.read_text().splitlines() if path.exists() else []
    header = tuple(lines[0].split(",")) if lines else COLUMNS
    rows = []
    for line in lines[1:]:
        cells = dict(zip(header, line.split(","), strict=False))
        if len(cells) == len(header) and int(cells["d_updates"]) <= d_updates:
            rows.append({column: _number(cells.get(column, "")) for column in COLUMNS})
    write_atomically(path, "\n".join([",".join(COLUMNS), *map(_line, rows)]) + "\n")
    return rows


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text or "nan")


# -- samples

_GRID_SEED = 20151119  # any constant: the same z in every grid of every run
_ROWS = 14  # the release shows 14 x 14 fixed z
_SORTED = 20  # and 20 x 20 samples sorted by D's score


def sample(generator: Generator, recipe: Recipe, count: int, *, seed: int) -> np.ndarray:
    """Samples, uint8 (count, H, W, C); z depend on the seed alone. Conditional recipes cycle through the classes."""
    return to_images(_generated(generator, recipe, count, seed=seed)[0], recipe)


def write_sample_grid(path: Path, generator: Generator, recipe: Recipe) -> None:
    """Writes a grid of samples from z that stay the same during the run, as the release does per epoch."""
    write_image(path, image_grid(sample(generator, recipe, _ROWS**2, seed=_GRID_SEED), _ROWS))


@torch.no_grad()
def write_sorted_grid(path: Path, generator: Generator, discriminator: Discriminator, recipe: Recipe) -> None:
    """Writes 400 samples sorted by D's score, the most real first; both networks use batch statistics [release]."""
    images, classes = _generated(generator, recipe, _SORTED**2, seed=_GRID_SEED + 1)
    copied = Discriminator(recipe).to(images.device)
    copied.load_state_dict(discriminator.state_dict())
    order = copied(images, classes).argsort(descending=True)
    write_image(path, image_grid(to_images(images[order], recipe), _SORTED))


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes uint8 (H, W, 3) as a PNG, atomically."""
    own_folder(path.parent)
    with atomic_file(path) as file:
        Image.fromarray(image).save(file, format="png")


def image_grid(images: np.ndarray, rows: int) -> np.ndarray:
    """uint8 (n, H, W, C) -> one RGB image with `rows` rows, filled row by row."""
    columns = math.ceil(len(images) / rows)
    n, height, width, channels = images.shape
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:n] = images
    grid = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * height, columns * width, channels)
    return np.repeat(grid, 3, axis=2) if channels == 1 else grid


def diversity(images: np.ndarray) -> float:
    """How much images differ from their mean image: 0 for equal images, 1 where they have nothing in common.

    The square root of the share of the pixels' total variance that remains when the mean image is subtracted. It does
    not depend on contrast: that of G's images drifts, as D cannot see it (D's first batch norm removes it per batch).

    Args:
        images: uint8 (n, H, W, C).
    """
    values = images.astype(np.float32)
    total = values.var(axis=(0, 1, 2)).mean()
    return float(np.sqrt(values.var(axis=0).mean() / total)) if total else 0.0


_NND_IMAGES = 10_000  # real images compared [release]
_NND_BATCH = 500  # samples per batch: the batch statistics of G depend on it
_NND_SEED = 7_000_000


def nearest_sample_distance(generator: Generator, recipe: Recipe, images: np.ndarray, *, samples: int) -> float:
    """nnd: the mean Euclidean distance of `images`, scaled to [0, 1], to the nearest of `samples` samples [release].

    Args:
        images: uint8 (N, H, W, 3); at most 10,000 of them are used, evenly spaced; larger ones are center-cropped.
        samples: number of samples (1,000, 10,000 and 100,000 in the release).
    """
    device = next(generator.parameters()).device
    chosen = np.unique(np.linspace(0, len(images) - 1, min(_NND_IMAGES, len(images))).astype(int))
    pixels = np.asarray(images[chosen])[..., : recipe.channels]
    top, left = ((side - recipe.size) // 2 for side in pixels.shape[1:3])
    real = _flat(pixels[:, top : top + recipe.size, left : left + recipe.size], device)
    nearest = NearestNeighbors(real)
    for first in range(0, samples, _NND_BATCH):
        drawn = sample(generator, recipe, min(_NND_BATCH, samples - first), seed=_NND_SEED + first)
        nearest.update(_flat(drawn, device), torch.arange(first, first + len(drawn), device=device))
    return float(nearest.distances.clamp_min(0).sqrt().mean())


@torch.no_grad()
def _generated(generator: Generator, recipe: Recipe, count: int, *, seed: int) -> tuple[Tensor, Tensor | None]:
    """One batch of samples and the one-hot classes. From a copy of G: the trainer may have synchronized G's norms."""
    device = next(generator.parameters()).device
    copied = Generator(recipe).to(device)
    copied.load_state_dict(generator.state_dict())
    z = draw_z(count, recipe, torch.Generator().manual_seed(seed)).to(device)
    classes = None
    if recipe.classes:
        classes = torch.nn.functional.one_hot(torch.arange(count, device=device) % recipe.classes, recipe.classes)
    return copied.train()(z, classes), classes


def _flat(images: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(images.reshape(len(images), -1)).to(device).float() / 255
