"""The paper's MNIST table: the test error of a 1-NN classifier fitted on samples of a conditional generator.

1-nearest-neighbour classification by samples of a conditional generator (Radford et al. 2016, table 3; the release's
`nnc`): samples come in batches, and only the nearest one so far of each test image is kept.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evalkit.artifacts import ArtifactWriter, commit, new_manifest, write_artifact
from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import Progress
from evalkit.evaluation.measure import quiet
from evalkit.evaluation.statistics import uncertainty_of
from evalkit.gan.checkpoint import load_weights, read_checkpoint, stored_recipe, weights_file
from evalkit.gan.networks import Generator, draw_z, to_network_range
from evalkit.gan.recipes import Recipe
from evalkit.gan.run_dir import find_checkpoint, run_of
from evalkit.images import ImageSet, find_images
from evalkit.results import Result, add_result, write_card
from evalkit.runtime import describe_device, resolve_device
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
) -> Result:
    """Measures one figure: a row of results.csv with its run card; killed, it goes on where it was.

    Args:
        encoder: a run or checkpoint of a conditional recipe.
        dataset: whose test images are classified.
        samples: of all classes together, as many of each.

    Raises:
        EvalkitError: a recipe without classes, or with others than the data set's, or images of another size.
    """
    started, where = time.monotonic(), resolve_device(device)
    checkpoint = find_checkpoint(encoder, workspace)
    manifest = read_checkpoint(checkpoint)
    recipe, name = stored_recipe(manifest), f"{run_of(checkpoint).name}@{manifest['settings']['d_updates']}"
    _check_conditional(recipe, name)  # before a download
    images = find_images(workspace, dataset, progress=True)
    _check_fitting(recipe, images, name)
    say(f"generator: {checkpoint}; test images: {images.name}")
    generator = Generator(recipe)
    weights = weights_file(manifest, "generator")
    load_weights(generator, checkpoint / weights)
    sha256 = manifest["files"][weights]["sha256"]
    settings = {"encoder": name, "dataset": images.name, "samples": samples, "seed": seed}
    made_from = {"weights_sha256": sha256, "images_sha256": images.sha256}
    target = workspace.home / "nn-error" / f"{images.name}--{name}--{samples}"
    with write_artifact(target, settings=settings, made_from=made_from) as artifact:
        test = torch.from_numpy(np.array(images.split("test")))
        pictures = to_network_range(test, recipe).flatten(1).to(where)
        found = _fit(artifact, sampler(generator.to(where), recipe, seed=seed), pictures, samples)
        artifact.finish(new_manifest(KIND, settings=settings, made_from=made_from))
    figure = _result(images, found, settings, made_from, time.monotonic() - started, describe_device(where))
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


def _result(
    images: ImageSet, found: np.ndarray, settings: dict, made_from: dict, seconds: float, device: str
) -> Result:
    labels = images.labels[slice(*images.splits["test"])]
    spread = uncertainty_of((found != labels)[None])
    nothing = float("nan")
    return Result(
        dataset=images.name,
        encoder=settings["encoder"],
        num_features=int(np.prod(images.images.shape[1:])),
        protocol=f"1-nn on {_short(settings['samples'])} samples",
        metric="error_percent",
        n=1,
        C=nothing,
        search_range="",
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


def _record(workspace: Workspace, figure: Result, images: ImageSet, found: np.ndarray) -> Result:
    """Writes the run card and the row."""
    labels = images.labels[slice(*images.splits["test"])]
    row = {key: None if value != value else value for key, value in dataclasses.asdict(figure).items() if key != "card"}
    content: dict[str, Any] = {
        "result": row,
        "labels_sha256": hashlib.sha256(np.asarray(images.labels, "<i8").tobytes()).hexdigest(),
        "label_subsets_sha256": "",
        "images_sha256": images.sha256,
        "weights_sha256": figure.weights_sha256,
        "class_names": list(images.class_names),
        "versions": versions(),
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    card = write_card(workspace.results, content, predictions=found[None], labels=labels)
    named = dataclasses.replace(figure, card=card)
    add_result(workspace.results, named)
    return named


BATCH = 1000  # samples at a time, all classes in turn: batch norm takes their statistics
DrawSamples = Callable[[int, int], tuple[Tensor, Tensor]]


def _fit(artifact: ArtifactWriter, draw: DrawSamples, images: torch.Tensor, samples: int) -> np.ndarray:
    """Labels of the nearest samples, int64 (N,)."""
    kept, done = artifact.path / "nearest.npz", artifact.progress.get("batches", 0)
    nearest = NearestSamples.none_yet(len(images), images.device)
    if done:
        with np.load(kept) as arrays:
            nearest = NearestSamples(
                *(torch.from_numpy(arrays[key]).to(images.device) for key in ("distances", "labels"))
            )
    batches = -(-samples // BATCH)
    for number in tqdm(range(done, batches), initial=done, total=batches, desc="samples", unit="batch", disable=None):
        nearest.update(images, *draw(number, min(BATCH, samples - number * BATCH)))
        if (number + 1) % _STEP == 0 or number + 1 == batches:
            np.savez(kept, distances=nearest.distances.cpu().numpy(), labels=nearest.labels.cpu().numpy())
            artifact.save(batches=number + 1)
    return nearest.labels.cpu().numpy()


@dataclass
class NearestSamples:
    """The nearest sample so far of each test image: squared distance float32 and label int64, both (N,)."""

    distances: Tensor
    labels: Tensor

    @staticmethod
    def none_yet(count: int, device: torch.device) -> "NearestSamples":
        """Before the first batch."""
        return NearestSamples(
            torch.full((count,), float("inf"), device=device), torch.full((count,), -1, device=device)
        )

    def update(self, images: Tensor, samples: Tensor, labels: Tensor) -> None:
        """Takes in samples (n, D) with labels (n,) for images (N, D)."""
        squares = images.square().sum(1)
        for first in range(0, len(images), BATCH):
            part = slice(first, first + BATCH)
            distances = torch.addmm(samples.square().sum(1), images[part], samples.T, alpha=-2)
            least, which = distances.min(1)
            least = least + squares[part]
            nearer = least < self.distances[part]
            self.distances[part] = torch.where(nearer, least, self.distances[part])
            self.labels[part] = torch.where(nearer, labels[which], self.labels[part])


def sampler(generator: Generator, recipe: Recipe, *, seed: int) -> DrawSamples:
    """Draws batch `number` of `count` samples: images (count, D) in the generator's range, labels (count,).

    Each batch depends on the seed and its number alone.
    """
    device = next(generator.parameters()).device

    def draw(number: int, count: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        z = draw_z(count, recipe, random).to(device)
        labels = torch.arange(count, device=device) % recipe.classes
        with torch.inference_mode():
            return generator(z, torch.nn.functional.one_hot(labels, recipe.classes)).flatten(1).float(), labels

    return draw
