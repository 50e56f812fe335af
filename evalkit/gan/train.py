"""Training a DCGAN: from images and a recipe to a run with checkpoints, metrics and sample grids.

Finds the images, opens or resumes the run (run_dir.py) and hands both networks to the Trainer (trainer.py). Every
minibatch, its images and its z, is a function of the seed and its number alone. So a resumed run needs no random state,
and on one kind of hardware it equals an uninterrupted one bit for bit.
"""

import logging
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.artifacts import locked
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import RUN_KIND, TrainingSegment, TrainingState, extend_history, new_state, restore
from evalkit.gan.minibatches import Minibatches
from evalkit.gan.norms import sync_batch_norms
from evalkit.gan.recipes import Recipe, TrainOptions, load_recipe
from evalkit.gan.run_dir import (
    RunSettings,
    checkpoints,
    find_checkpoint,
    init_from_checkpoint,
    latest_checkpoint,
    open_run,
    run_of,
)
from evalkit.gan.trainer import Probe, Trainer
from evalkit.images import as_image_set, dataset_names, load_images
from evalkit.images.imageset import ImageSet
from evalkit.runtime import Ranks, joined, local_device, resolve_device
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedGAN(os.PathLike[str]):
    """The last checkpoint of a training; it can be passed wherever the path of a checkpoint is accepted.

    Attributes:
        checkpoint: the checkpoint's folder. In a temporary workspace it exists as long as this object.
    """

    checkpoint: Path
    _workspace: Workspace = field(repr=False, compare=False)

    @property
    def run(self) -> Path:
        """The folder of the run, with metrics.csv and grids of samples."""
        return run_of(self.checkpoint)

    def __fspath__(self) -> str:
        return str(self.checkpoint)

    def __str__(self) -> str:
        return str(self.checkpoint)


def train_gan(
    images: Any = None,
    recipe: Recipe | str | os.PathLike[str] = "imagenet32",
    *,
    home: Workspace | Path | str | None = None,
    name: str | None = None,
    options: TrainOptions = TrainOptions(),
    start: str | os.PathLike[str] | None = None,
    probe: Probe | None = None,
    probe_updates: int | None = None,
    download: bool = True,
) -> TrainedGAN:
    """Trains a DCGAN, or resumes the run `name`, and returns its last checkpoint.

    Args:
        images: the images to train on, as `as_image_set` takes them; by default the recipe's, else the workspace's
            latest prepared image set that is not a benchmark.
        recipe: what to train: a Recipe, the name of one, or a .toml file.
        home: the workspace; without one the run is temporary and exists as long as the returned object.
        name: the run's name; by default the recipe's.
        options: how to train.
        start: the checkpoint that a new run starts from instead of fresh weights: a path, RUN or RUN@UPDATES. The
            recipe may differ from that of the checkpoint in everything but shapes.
        probe: called with a checkpoint every `probe_updates` D updates, e.g. a TrainingProbe.
        probe_updates: by default a fiftieth of the training.
        download: download the files of a named data set that are missing.

    Raises:
        EvalkitError: there are no images or they do not fit the recipe, the run was made with other settings, the loss
            became NaN, or the run collapsed.
    """
    workspace = Workspace.of(home)
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(os.fspath(recipe))
    image_set = training_images(images, chosen, home, download=download)
    run = workspace.path_of(RUN_KIND, name or chosen.name)
    workspace.mark_latest(run)
    logger.info("images: %s (%s images)", image_set.name, f"{len(image_set):,}")
    logger.info("run: %s (recipe %s, %s D updates)", run, chosen.name, f"{chosen.d_updates:,}")
    begin = find_checkpoint(os.fspath(start), workspace) if start else None
    checkpoint = train(image_set, run, chosen, options=options, start=begin, probe=probe, probe_updates=probe_updates)
    return TrainedGAN(checkpoint, workspace)


def training_images(
    images: Any, recipe: Recipe, home: Workspace | Path | str | None, *, download: bool = True
) -> ImageSet:
    """The images to train on: those given, else the recipe's, else the latest prepared set that is not a benchmark.

    Raises:
        EvalkitError: there are none; the message says how to prepare some.
    """
    if images is not None:
        return as_image_set(images, home=home, download=download)
    if recipe.images:
        return as_image_set(recipe.images, home=home, download=download)
    workspace = Workspace.of(home)
    for path in reversed(workspace.artifacts("image set")):
        if path.name.removesuffix("-jpeg") not in set(dataset_names()) - {"imagenet"}:
            return load_images(path)
    if workspace.is_temporary:
        raise EvalkitError(f"recipe {recipe.name} names no images; give images=, or home= with a prepared image set")
    return as_image_set("imagenet", home=workspace)


def train(
    images: ImageSet,
    run: Path,
    recipe: Recipe,
    *,
    options: TrainOptions = TrainOptions(),
    start: Path | None = None,
    probe: Probe | None = None,
    probe_updates: int | None = None,
) -> Path:
    """Trains a DCGAN on the `train` split of `images` (all, if it has none) and returns the last checkpoint.

    An interrupted run in `run` is resumed; a finished one is left as it is, or extended if `recipe.d_updates` grew.
    SIGINT and SIGTERM write a checkpoint and end the training. Under `torchrun` each process takes its share of every
    minibatch; the number of processes may change when the run is resumed, and checkpoints record it.

    Args:
        start: a checkpoint whose weights and moments a new run begins with; the recipe may differ in all but shapes.
        probe: called with a checkpoint every `probe_updates` D updates, in one process.
        probe_updates: by default a fiftieth of the training.

    Raises:
        EvalkitError: the images do not fit the recipe, `run` was made with other settings, the loss became NaN, or
            the run collapsed.
    """
    device = local_device(resolve_device(options.device))
    with joined(device) as ranks, locked(run) if ranks.writes else nullcontext():
        minibatches = Minibatches(images, recipe, seed=options.seed, device=device, ranks=ranks)
        state = new_state(recipe, seed=options.seed, device=device)
        if start and not checkpoints(run):
            init_from_checkpoint(state, start)
        manifest = open_run(images, run, recipe, options, start=start, device=device, ranks=ranks)
        precision = RunSettings.from_manifest(manifest).precision
        if checkpoints(run):
            restore(state, latest_checkpoint(run))
        _set_up(state, options, precision, ranks)
        trainer = Trainer(
            run,
            state,
            minibatches,
            options,
            precision=precision,
            made_from=manifest["made_from"],
            ranks=ranks,
            probe=probe,
            probe_updates=probe_updates or max(1, recipe.d_updates // 50),
        )
        return trainer.run()


def _set_up(state: TrainingState, options: TrainOptions, precision: str, ranks: Ranks) -> None:
    """Records how the training continues, and synchronizes and compiles the networks where the options ask for it."""
    synced = options.sync_batch_norm and ranks.count > 1
    state.history = extend_history(state.history, TrainingSegment(state.d_updates, ranks.count, synced, precision))
    for network in (state.generator, state.discriminator):
        if synced:
            sync_batch_norms(network, ranks)
        if options.compile:
            network.compile()
