"""The trainer: from an image set to a run with checkpoints, metrics and sample grids; resumes what was interrupted.

Every minibatch, its pictures and its z, is a function of the seed and its number alone. So a resumed run needs no
random state, and on one kind of hardware it equals an undisturbed one bit for bit.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evalkit.artifacts import locked, read_manifest
from evalkit.device import arithmetic, describe_device, resolve_device, resolve_precision
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import (
    RUN_KIND,
    TrainingState,
    checkpoints,
    latest_checkpoint,
    new_state,
    remove_old,
    restore,
    save_checkpoint,
    write_run_manifest,
)
from evalkit.gan.monitor import Metrics, write_sample_grid
from evalkit.gan.networks import draw_z, to_network_range
from evalkit.gan.options import TrainOptions
from evalkit.gan.recipes import Recipe
from evalkit.gan.steps import discriminator_step, generator_step
from evalkit.images.imageset import ImageSet

GENERATOR, DISCRIMINATOR = 0, 1


class Minibatches:
    """The training pictures in random order: minibatch t is a function of (seed, t). Incomplete ones are left out."""

    def __init__(self, images: ImageSet, recipe: Recipe, *, seed: int, device: torch.device):
        self.pictures = images.split("train") if "train" in images.splits else images.images
        self.labels = images.labels[: len(self.pictures)]
        self.recipe, self.seed, self.device = recipe, seed, device
        self.an_epoch = len(self.pictures) // recipe.batch_size
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        _check_fits(images, self.pictures, self.labels, recipe)

    def rows(self, t: int) -> np.ndarray:
        """Row numbers of minibatch t, int64 (batch_size,); each epoch is a fresh permutation."""
        epoch, place = divmod(t, self.an_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.pictures)))
        first = place * self.recipe.batch_size
        return self._order[1][first : first + self.recipe.batch_size]

    def real(self, t: int) -> Tensor:
        """Pictures of minibatch t, float32 (B, C, H, W) in the generator's range, channels last."""
        pictures = torch.from_numpy(self.pictures[self.rows(t)]).to(self.device, non_blocking=True)
        return to_network_range(pictures, self.recipe)

    def classes(self, t: int) -> Tensor | None:
        """One-hot labels of minibatch t, float32 (B, K); None where the recipe has no classes."""
        if not self.recipe.classes:
            return None
        labels = torch.from_numpy(self.labels[self.rows(t)]).to(self.device)
        return torch.nn.functional.one_hot(labels, self.recipe.classes).float()

    def z(self, t: int, network: int) -> Tensor:
        """The noise of minibatch t for one of the networks, float32 (B, Z)."""
        random = torch.Generator(self.device).manual_seed((self.seed << 40) + 2 * t + network)
        return draw_z(self.recipe.batch_size, self.recipe, random)


def _check_fits(images: ImageSet, pictures: np.ndarray, labels: np.ndarray, recipe: Recipe) -> None:
    height, width = pictures.shape[1:3]
    if (height, width) != (recipe.size, recipe.size):
        raise EvalkitError(
            f"{images.name}: pictures of {height}x{width}, recipe {recipe.name} takes {recipe.size}x{recipe.size}; "
            f"prepare them with --size {recipe.size}"
        )
    if len(pictures) < recipe.batch_size:
        raise EvalkitError(f"{images.name}: {len(pictures)} pictures, fewer than one minibatch of {recipe.batch_size}")
    if recipe.classes and not (0 <= labels.min() and labels.max() < recipe.classes):
        found = f"labels {labels.min()} to {labels.max()}"
        raise EvalkitError(f"{images.name}: {found}, recipe {recipe.name} takes 0 to {recipe.classes - 1}")


def train(images: ImageSet, run: Path, recipe: Recipe, *, options: TrainOptions = TrainOptions()) -> Path:
    """Trains a DCGAN on the `train` split of `images` (all, if it has none) and returns the last checkpoint.

    An interrupted run in `run` is resumed; a finished one is left as it is, or trained on if `recipe.d_updates` grew.
    SIGINT and SIGTERM write a checkpoint and end the training.

    Raises:
        EvalkitError: the pictures do not fit the recipe, `run` was made with other settings, or the loss became NaN.
    """
    device = resolve_device(options.device)
    minibatches = Minibatches(images, recipe, seed=options.seed, device=device)
    with locked(run):
        precision = _open_run(images, run, recipe, options, device)
        state = new_state(recipe, seed=options.seed, device=device)
        if checkpoints(run):
            restore(state, latest_checkpoint(run))
        return _Training(run, state, minibatches, options, precision, {"images_sha256": images.sha256}).run()


