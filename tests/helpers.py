"""What several test files make their input from, and compare with: image sets, feature sets, small recipes, weights."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from evalkit.artifacts import new_manifest, write_artifact
from evalkit.encoders.dcgan import discriminator_encoder
from evalkit.encoders.encoder import Encoder
from evalkit.features.featureset import FeatureSet
from evalkit.features.pooling import Layer
from evalkit.gan.networks import build_networks
from evalkit.gan.recipes import RECIPES, Recipe, TrainOptions, override
from evalkit.images.imageset import KIND, ImageSet, load_images
from evalkit.npy import NpyWriter

# -- images


def striped_arrays(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (count, 32, 32, 3) and labels of 3 classes in turn: stripes in the direction of the class.

    Every image has a phase of its own, and noise.
    """
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    across, down = np.meshgrid(np.arange(32), np.arange(32))
    direction = np.stack([across, down, across + down])[labels]
    waves = np.sin(direction / 2.5 + random.uniform(0, 2 * np.pi, (count, 1, 1)))
    noisy = 127 + 60 * waves[..., None] + random.normal(0, 25, (count, 32, 32, 3))
    return noisy.clip(0, 255).astype(np.uint8), labels


def write_image_set(
    directory: Path, images: np.ndarray, labels: np.ndarray, splits: dict[str, tuple[int, int]]
) -> ImageSet:
    """An image set on disk from arrays."""
    settings = {"name": directory.name}
    with write_artifact(directory, settings=settings, made_from={}) as artifact:
        for name, array in (("images.npy", images), ("labels.npy", labels)):
            writer = NpyWriter(artifact.path / name, array.shape[1:], array.dtype)
            writer.append(array)
            writer.close()
        manifest = new_manifest(KIND, settings=settings, made_from={})
        names = [str(k) for k in range(int(labels.max()) + 1)]
        artifact.finish(manifest | {"class_names": names, "splits": {k: list(v) for k, v in splits.items()}})
    return load_images(directory)


# -- training

SMALL_RECIPE = override(
    RECIPES["digits"],
    {"base_channels": 4, "z_dim": 8, "batch_size": 32, "d_updates": 6, "schedule": "alternate", "l2": 1e-3},
)
TRAIN_OPTIONS = TrainOptions(device="cpu", precision="float32", checkpoint_updates=2, log_updates=1)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint: both networks and the optimisers."""
    names = ("generator", "discriminator", "optimizers")
    return {f"{n}/{k}": v for n in names for k, v in load_file(checkpoint / f"{n}.safetensors").items()}


def assert_equal_weights(first: Path, second: Path) -> None:
    """Two checkpoints hold the same bits."""
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# -- encoders and features

CPU = {"device": "cpu", "precision": "float32"}
TINY_RECIPE = override(RECIPES["imagenet32"], {"base_channels": 4, "z_dim": 8, "batch_size": 32, "d_updates": 2})


def random_encoder(recipe: Recipe = TINY_RECIPE, seed: int = 0) -> Encoder:
    """An untrained discriminator as encoder."""
    return discriminator_encoder("random:tiny", build_networks(recipe, seed=seed)[1], sha256=f"seed {seed}")


def feature_set(
    count: int = 300, classes: int = 3, length: int = 20, seed: int = 0, names: list[str] | None = None
) -> FeatureSet:
    """Gaussian classes that overlap: two thirds `train`, one third `test`."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = (random.normal(size=(classes, length))[labels] + 1.5 * random.normal(size=(count, length))).astype("f4")
    return FeatureSet(
        features=features,
        labels=labels,
        class_names=names or [str(k) for k in range(classes)],
        splits={"train": (0, 2 * count // 3), "test": (2 * count // 3, count)},
        layers=[Layer("a", length, 1, 0, length)],
        manifest={
            "settings": {"dataset": "made", "encoder": "gaussian", "batch_norm": ""},
            "made_from": {"weights_sha256": "w"},
            "files": {"features.npy": {"sha256": "f"}},
        },
    )


# -- the solver

CS = [1e-3, 1e-1, 1e-2]  # not sorted: fits come in the order given


def make_data(
    rows: int, features: int, classes: int = 3, seed: int = 0, dtype: type = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes with a large common mean, as rectified features have."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    centres = 0.3 * generator.normal(size=(classes, features))
    return (centres[labels] + generator.normal(size=(rows, features)) + 1).astype(dtype), labels
