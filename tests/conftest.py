"""Fixtures that several test files share: small image sets made on the spot."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit.artifacts import NpyWriter, new_manifest, write_artifact
from evalkit.images.imageset import KIND, ImageSet, load_images

torch.set_num_threads(2)


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


@pytest.fixture
def striped(tmp_path: Path) -> ImageSet:
    """240 training and 120 test images of 3 classes: stripes of a class's direction and random phase, with noise."""
    random = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 120)
    across, down = np.meshgrid(np.arange(32), np.arange(32))
    direction = np.stack([across, down, across + down])[labels]
    waves = np.sin(direction / 2.5 + random.uniform(0, 2 * np.pi, (360, 1, 1)))
    noisy = 127 + 60 * waves[..., None] + random.normal(0, 25, (360, 32, 32, 3))
    images = noisy.clip(0, 255).astype(np.uint8)
    return write_image_set(
        tmp_path / "striped", images, labels.astype(np.int64), {"train": (0, 240), "test": (240, 360)}
    )
