"""Files in the release's true layout with random numbers, and the index that describes them."""

import dataclasses
from pathlib import Path

import numpy as np

from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.recipes import load_recipe
from evalkit.pretrained.dcgan_release import (
    Release,
    ReleasedFile,
    discriminator_parameters,
    generator_parameters,
    git_blob_sha1,
)


def write_release(folder: Path, release: Release) -> Release:
    """Writes every array of a release (matrices inputs x outputs, as Theano has them) and pickles that explode."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    recipe = load_recipe(release.recipe)
    shapes = []
    for parameters, network in (
        (discriminator_parameters(recipe), Discriminator(recipe)),
        (generator_parameters(recipe), Generator(recipe)),
    ):
        shapes += [tuple(network.state_dict()[p.name].shape) for p in parameters]
    for file, shape in zip(release.files, shapes, strict=True):
        values = random.standard_normal(shape[::-1] if len(shape) == 2 else shape, dtype=np.float32)
        np.save(folder / file.name, values * 0.05 + (1 if len(shape) == 1 else 0))
    for file in release.indexed:
        if not file.name.endswith(".npy"):
            (folder / file.name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # a pickle that runs a command
    return dataclasses.replace(release, indexed=tuple(described(folder, file) for file in release.indexed))


def described(folder: Path, file: ReleasedFile) -> ReleasedFile:
    """The index's entry of a file as it lies in `folder`."""
    path = folder / file.name
    return ReleasedFile(file.url, path.stat().st_size, git_blob_sha1(path))
