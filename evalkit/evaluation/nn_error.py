"""nn_error: the paper's MNIST table, the test error of a 1-nearest-neighbour classifier fitted on generated samples.

The samples are those of a conditional generator (Radford et al. 2016, table 3; the release's `nnc`). They come in
batches, and only the nearest sample so far of each test image is kept.
"""

import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evalkit.artifacts import ArtifactWriter, new_manifest, write_artifact
from evalkit.errors import EvalkitError
from evalkit.evaluation.labels import check_split
from evalkit.evaluation.record import provenance, result_row
from evalkit.evaluation.statistics import uncertainty_of
from evalkit.gan.checkpoint import load_weights, read_checkpoint, stored_recipe, weights_file
from evalkit.gan.networks import Generator, draw_z, to_network_range
from evalkit.gan.recipes import Recipe
from evalkit.gan.run_dir import find_checkpoint, run_of
from evalkit.images import ImageSet, as_image_set
from evalkit.neighbors import NearestNeighbors
from evalkit.results import Result, add_result, write_card
from evalkit.runtime import describe_device, resolve_device
from evalkit.version import stamps
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)

KIND = "1-NN fit"
BATCH = 1000  # samples at a time, all classes in turn: batch norm uses their statistics
_STEP = 100  # batches between records of progress
DrawSamples = Callable[[int, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Inputs:
    """A generator's checkpoint, the images it is tested on, and the settings of the samples."""

    checkpoint: Path
    name: str
    recipe: Recipe
    weights: str
    weights_sha256: str
    images: ImageSet
    samples: int
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        return {"encoder": self.name, "dataset": self.images.name, "samples": self.samples, "seed": self.seed}

    @property
    def made_from(self) -> dict[str, Any]:
        return {"weights_sha256": self.weights_sha256, "images_sha256": self.images.sha256}

    @property
    def test_labels(self) -> np.ndarray:
        return self.images.labels[slice(*self.images.splits["test"])]


def nn_error(
    encoder: Any = "latest",
    images: Any = "mnist",
    *,
    home: Workspace | Path | str | None = None,
    samples: int = 50_000,
    seed: int = 0,
    device: str = "auto",
) -> Result:
    """Fits 1-NN on generated samples and measures its test error; an interrupted fit resumes.

    With `home` it records the result: a row of results.csv with its run card.

    Args:
        encoder: a run or checkpoint of a conditional recipe, by name or path, or what `train_gan` returned.
        images: the data set whose test images are classified: whatever `as_image_set` takes.
        home: the workspace, or its folder.
        samples: total number of samples, the same for each class.
        seed: seed of the samples.
        device: where to compute: auto, cpu, cuda or cuda:N.

    Raises:
        EvalkitError: a recipe without classes, or with others than the data set's, or images of another size.
    """
    started, where, workspace = time.monotonic(), resolve_device(device), Workspace.of(home)
    inputs = _inputs(str(encoder), images, workspace, samples, seed)
    logger.info("generator: %s; test images: %s", inputs.checkpoint, inputs.images.name)
    predictions = _predict(inputs, workspace, where)
    seconds = time.monotonic() - started
    result = _result(inputs, predictions, seconds, describe_device(where))
    return result if home is None else _record(workspace, result, inputs, predictions)


def _inputs(encoder: str, images: Any, workspace: Workspace, samples: int, seed: int) -> _Inputs:
    checkpoint = find_checkpoint(encoder, workspace)
    manifest = read_checkpoint(checkpoint)
    recipe, name = stored_recipe(manifest), f"{run_of(checkpoint).name}@{manifest['settings']['d_updates']}"
    _check_conditional(recipe, name)  # before a download
    images = as_image_set(images, home=workspace)
    _check_same_classes(recipe, images, name)
    check_split(images, "test", images.name)
    weights = weights_file(manifest, "generator")
    sha256 = manifest["files"][weights]["sha256"]
    return _Inputs(checkpoint, name, recipe, weights, sha256, images, samples, seed)


def _check_conditional(recipe: Recipe, name: str) -> None:
    if not recipe.classes:
        raise EvalkitError(
            f"{name}: recipe {recipe.name} has no classes, so its samples have no labels; train a conditional one "
            "(`evalkit train-gan --recipe mnist`)"
        )


def _check_same_classes(recipe: Recipe, images: ImageSet, name: str) -> None:
    size = images.images.shape[1:3]
    if recipe.classes != len(images.class_names) or size != (recipe.size, recipe.size):
        raise EvalkitError(
            f"{name}: generates {recipe.classes} classes at {recipe.size}x{recipe.size}, {images.name} has "
            f"{len(images.class_names)} at {size[0]}x{size[1]}"
        )


def _predict(inputs: _Inputs, workspace: Workspace, device: torch.device) -> np.ndarray:
    """The label of the nearest sample of each test image, int64 (N,)."""
    generator = Generator(inputs.recipe)
    load_weights(generator, inputs.checkpoint / inputs.weights)
    target = workspace.home / "nn-error" / f"{inputs.images.name}--{inputs.name}--{inputs.samples}"
    with write_artifact(target, settings=inputs.settings, made_from=inputs.made_from) as artifact:
        test = torch.from_numpy(np.array(inputs.images.split("test")))
        test = to_network_range(test, inputs.recipe).flatten(1).to(device)
        draw = sampler(generator.to(device), inputs.recipe, seed=inputs.seed)
        labels = _nearest_labels(artifact, draw, test, inputs.samples)
        artifact.finish(new_manifest(KIND, settings=inputs.settings, made_from=inputs.made_from))
    return labels


def _nearest_labels(artifact: ArtifactWriter, draw: DrawSamples, images: Tensor, samples: int) -> np.ndarray:
    """Labels of the nearest samples, int64 (N,); progress is kept in the artifact."""
    file, done = artifact.path / "nearest.npz", artifact.progress.get("batches", 0)
    nearest = NearestNeighbors(images, query_block=BATCH)
    if done:
        with np.load(file) as arrays:
            nearest.distances, nearest.ids = (
                torch.from_numpy(arrays[key][:, None]).to(images.device) for key in ("distances", "labels")
            )
    batches = -(-samples // BATCH)
    for number in tqdm(range(done, batches), initial=done, total=batches, desc="samples", unit="batch", disable=None):
        nearest.update(*draw(number, min(BATCH, samples - number * BATCH)))
        if (number + 1) % _STEP == 0 or number + 1 == batches:
            np.savez(file, distances=nearest.distances[:, 0].cpu().numpy(), labels=nearest.ids[:, 0].cpu().numpy())
            artifact.save(batches=number + 1)
    return nearest.ids[:, 0].cpu().numpy()


def sampler(generator: Generator, recipe: Recipe, *, seed: int) -> DrawSamples:
    """A function that generates batch `number` of `count` samples: images (count, D), labels (count,).

    The images are in the generator's range. Each batch depends on the seed and its number alone.
    """
    device = next(generator.parameters()).device

    def draw(number: int, count: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        z = draw_z(count, recipe, random).to(device)
        labels = torch.arange(count, device=device) % recipe.classes
        with torch.inference_mode():
            return generator(z, torch.nn.functional.one_hot(labels, recipe.classes)).flatten(1).float(), labels

    return draw


def _result(inputs: _Inputs, predictions: np.ndarray, seconds: float, device: str) -> Result:
    uncertainty = uncertainty_of((predictions != inputs.test_labels)[None])
    return Result(
        dataset=inputs.images.name,
        encoder=inputs.name,
        num_features=int(np.prod(inputs.images.images.shape[1:])),
        protocol=f"1-nn on {_short(inputs.samples)} samples",
        metric="error_percent",
        n=1,
        C=float("nan"),
        search_range="",
        validation_percent=float("nan"),
        n_train=inputs.samples,
        n_validation=0,
        n_test=len(predictions),
        duality_gap=float("nan"),
        error_estimate=float("nan"),
        weights_sha256=inputs.weights_sha256,
        features_sha256=inputs.images.sha256,
        seed=inputs.seed,
        seconds=seconds,
        device=device,
        classifier="1-NN",
        **uncertainty.columns(),
        **stamps(),
    )


def _short(count: int) -> str:
    """50000 as 50K, 10000000 as 10M: as the table's columns are named."""
    for size, letter in ((1_000_000, "M"), (1000, "K")):
        if count % size == 0:
            return f"{count // size}{letter}"
    return str(count)


def _record(workspace: Workspace, result: Result, inputs: _Inputs, predictions: np.ndarray) -> Result:
    """Writes the run card and the row; returns the result with the card's name."""
    images = inputs.images
    content = {
        "result": result_row(result),
        "labels_sha256": hashlib.sha256(np.asarray(images.labels, "<i8").tobytes()).hexdigest(),
        "label_subsets_sha256": "",
        "images_sha256": images.sha256,
        "weights_sha256": result.weights_sha256,
        "class_names": list(images.class_names),
        **provenance(),
    }
    card = write_card(workspace.results, content, predictions=predictions[None], labels=inputs.test_labels)
    result = dataclasses.replace(result, card=card)
    add_result(workspace.results, result)
    return result
