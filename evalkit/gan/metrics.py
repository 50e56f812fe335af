"""metrics.csv: what a run logs of itself every few updates."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from evalkit.artifacts import write_atomically
from evalkit.distributed import ALONE, Ranks
from evalkit.errors import EvalkitError
from evalkit.gan.state import TrainingState

COLUMNS = (
    "d_updates", "g_updates", "pictures", "seconds", "d_loss", "g_loss", "d_real", "d_fake", "diversity", "nnd",
)  # fmt: skip


class Metrics:
    """A line every so many D updates, means since the line before. Losses stay on the device between.

    `seconds` counts the time spent training, over all resumptions; `pictures` the real ones D has seen; `diversity` is
    0 where samples are equal and 1 where they have nothing in common; `nnd` the mean distance of real pictures to the
    nearest sample.
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

    def log(self, state: TrainingState, looks: Mapping[str, float]) -> dict[str, float]:
        """Writes one line, means over all ranks and what the samples look like, and returns it."""
        self._ranks.average([self._sums])
        g_count, d_count = (max(count, 1) for count in self._counts)
        g_loss, d_loss, real, fake = (self._sums.cpu() / torch.tensor([g_count, d_count, d_count, d_count])).tolist()
        counts = (state.d_updates, state.g_updates, state.d_updates * state.recipe.batch_size)
        shown = (looks.get("diversity", math.nan), looks.get("nnd", math.nan))
        values = (*counts, time.monotonic() - self._start, d_loss, g_loss, real, fake, *shown)
        row = dict(zip(COLUMNS, values, strict=True))
        if self._ranks.writes:
            with open(self._path, "a") as file:
                file.write(_line(row) + "\n")
            self.rows.append(row)
        self.check_finite(state)
        self._sums.zero_()
        self._counts = [0, 0]
        return row

    def check_finite(self, state: TrainingState) -> None:
        """Raises EvalkitError when a loss since the last line is NaN or infinite, so that no such state is saved."""
        if not math.isfinite(float(self._sums.sum())):
            raise EvalkitError(
                f"the loss is no longer finite after {state.d_updates} D updates (lr {state.recipe.lr}); "
                "the last checkpoint is from before; try a smaller lr or --precision float32"
            )

    def sync(self) -> None:
        """Makes the lines durable."""
        with open(self._path, "a") as file:
            os.fsync(file.fileno())


def _line(row: dict[str, float]) -> str:
    formats = ("{}", "{}", "{}", "{:.1f}", "{:.5f}", "{:.5f}", "{:.5f}", "{:.5f}", "{:.3f}", "{:.4f}")
    cells = [form.format(row[column]) for form, column in zip(formats, COLUMNS, strict=True)]
    return ",".join("" if cell == "nan" else cell for cell in cells)


def _cut_after(path: Path, d_updates: int) -> list[dict[str, float]]:
    """Starts metrics.csv, or drops the lines beyond the resumed state and half-written ones; returns those left."""
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
