"""Memorization: the training images nearest to samples, and whether they are nearer than real images are.

A GAN that memorized its images generates samples nearer to them than images of the same kind that it never saw.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.images import ImageSet, as_image_set
from evalkit.images.imageset import Rows
from evalkit.latent.experiment import ExperimentResult, RenderedImage, Row, captioned_rows, png
from evalkit.latent.model import REFERENCE, FrozenDiscriminator, FrozenGAN, as_z, training_images
from evalkit.latent.settings import NearestSettings
from evalkit.neighbors import NearestNeighbors
from evalkit.workspace import Workspace

_BLOCK = 1024  # training images compared at once
_CANDIDATES = 4  # training images nearest in pixels to each image, which are also compared in features
_NEAR = 5  # percentile of the held-out images' distances below which a sample counts as near
_SHOWN = 12  # samples in the image


def nearest_training_images(
    gan: FrozenGAN,
    z: Tensor | np.ndarray,
    settings: NearestSettings = NearestSettings(),
    *,
    images: Any = None,
    held_out: Any = None,
    home: Workspace | Path | str | None = None,
) -> ExperimentResult:
    """The nearest training image of each sample by pixels and by D's features, beside those of held-out images.

    Measured for each distance: the share of samples nearer than the 5th percentile of held-out images (5 % if nothing
    is memorized), and the chance that a sample is nearer than a held-out image (50 %). Blurred samples are near to
    everything in pixels; a memorized one is near in both.

    Args:
        images: the training images, anything that `as_image_set` takes [the workspace's set that the GAN was trained
            on].
        held_out: likewise, images of the same kind that the GAN was not trained on; the `test` split if there is one
            [the `test` split of `images`, else training images, each compared with the others].
        home: the workspace that names refer to.

    Raises:
        EvalkitError: no such set, or images of another size.
    """
    training = training_images(gan, images, home=home)
    against = comparison_images(
        training,
        held_out=None if held_out is None else as_image_set(held_out, home=home),
        count=settings.held_out_count,
        num_images=settings.num_images,
        seed=settings.seed,
    )
    return compare_distances(gan, z, against, feature_images=settings.feature_images, seed=settings.seed)


def compare_distances(
    gan: FrozenGAN,
    z: Tensor | np.ndarray,
    against: "ComparisonImages",
    *,
    feature_images: int = NearestSettings.feature_images,
    seed: int = 0,
) -> ExperimentResult:
    """`nearest_training_images` with the images to compare with."""
    z = as_z(gan, z)
    samples = gan.images(z)
    queries = np.concatenate([samples, against.held_out[..., : gan.recipe.channels]])
    own = np.concatenate([np.full(len(samples), -1), against.own])
    by_pixels = _nearest(_flat(queries), _pixel_blocks(gan, against), own=own, count=_CANDIDATES)
    chosen = against.training[_choose(np.random.default_rng(seed), len(against.training), feature_images)]
    rows = np.union1d(chosen, by_pixels.ids[by_pixels.ids >= 0].numpy())
    discriminator = FrozenDiscriminator(gan, statistics_from=against.images[chosen[:: -(-len(chosen) // REFERENCE)]])
    features = torch.from_numpy(discriminator.features(queries))
    by_features = _nearest(features, _feature_blocks(discriminator, against, rows), own=own, count=1)
    kinds = np.repeat(["sample", "held out"], [len(samples), len(against.held_out)])
    table = pd.DataFrame({"image": np.arange(len(queries)), "kind": kinds})
    for name, nearest in (("pixel", by_pixels), ("feature", by_features)):
        table[f"{name}_row"], table[f"{name}_distance"] = nearest.ids[:, 0].numpy(), nearest.distances[:, 0].numpy()
    settings = {"samples": len(samples), "held_out": against.description, "held_out_images": len(against.held_out)}
    title = "samples, and the training images nearest to them"
    return ExperimentResult(
        "nearest",
        settings | {"training_images": len(against.training), "feature_images": len(rows), "seed": seed},
        {"nearest.png": RenderedImage(title, _rendered(samples, table, against))},
        measurements=memorization(table),
        tables={"nearest": table},
        arrays={"z": z.cpu().numpy()},
    )


@dataclass(frozen=True)
class ComparisonImages:
    """The images that samples are compared with.

    Attributes:
        images: uint8 (n, H, W, 3); `training` are the rows of it that were trained on, or a random part of them.
        held_out: uint8 (m, H, W, 3), images of the same kind that the GAN was not trained on.
        own: (m,) if the held-out images are training images after all: the row of each, which is no neighbor of it
            (random training images are as far from the others as new images are); else -1.
        description: what the held-out images are, for the manifest.
    """

    images: np.ndarray | Rows
    training: np.ndarray
    held_out: np.ndarray
    own: np.ndarray
    description: str


def comparison_images(
    images: ImageSet,
    *,
    held_out: ImageSet | None = None,
    count: int = NearestSettings.held_out_count,
    num_images: int = NearestSettings.num_images,
    seed: int = 0,
) -> ComparisonImages:
    """Training images, and `count` held-out ones: of `held_out`, else of a `test` split, else training images.

    Args:
        held_out: another image set; its `test` split if it has one.
        num_images: at most this many training images, chosen at random; 0: all.

    Raises:
        EvalkitError: held-out images of another size.
    """
    training, random = training_rows(images, num_images, seed=seed), np.random.default_rng(seed + 1)
    other = held_out or images
    if held_out is None and "test" not in images.splits:
        own = training[_choose(random, len(training), count)]
        return ComparisonImages(images.images, training, images.images[own], own, "training images, each to the others")
    if other.images.shape[1:] != images.images.shape[1:]:
        sides = f"{other.images.shape[1]} pixels wide, those trained on {images.images.shape[1]}"
        raise EvalkitError(f"{other.name}: images are {sides}; prepare them in that size")
    first, end = other.splits.get("test", (0, len(other)))
    rows = first + _choose(random, end - first, count)
    description = f"{other.name}, {'test' if 'test' in other.splits else 'all'}"
    return ComparisonImages(images.images, training, other.images[rows], np.full(len(rows), -1), description)


def training_rows(images: ImageSet, count: int, *, seed: int) -> np.ndarray:
    """At most `count` rows (0: all) of the `train` split, which training reads, or of all images without one."""
    first, end = images.splits.get("train", (0, len(images)))
    return first + _choose(np.random.default_rng(seed), end - first, count)


def _choose(random: np.random.Generator, total: int, count: int) -> np.ndarray:
    """`count` of `total` numbers in ascending order; all of them if count is 0 or too large."""
    if not 0 < count < total:
        return np.arange(total)
    return np.sort(random.choice(total, count, replace=False))


def _flat(images: np.ndarray) -> Tensor:
    """uint8 (n, H, W, C) -> float32 (n, H W C) in 0 to 1."""
    return torch.from_numpy(images.reshape(len(images), -1)).float() / 255


def memorization(table: pd.DataFrame) -> dict[str, float]:
    """Measurements on the distances of samples and of held-out images, in pixels and in features."""
    measurements: dict[str, float] = {}
    for name in ("pixel", "feature"):
        distances = table[f"{name}_distance"].to_numpy()
        samples, real = distances[table["kind"] == "sample"], distances[table["kind"] != "sample"]
        below, equal = samples[:, None] < real, samples[:, None] == real
        measurements |= {
            f"{name}_share_near_percent": float(100 * (samples < np.percentile(real, _NEAR)).mean()),
            f"{name}_chance_nearer_percent": float(100 * (below + equal / 2).mean()),
            f"{name}_median_of_samples": float(np.median(samples)),
            f"{name}_median_of_held_out": float(np.median(real)),
            f"{name}_smallest_of_samples": float(samples.min()),
            f"{name}_smallest_of_held_out": float(real.min()),
        }
    return measurements


def _rendered(samples: np.ndarray, table: pd.DataFrame, against: ComparisonImages) -> bytes:
    rows = [Row("samples", samples[:_SHOWN])]
    for name in ("pixel", "feature"):
        neighbors = table[f"{name}_row"].to_numpy()[: min(_SHOWN, len(samples))]
        rows.append(Row(f"nearest training image by {name}s", against.images[neighbors]))
    return png(captioned_rows(rows))


Block = tuple[np.ndarray, Tensor]  # row numbers (b,), vectors float32 (b, D)


def _nearest(queries: Tensor, blocks: Iterator[Block], *, own: np.ndarray, count: int) -> NearestNeighbors:
    neighbors = NearestNeighbors(queries, count=count, distance="euclidean", exclude=torch.from_numpy(own))
    for rows, vectors in blocks:
        neighbors.update(vectors, torch.from_numpy(rows))
    return neighbors


def _pixel_blocks(gan: FrozenGAN, against: ComparisonImages) -> Iterator[Block]:
    for first in range(0, len(against.training), _BLOCK):
        rows = against.training[first : first + _BLOCK]
        yield rows, _flat(np.ascontiguousarray(against.images[rows][..., : gan.recipe.channels]))


def _feature_blocks(discriminator: FrozenDiscriminator, against: ComparisonImages, rows: np.ndarray) -> Iterator[Block]:
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        yield block, torch.from_numpy(discriminator.features(against.images[block]))
