"""The paper's MNIST table: the test error of a 1-NN classifier fitted on samples of a conditional generator."""

import dataclasses
import hashlib
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from evalkit.arrays import Building, building
from evalkit.artifacts import commit, new_manifest
from evalkit.cards import write_card
from evalkit.device import describe_device, resolve_device
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import read_checkpoint, stored_recipe, weights_file
from evalkit.gan.layout import find_checkpoint, run_of
from evalkit.gan.networks import Generator, to_network_range
from evalkit.gan.recipes import Recipe
from evalkit.gan.weights import load_weights
from evalkit.images import ImageSet, find_images
from evalkit.measure import quiet
from evalkit.probes.nearest_sample import BATCH, Draw, Nearest, sampler
from evalkit.protocols.selection import Progress
from evalkit.protocols.spreads import spread_of
from evalkit.results import Figure, add_figure
from evalkit.version import stamps, versions
from evalkit.workspace import Workspace

KIND = "1-NN fit"
_STEP = 100  # batches between records of progress


def nn_error(
    workspace: Workspace,
    encoder: str = "latest",
    *,
    dataset: str = "mnist",
    samples: int = 50_000,
    seed: int = 0,
    device: str = "auto",
    say: Progress = quiet,
) -> Figure:
    """Measures one figure: a row of results.csv with its run card; killed, it goes on where it was.

    Args:
        encoder: a run or checkpoint of a conditional recipe.
        dataset: whose test pictures are classified.
        samples: of all classes together, as many of each.

    Raises:
        EvalkitError: a recipe without classes, or with others than the data set's, or pictures of another size.
    """
    started, where = time.monotonic(), resolve_device(device)
    checkpoint = find_checkpoint(encoder, workspace)
    manifest = read_checkpoint(checkpoint)
    recipe, name = stored_recipe(manifest), f"{run_of(checkpoint).name}@{manifest['settings']['d_updates']}"
    _check_conditional(recipe, name)  # before a download
    images = find_images(workspace, dataset, progress=True)
    _check_fitting(recipe, images, name)
    say(f"generator: {checkpoint}; test pictures: {images.name}")
    generator = Generator(recipe)
    weights = weights_file(manifest, "generator")
    load_weights(generator, checkpoint / weights)
    sha256 = manifest["files"][weights]["sha256"]
    settings = {"encoder": name, "dataset": images.name, "samples": samples, "seed": seed}
    made_from = {"weights_sha256": sha256, "images_sha256": images.sha256}
    target = workspace.home / "nn-error" / f"{images.name}--{name}--{samples}"
    with building(target, settings=settings, made_from=made_from) as artifact:
        test = torch.from_numpy(np.array(images.split("test")))
        pictures = to_network_range(test, recipe).flatten(1).to(where)
        found = _fit(artifact, sampler(generator.to(where), recipe, seed=seed), pictures, samples)
        artifact.finish(new_manifest(KIND, settings=settings, made_from=made_from))
    figure = _figure(images, found, settings, made_from, time.monotonic() - started, describe_device(where))
    return _record(workspace, figure, images, found)


def _check_conditional(recipe: Recipe, name: str) -> None:
    if not recipe.classes:
        raise EvalkitError(
            f"{name}: recipe {recipe.name} has no classes, so its samples have no labels; train a conditional one "
            "(`evalkit train-gan --recipe mnist`)"
        )


def _check_fitting(recipe: Recipe, images: ImageSet, name: str) -> None:
    size = images.images.shape[1:3]
    if recipe.classes != len(images.class_names) or size != (recipe.size, recipe.size):
        raise EvalkitError(
            f"{name}: draws {recipe.classes} classes at {recipe.size}x{recipe.size}, {images.name} has "
            f"{len(images.class_names)} at {size[0]}x{size[1]}"
        )


def _fit(artifact: Building, draw: Draw, pictures: torch.Tensor, samples: int) -> np.ndarray:
    """Labels of the nearest samples, int64 (N,)."""
    kept, done = artifact.path / "nearest.npz", artifact.progress.get("batches", 0)
    nearest = Nearest.none_yet(len(pictures), pictures.device)
    if done:
        with np.load(kept) as arrays:
            nearest = Nearest(*(torch.from_numpy(arrays[key]).to(pictures.device) for key in ("distances", "labels")))
    batches = -(-samples // BATCH)
    for number in tqdm(range(done, batches), initial=done, total=batches, desc="samples", unit="batch", disable=None):
        nearest.update(pictures, *draw(number, min(BATCH, samples - number * BATCH)))
        if (number + 1) % _STEP == 0 or number + 1 == batches:
            np.savez(kept, distances=nearest.distances.cpu().numpy(), labels=nearest.labels.cpu().numpy())
            artifact.save(batches=number + 1)
    return nearest.labels.cpu().numpy()


def _figure(
    images: ImageSet, found: np.ndarray, settings: dict, made_from: dict, seconds: float, device: str
) -> Figure:
    labels = images.labels[slice(*images.splits["test"])]
    spread = spread_of((found != labels)[None])
    nothing = float("nan")
    return Figure(
        dataset=images.name,
        encoder=settings["encoder"],
        features=int(np.prod(images.images.shape[1:])),
        protocol=f"1-nn on {_short(settings['samples'])} samples",
        metric="error_percent",
        n=1,
        C=nothing,
        grid="",
        validation_percent=nothing,
        n_train=settings["samples"],
        n_validation=0,
        n_test=len(labels),
        duality_gap=nothing,
        error_estimate=nothing,
        weights_sha256=made_from["weights_sha256"],
        features_sha256=made_from["images_sha256"],
        seed=settings["seed"],
        seconds=seconds,
        device=device,
        classifier="1-NN",
        **spread.columns(),
        **stamps(),
    )


def _short(count: int) -> str:
    """50000 as 50K, 10000000 as 10M: as the table's columns are named."""
    for size, letter in ((1_000_000, "M"), (1000, "K")):
        if count % size == 0:
            return f"{count // size}{letter}"
    return str(count)


def _record(workspace: Workspace, figure: Figure, images: ImageSet, found: np.ndarray) -> Figure:
    """Writes the run card and the row."""
    labels = images.labels[slice(*images.splits["test"])]
    row = {key: None if value != value else value for key, value in dataclasses.asdict(figure).items() if key != "card"}
    content: dict[str, Any] = {
        "figure": row,
        "labels_sha256": hashlib.sha256(np.asarray(images.labels, "<i8").tobytes()).hexdigest(),
        "draws_sha256": "",
        "images_sha256": images.sha256,
        "weights_sha256": figure.weights_sha256,
        "class_names": list(images.class_names),
        "versions": versions(),
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    card = write_card(workspace.results, content, predictions=found[None], labels=labels)
    named = dataclasses.replace(figure, card=card)
    add_figure(workspace.results, named)
    return named
