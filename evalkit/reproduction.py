"""The commands as functions over a workspace: each finds its input there, unless told, and puts its output there.

What `evalkit reproduce` can reproduce.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from evalkit.errors import EvalkitError
from evalkit.evaluation.measure import is_measured, measure, quiet
from evalkit.evaluation.protocol import REPRODUCTIONS, Protocol
from evalkit.evaluation.training_probe import TrainingProbe
from evalkit.features.extract import Say, extract_features
from evalkit.features.featureset import KIND as FEATURES
from evalkit.gan import train as trainer
from evalkit.gan.checkpoint import RUN_KIND
from evalkit.gan.recipes import Recipe, TrainOptions, recipe_named
from evalkit.gan.run_dir import find_checkpoint
from evalkit.images import ImageSet, dataset_names, find_images, load_images, prepare_from
from evalkit.pretrained.registry import shipped
from evalkit.report.tables import compare_with_published, original
from evalkit.results import Result
from evalkit.runtime import local_device, resolve_device
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)


def training_images(
    workspace: Workspace, recipe: Recipe, name: str | None = None, *, download: bool = True
) -> ImageSet:
    """The images to train on: those named, else the recipe's, else the latest prepared set that is no benchmark.

    Raises:
        EvalkitError: there are none; the message says how to prepare some.
    """
    if name or recipe.images:
        return find_images(workspace, name or recipe.images, download=download, progress=True)
    for path in reversed(workspace.artifacts("image set")):
        if path.name.removesuffix("-jpeg") not in set(dataset_names()) - {"imagenet"}:
            return load_images(path)
    return find_images(workspace, "imagenet", progress=True)


def train_gan(
    workspace: Workspace,
    recipe: Recipe,
    *,
    images: str | None = None,
    name: str | None = None,
    options: TrainOptions = TrainOptions(),
    start: str | None = None,
    probe: str | None = None,
    probe_updates: int | None = None,
    download: bool = True,
    say: Say = quiet,
) -> Path:
    """Trains (or goes on training) the run `name`, by default the recipe's, and returns its last checkpoint.

    Args:
        start: the checkpoint a new run goes on from: a path, RUN or RUN@UPDATES.
        probe: DATASET:K, a benchmark whose training images measure the features while they are trained.
        probe_updates: D updates between probes, by default a fiftieth of the training.
    """
    pictures = training_images(workspace, recipe, images, download=download)
    run = workspace.path_of(RUN_KIND, name or recipe.name)
    workspace.mark_latest(run)
    say(f"images: {pictures.name} ({len(pictures):,} images)")
    say(f"run: {run} (recipe {recipe.name}, {recipe.d_updates:,} D updates)")
    every = probe_updates or max(1, recipe.d_updates // 50)
    watcher = _training_probe(workspace, run, probe, every, options, download, say) if probe else None
    begin = find_checkpoint(start, workspace) if start else None
    return trainer.train(pictures, run, recipe, options=options, start=begin, watcher=watcher)


def _training_probe(
    workspace: Workspace, run: Path, probe: str, every: int, options: TrainOptions, download: bool, say: Say
) -> TrainingProbe:
    dataset, _, count = probe.rpartition(":")
    if not dataset or not count.isdigit() or int(count) < 1:
        raise EvalkitError(f"probe {probe!r}: expected DATASET:K, K labels a class, like cifar10:400")
    images = find_images(workspace, dataset, download=download, progress=True)
    device = str(local_device(resolve_device(options.device)))
    return TrainingProbe(images, run, labels_per_class=int(count), every=every, device=device, say=say)


def reproduce(
    name: str,
    *,
    home: Workspace | Path | str,
    data: str | None = None,
    images: str | None = None,
    encoder: str | None = None,
    train: bool = False,
    baselines: bool = True,
    device: str = "auto",
    download: bool = True,
    on_result: Callable[[Result], None] = lambda result: None,
) -> pd.DataFrame:
    """Measures what is missing of a table of the paper, and returns that table beside the published one.

    It prepares the images, trains or loads the encoder, extracts features of it and of the baselines, and measures
    them under the table's protocols. Without an encoder it takes the weights shipped for the table; if there are none,
    or if asked to, it trains. Results already in the workspace are not measured again.

    Args:
        name: a name in `evalkit.evaluation.protocol.REPRODUCTIONS`.
        home: the workspace.
        data: source of the data set's images (a folder, Parquet files), instead of torchvision's download.
        images: the image set to train on, instead of the recipe's.
        encoder: a trained encoder, instead of the shipped weights or of training one.
        train: train even if there are shipped weights.
        baselines: measure random weights and pixels too.
        on_result: called with each result as soon as it is measured.

    Raises:
        EvalkitError: an unknown name (the message lists the names), or what the steps raise.
    """
    if name not in REPRODUCTIONS:
        raise EvalkitError(f"{name}: no such reproduction; choose {', '.join(REPRODUCTIONS)}")
    workspace, table = Workspace.of(home), REPRODUCTIONS[name]
    dataset = prepare_from(workspace, data, table.dataset).name if data else table.dataset
    if encoder is None and not (train or images) and table.shipped in {path.name for path in shipped()}:
        encoder = f"pretrained:{table.shipped}"
    if encoder is None:
        options, recipe = TrainOptions(device=device), recipe_named(table.recipe)
        run = train_gan(workspace, recipe, images=images, options=options, download=download, say=logger.info)
        encoder = str(run)
    for each in (encoder, *(table.baselines if baselines else ())):
        features = extract_features(workspace, dataset, each, device=device, download=download, say=logger.info)
        path = workspace.path_of(FEATURES, f"{features.dataset}--{features.encoder.replace(':', '-')}")
        for labels_per_class in table.labels_per_class:
            protocol = Protocol(labels_per_class=labels_per_class)
            if not is_measured(workspace, features, protocol):
                logger.info("protocol: %s", protocol.name)
                on_result(measure(workspace, protocol, features=str(path), device=device, say=logger.info).result)
    compared = compare_with_published(workspace.results)
    return compared[compared["dataset"].map(original) == name]
