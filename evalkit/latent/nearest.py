"""nearest: the training images nearest to samples, and whether they are nearer than real images are.

A GAN that memorised its images draws samples nearer to them than images of the same kind that it never saw.

The nearest of many rows, block by block: what nearest looks up in pixels and in features.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.images import ImageSet
from evalkit.images.imageset import Rows
from evalkit.latent.experiment import ExperimentResult, RenderedImage, Row, captioned, png
from evalkit.latent.model import REFERENCE, FrozenDiscriminator, FrozenGAN

_BLOCK = 1024  # training images compared at once
_CANDIDATES = 4  # an image's pixel-nearest that join those compared in features
_NEAR = 5  # percentile of the held-out images' distances below which a sample counts as near
_SHOWN = 12  # samples in the image


@dataclass(frozen=True)
class Comparison:
    """What samples are compared with.

    Attributes:
        images: uint8 (n, H, W, 3); `training` are the rows of it that were trained on, or a random part of them.
        held_out: uint8 (m, H, W, 3), images of the same kind that the GAN was not trained on.
        own: (m,) where the held-out images are training images after all: each one's row, which is not its
            neighbour (drawn at random they lie to the others as new images do); else -1.
        said: what the held-out images are, for the record.
    """

    images: np.ndarray | Rows
    training: np.ndarray
    held_out: np.ndarray
    own: np.ndarray
    said: str


def comparison(
    images: ImageSet, *, held_out: ImageSet | None = None, count: int = 128, num_images: int = 100_000, seed: int = 0
) -> Comparison:
    """Training images, and `count` held-out ones: of `held_out`, else of a `test` split, else training images.

    Args:
        held_out: another image set; its `test` split if it has one.
        images: at most so many training images, drawn at random; 0: all.

    Raises:
        EvalkitError: held-out images of another size.
    """
    training, random = training_rows(images, num_images, seed=seed), np.random.default_rng(seed + 1)
    other = held_out or images
    if held_out is None and "test" not in images.splits:
        own = training[_some(random, len(training), count)]
        return Comparison(images.images, training, images.images[own], own, "training images, each to the others")
    if other.images.shape[1:] != images.images.shape[1:]:
        sides = f"{other.images.shape[1]} pixels wide, those trained on {images.images.shape[1]}"
        raise EvalkitError(f"{other.name}: images {sides}; prepare them in that size")
    first, end = other.splits.get("test", (0, len(other)))
    rows = first + _some(random, end - first, count)
    said = f"{other.name}, {'test' if 'test' in other.splits else 'all'}"
    return Comparison(images.images, training, other.images[rows], np.full(len(rows), -1), said)


def training_rows(images: ImageSet, count: int, *, seed: int) -> np.ndarray:
    """At most `count` rows (0: all) of the `train` split, or of all images without one: what training reads."""
    first, end = images.splits.get("train", (0, len(images)))
    return first + _some(np.random.default_rng(seed), end - first, count)


def _some(random: np.random.Generator, total: int, count: int) -> np.ndarray:
    """`count` of `total` numbers, ascending; all of them where count is 0 or too large."""
    if not 0 < count < total:
        return np.arange(total)
    return np.sort(random.choice(total, count, replace=False))


def nearest(
    gan: FrozenGAN, z: Tensor, against: Comparison, *, feature_images: int = 1000, seed: int = 0
) -> ExperimentResult:
    """The nearest training image of each sample by pixels and by D's features, beside those of held-out images.

    Figures, for each distance: the share of samples nearer than the 5th percentile of held-out images (5 % where
    nothing is memorised), and the chance that a sample is nearer than a held-out image (50 %). Blurred samples are
    near to everything in pixels; a memorised one is near in both.

    Args:
        feature_images: random training images compared in features, beside the four nearest in pixels of every
            sample and held-out image; 0: all.
    """
    samples = gan.images(z.to(gan.device))
    queries = np.concatenate([samples, against.held_out[..., : gan.recipe.channels]])
    own = np.concatenate([np.full(len(samples), -1), against.own])
    by_pixels = nearest_rows(_flat(queries), _pixel_blocks(gan, against), own=own, count=_CANDIDATES)
    drawn = against.training[_some(np.random.default_rng(seed), len(against.training), feature_images)]
    rows = np.union1d(drawn, by_pixels[1][by_pixels[1] >= 0])
    critic = FrozenDiscriminator(gan, normalised_by=against.images[drawn[:: -(-len(drawn) // REFERENCE)]])
    features = torch.from_numpy(critic.features(queries))
    by_features = nearest_rows(features, _feature_blocks(critic, against, rows), own=own, count=1)
    kinds = np.repeat(["sample", "held out"], [len(samples), len(against.held_out)])
    table = pd.DataFrame({"image": np.arange(len(queries)), "kind": kinds})
    for name, (distances, neighbours) in (("pixel", by_pixels), ("feature", by_features)):
        table[f"{name}_row"], table[f"{name}_distance"] = neighbours[:, 0], distances[:, 0]
    settings = {"samples": len(samples), "held_out": against.said, "held_out_images": len(against.held_out)}
    return ExperimentResult(
        "nearest",
        settings | {"training_images": len(against.training), "feature_images": len(rows), "seed": seed},
        {
            "nearest.png": RenderedImage(
                "samples, and the training images nearest to them", _shown(samples, table, against)
            )
        },
        figures=memorisation(table),
        tables={"nearest": table},
        arrays={"z": z.cpu().numpy()},
    )


def _flat(images: np.ndarray) -> Tensor:
    """uint8 (n, H, W, C) -> float32 (n, H W C), of 1."""
    return torch.from_numpy(images.reshape(len(images), -1)).float() / 255


def memorisation(table: pd.DataFrame) -> dict[str, float]:
    """Figures from the distances of samples and of held-out images, in pixels and in features."""
    found: dict[str, float] = {}
    for name in ("pixel", "feature"):
        distances = table[f"{name}_distance"].to_numpy()
        samples, real = distances[table["kind"] == "sample"], distances[table["kind"] != "sample"]
        below, equal = samples[:, None] < real, samples[:, None] == real
        found |= {
            f"{name}_share_near_percent": float(100 * (samples < np.percentile(real, _NEAR)).mean()),
            f"{name}_chance_nearer_percent": float(100 * (below + equal / 2).mean()),
            f"{name}_median_of_samples": float(np.median(samples)),
            f"{name}_median_of_held_out": float(np.median(real)),
            f"{name}_smallest_of_samples": float(samples.min()),
            f"{name}_smallest_of_held_out": float(real.min()),
        }
    return found


def _shown(samples: np.ndarray, table: pd.DataFrame, against: Comparison) -> bytes:
    rows = [Row("samples", samples[:_SHOWN])]
    for name in ("pixel", "feature"):
        found = table[f"{name}_row"].to_numpy()[: min(_SHOWN, len(samples))]
        rows.append(Row(f"nearest training image by {name}s", against.images[found]))
    return png(captioned(rows))


Block = tuple[np.ndarray, Tensor]  # row numbers (b,), vectors float32 (b, D)


def _pixel_blocks(gan: FrozenGAN, against: Comparison) -> Iterator[Block]:
    for first in range(0, len(against.training), _BLOCK):
        rows = against.training[first : first + _BLOCK]
        yield rows, _flat(np.ascontiguousarray(against.images[rows][..., : gan.recipe.channels]))


def _feature_blocks(critic: FrozenDiscriminator, against: Comparison, rows: np.ndarray) -> Iterator[Block]:
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        yield block, torch.from_numpy(critic.features(against.images[block]))


def nearest_rows(
    queries: Tensor, blocks: Iterable[Block], *, own: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each query the `count` nearest rows: Euclidean distances and row numbers, (q, count), nearest first.

    Found by |q|^2 + |b|^2 - 2 q.b, then measured anew by differences, so that a copy is at distance 0.

    Args:
        queries: float32 (q, D).
        own: (q,) a row that is the query itself and does not count, -1 for none.
    """
    best = torch.full((len(queries), count), torch.inf)
    rows = torch.full((len(queries), count), -1)
    squares, own_rows = queries.square().sum(1, keepdim=True), torch.from_numpy(own)[:, None]
    for numbers, vectors in blocks:
        block_rows = torch.from_numpy(numbers)
        estimate = squares + vectors.square().sum(1) - 2 * queries @ vectors.T
        estimate[own_rows == block_rows] = torch.inf
        found = estimate.topk(min(count, len(vectors)), largest=False).indices
        exact = torch.stack([(vectors[f] - q).norm(dim=1) for q, f in zip(queries, found, strict=True)])
        exact[block_rows[found] == own_rows] = torch.inf
        best, order = torch.cat([best, exact], 1).sort(dim=1, stable=True)
        rows = torch.cat([rows, block_rows[found]], 1).gather(1, order)[:, :count]
        best = best[:, :count]
    return best.numpy(), rows.numpy()