def _open_run(images: ImageSet, run: Path, recipe: Recipe, options: TrainOptions, device: torch.device) -> str:
    """Checks the run's manifest against what is asked, or writes it; returns the run's precision."""
    settings = {"recipe": recipe.as_dict(), "seed": options.seed, "images": images.name}
    if not (run / "manifest.json").exists():
        precision = resolve_precision(options.precision, device)
        made_from = {"images_sha256": images.sha256}
        write_run_manifest(run, settings | {"precision": precision, "device": describe_device(device)}, made_from)
        return precision
    manifest = read_manifest(run, RUN_KIND)
    there = manifest["settings"]
    asked = {**recipe.as_dict(), "seed": options.seed, "images": images.name}
    if options.precision != "auto":
        asked["precision"] = options.precision
    found = {**there["recipe"], **there}
    for key, value in asked.items():
        if key != "d_updates" and found.get(key) != value:
            raise EvalkitError(f"{run}: made with {key} = {found.get(key)}, asked for {value}; give another --name")
    if manifest["made_from"]["images_sha256"] != images.sha256:
        raise EvalkitError(f"{run}: was trained on other pictures of the name {images.name}; give another --name")
    return there["precision"]


class _Training:
    """The loop, with what it writes on the way."""

    def __init__(
        self,
        run: Path,
        state: TrainingState,
        minibatches: Minibatches,
        options: TrainOptions,
        precision: str,
        made_from: dict[str, Any],
    ):
        self.path, self.state, self.minibatches, self.options = run, state, minibatches, options
        self.precision, self.made_from = precision, made_from
        self.metrics = Metrics(run / "metrics.csv", state, device=minibatches.device)

    def run(self) -> Path:
        state, recipe = self.state, self.state.recipe
        end = recipe.d_updates * (2 if recipe.schedule == "alternate" else 1)
        saved_at, saved = time.monotonic(), state.minibatches if checkpoints(self.path) else -1
        bar = tqdm(total=recipe.d_updates, initial=state.d_updates, unit="D update", disable=None)
        with _stop_signals() as stop, bar:
            while state.minibatches < end and not stop.is_set():
                before = state.d_updates
                self._step(state.minibatches)
                state.minibatches += 1
                if state.d_updates == before:
                    continue
                bar.update()
                if state.d_updates % self.options.log_updates == 0:
                    bar.set_postfix(self.metrics.log(state))
                if self._due(time.monotonic() - saved_at):
                    self.save()
                    saved_at, saved = time.monotonic(), state.minibatches
        if saved != state.minibatches:
            self.save()
        if stop.is_set():
            raise EvalkitError(
                f"stopped after {state.d_updates} of {recipe.d_updates} D updates, checkpoint written; "
                "the same command goes on from there"
            )
        return latest_checkpoint(self.path)

    def _step(self, t: int) -> None:
        state, recipe = self.state, self.state.recipe
        _set_learning_rate(state)
        networks, classes = (state.generator, state.discriminator), self.minibatches.classes(t)
        alternate = recipe.schedule == "alternate"
        with arithmetic(self.precision, self.minibatches.device):
            if not alternate or t % 2 == 0:  # G first [release]
                z = self.minibatches.z(t, GENERATOR)
                self.metrics.add_generator(generator_step(*networks, state.g_optimiser, z, classes=classes))
            if not alternate or t % 2 == 1:
                real, z = self.minibatches.real(t), self.minibatches.z(t, DISCRIMINATOR)
                losses = discriminator_step(*networks, state.d_optimiser, real, z, classes=classes)
                self.metrics.add_discriminator(*losses)

    def _due(self, seconds: float) -> bool:
        every, updates = self.options.checkpoint_updates, self.state.d_updates
        milestone = self.options.milestones and updates % self.options.milestones == 0
        return seconds > 60 * self.options.checkpoint_minutes or bool(every and updates % every == 0) or bool(milestone)

    def save(self) -> None:
        """Writes a checkpoint and a sample grid, unless the losses are no longer numbers."""
        self.metrics.check_finite(self.state)
        write_sample_grid(self.path / "samples" / f"d-{self.state.d_updates:08d}.png", self.state)
        self.metrics.sync()
        save_checkpoint(self.path, self.state, made_from=self.made_from)
        remove_old(self.path, keep=self.options.keep, milestones=self.options.milestones)


def _set_learning_rate(state: TrainingState) -> None:
    recipe = state.recipe
    done = state.d_updates / recipe.d_updates
    left = 1.0 if done < recipe.decay_from else (1 - done) / (1 - recipe.decay_from)
    for optimiser in (state.g_optimiser, state.d_optimiser):
        optimiser.param_groups[0]["lr"] = recipe.lr * left


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal ends the process at once."""
    stop = threading.Event()
    previous = {}

    def request(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
