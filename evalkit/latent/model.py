"""A trained GAN as a fixed function: the image of a z depends on that z alone.

From the name of a run to a `FrozenGAN` (`open_gan`), its discriminator (`FrozenDiscriminator`) and the images it was
trained on. Every latent experiment starts here.

differs from the paper: its release normalizes every batch by its own statistics, so that a sample depends on its
neighbors in the batch. Here each batch norm is frozen at the statistics of one reference batch, sampled from the
distribution of z with a fixed seed; walks, sums and inversions are then functions of z.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.artifacts import Manifest
from evalkit.batch_statistics import BatchNorm, batch_statistics, freeze_batch_norms
from evalkit.errors import EvalkitError
from evalkit.features.options import LayerSelection
from evalkit.features.pooling import pool_output
from evalkit.gan.checkpoint import CheckpointSettings, load_weights, read_checkpoint, weights_file
from evalkit.gan.networks import Discriminator, Generator, draw_z, to_images, to_network_range
from evalkit.gan.recipes import Recipe
from evalkit.gan.run_dir import find_checkpoint, run_of
from evalkit.images import ImageSet, as_image_set, find_images_by_sha256
from evalkit.pretrained.registry import find_pretrained
from evalkit.pretrained.store import PretrainedSettings, load_discriminator, load_generator, read_pretrained
from evalkit.runtime import resolve_device
from evalkit.workspace import Workspace

# Size of the reference batch: another batch of 256 changes pixels of imagenet32@1077 by 8 of 255 on average, one of 128
# by 12; a batch of 64 that normalizes itself, as in the release, changes them by 16 (benchmarks/NOTES.md)
REFERENCE = 256
_REFERENCE_SEED = 20151119  # of the reference batch, the same for every run
CHUNK = 64  # images per forward pass
_PRETRAINED = "pretrained:"


@dataclass(frozen=True)
class FrozenGAN:
    """A generator with frozen batch norm, and the discriminator.

    Attributes:
        name: as results name it, e.g. "imagenet32@800".
        generator: z (N, z_dim) and one-hot classes or None -> images in its range; its weights take no gradients.
        discriminator: as loaded; `FrozenDiscriminator` freezes a copy of it.
        label: the class that a conditional generator generates, None for others.
        made_from: path and hashes of the weights, for manifests; `images_sha256` is the hash of the training images.
    """

    name: str
    recipe: Recipe
    generator: nn.Module
    discriminator: Discriminator
    label: int | None = None
    made_from: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return next(self.discriminator.parameters()).device

    def sample_z(self, count: int, *, seed: int) -> Tensor:
        """z (count, z_dim) from the recipe's distribution, the same on every device."""
        return draw_z(count, self.recipe, torch.Generator().manual_seed(seed)).to(self.device)

    def decode(self, z: Tensor) -> Tensor:
        """z (N, z_dim) -> float (N, C, size, size) in the generator's range, with gradients to z."""
        return self.generator(z, one_hot(self.label, len(z), self.recipe, self.device))

    def images(self, z: Tensor) -> np.ndarray:
        """z (N, z_dim) -> uint8 (N, H, W, C)."""
        with torch.no_grad():
            return np.concatenate([to_images(self.decode(chunk), self.recipe) for chunk in z.split(CHUNK)])


def open_gan(
    gan: FrozenGAN | Path | str = "latest",
    *,
    home: Workspace | Path | str | None = None,
    label: int | None = None,
    device: str = "auto",
) -> FrozenGAN:
    """A GAN with frozen batch norm; if training kept a moving average of a network, the average is loaded.

    Args:
        gan: a run or checkpoint (name, NAME@UPDATES or path; "latest": the latest run), pretrained:NAME, or a
            `FrozenGAN`, which is returned as it is.
        home: the workspace that names refer to; a path needs none.
        label: the class to generate if the recipe has classes [0].

    Raises:
        EvalkitError: no such run or weights, broken ones, or a class that the recipe does not have.
    """
    if isinstance(gan, FrozenGAN):
        return gan
    name, workspace = str(gan), Workspace.of(home)
    if name.startswith(_PRETRAINED):
        return _open_pretrained(name, workspace, label, device)
    checkpoint = find_checkpoint(name, workspace)
    manifest = read_checkpoint(checkpoint)
    settings = CheckpointSettings.from_manifest(manifest)
    generator, discriminator = Generator(settings.recipe), Discriminator(settings.recipe)
    load_weights(generator, checkpoint / weights_file(manifest, "generator"))
    load_weights(discriminator, checkpoint / weights_file(manifest, "discriminator"))
    run = f"{run_of(checkpoint).name}@{settings.d_updates}"
    made_from = _made_from(checkpoint, manifest)
    return freeze_gan(run, generator, discriminator, label=label, device=device, made_from=made_from)


def _open_pretrained(name: str, workspace: Workspace, label: int | None, device: str) -> FrozenGAN:
    path = find_pretrained(name.removeprefix(_PRETRAINED), workspace)
    manifest = read_pretrained(path)
    if not PretrainedSettings.from_manifest(manifest).complete:
        raise EvalkitError(f"{path}: holds only the first layers of a discriminator, expected a whole GAN")
    networks = load_generator(path), load_discriminator(path)
    return freeze_gan(name, *networks, label=label, device=device, made_from=_made_from(path, manifest))


def _made_from(path: Path, manifest: Manifest) -> dict[str, Any]:
    files = [weights_file(manifest, network) for network in ("generator", "discriminator")]
    hashes = {file.removesuffix(".safetensors"): manifest["files"][file]["sha256"] for file in files}
    inputs = {"weights": str(path.resolve()), "images_sha256": manifest["made_from"].get("images_sha256", "")}
    return inputs | {f"{name}_sha256": sha256 for name, sha256 in hashes.items()}


def one_hot(label: int | None, count: int, recipe: Recipe, device: torch.device) -> Tensor | None:
    """`count` one-hot rows of the class `label`, or None without a class."""
    if label is None:
        return None
    return F.one_hot(torch.full((count,), label, device=device), recipe.classes)


def freeze_batch_norm(network: nn.Module, *inputs: Tensor | None) -> None:
    """Freezes every batch norm of `network` at the mean and biased variance of its input in one pass over `inputs`."""
    norms = {name: norm for name, norm in network.named_modules() if isinstance(norm, BatchNorm)}
    like = next(network.parameters())
    network.eval()
    with torch.no_grad():
        statistics = batch_statistics(norms, [inputs], lambda each: network(*each), batches=1, device=like.device)
    freeze_batch_norms(norms, statistics, like)
    network.requires_grad_(False)


def freeze_gan(
    name: str,
    generator: Generator,
    discriminator: Discriminator,
    *,
    label: int | None = None,
    device: str = "cpu",
    made_from: dict[str, Any] | None = None,
) -> FrozenGAN:
    """A GAN whose generator is a copy frozen at the statistics of the reference batch.

    Raises:
        EvalkitError: a class that the recipe does not have.
    """
    where, recipe = resolve_device(device), generator.recipe
    label = _checked_label(label, recipe)
    gan = FrozenGAN(name, recipe, deepcopy(generator).to(where), discriminator.to(where), label, made_from or {})
    z = gan.sample_z(REFERENCE, seed=_REFERENCE_SEED)
    freeze_batch_norm(gan.generator, z, one_hot(label, REFERENCE, recipe, where))
    return gan


def reference_samples(gan: FrozenGAN) -> np.ndarray:
    """The images of the reference batch: uint8 (REFERENCE, H, W, C)."""
    return gan.images(gan.sample_z(REFERENCE, seed=_REFERENCE_SEED))


def _checked_label(label: int | None, recipe: Recipe) -> int | None:
    if not recipe.classes:
        if label is not None:
            raise EvalkitError(f"recipe {recipe.name}: has no classes, found class {label}; leave out --class")
        return None
    if not 0 <= (label or 0) < recipe.classes:
        raise EvalkitError(f"recipe {recipe.name}: class {label}, expected 0 to {recipe.classes - 1}")
    return label or 0


class FrozenDiscriminator:
    """A copy of a GAN's discriminator with batch norm frozen at the statistics of some images: scores and features.

    Samples are judged with the statistics of samples, as in training, where each batch is of one kind; the release uses
    those of the current batch. A conditional discriminator is given the GAN's class for every image.

    Args:
        statistics_from: uint8 (n, H, W, 3 or C), of which the first REFERENCE count; None: the GAN's reference samples.
        discriminator: other weights for the same recipe, such as random ones; None: the GAN's.
    """

    def __init__(
        self, gan: FrozenGAN, *, statistics_from: np.ndarray | None = None, discriminator: Discriminator | None = None
    ):
        self.recipe, self.device, self._label = gan.recipe, gan.device, gan.label
        self.network = deepcopy(discriminator or gan.discriminator).to(self.device)
        images = reference_samples(gan) if statistics_from is None else statistics_from
        inputs = self.as_input(images[:REFERENCE])
        freeze_batch_norm(self.network, inputs, self.classes(len(inputs)))

    def as_input(self, images: np.ndarray) -> Tensor:
        """uint8 (n, H, W, C) -> float32 (n, C, H, W) in the networks' range."""
        return to_network_range(torch.from_numpy(np.array(images)).to(self.device), self.recipe)

    def classes(self, count: int) -> Tensor | None:
        """One-hot rows of the class given for every image; None without classes."""
        return one_hot(self._label, count, self.recipe, self.device)

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Logits (n,), larger for images that look real."""
        with torch.no_grad():
            chunks = [self.network(chunk, self.classes(len(chunk))) for chunk in self._chunks(images)]
        return torch.cat(chunks).cpu().numpy()

    def layer_outputs(self, images: np.ndarray, layer: str) -> np.ndarray:
        """The maps of one conv layer after its leaky ReLU, float32 (n, maps, h, w).

        Raises:
            EvalkitError: no such layer.
        """
        self.check_layer(layer)
        with torch.no_grad():
            return np.concatenate([self._layer_outputs(chunk)[layer].cpu().numpy() for chunk in self._chunks(images)])

    def features(self, images: np.ndarray) -> np.ndarray:
        """All conv layers max-pooled to 4 x 4 and concatenated, float32 (n, D): the features that results are on."""
        rows = []
        with torch.no_grad():
            for chunk in self._chunks(images):
                pooled = [pool_output(maps, LayerSelection()) for maps in self._layer_outputs(chunk).values()]
                rows.append(torch.cat(pooled, dim=1).cpu())
        return torch.cat(rows).numpy()

    @property
    def layers(self) -> list[str]:
        """The names of the conv layers, the one next to the image first."""
        return [f"conv{index + 1}" for index in range(len(self.network.blocks))]

    def check_layer(self, layer: str) -> None:
        """Raises EvalkitError for a layer that the discriminator does not have."""
        if layer not in self.layers:
            raise EvalkitError(
                f"recipe {self.recipe.name}: its discriminator has no layer {layer!r}; choose {', '.join(self.layers)}"
            )

    def _chunks(self, images: np.ndarray) -> Iterator[Tensor]:
        for first in range(0, len(images), CHUNK):
            yield self.as_input(images[first : first + CHUNK])

    def _layer_outputs(self, images: Tensor) -> dict[str, Tensor]:
        return self.network.layer_outputs(images, self.classes(len(images)))


def training_images(gan: FrozenGAN, images: Any = None, *, home: Workspace | Path | str | None = None) -> ImageSet:
    """The given images (see `as_image_set`), else the set in the workspace that the GAN was trained on.

    Raises:
        EvalkitError: no such set, or images of another size than the GAN's.
    """
    workspace = Workspace.of(home)
    if images is None:
        chosen = find_images_by_sha256(workspace, gan.made_from.get("images_sha256", ""))
    else:
        chosen = as_image_set(images, home=home)
    if chosen is None:
        raise EvalkitError(
            f"{gan.name}: the images it was trained on are not in {workspace.home}; name a set: --images"
        )
    height = chosen.images.shape[1]
    if chosen.images.shape[1:3] != (gan.recipe.size, gan.recipe.size):
        raise EvalkitError(
            f"{chosen.name}: images are {height} pixels high, {gan.name} generates {gan.recipe.size}; "
            f"use a set prepared with --size {gan.recipe.size}"
        )
    return chosen


def as_z(gan: FrozenGAN, z: Tensor | np.ndarray) -> Tensor:
    """z as float32 (N, z_dim) on the GAN's device.

    Raises:
        EvalkitError: an array of another shape.
    """
    values = torch.as_tensor(z, dtype=torch.float32)
    if values.ndim != 2 or values.shape[1] != gan.recipe.z_dim:
        raise EvalkitError(f"z of shape {tuple(values.shape)}, {gan.name} takes (N, {gan.recipe.z_dim})")
    return values.to(gan.device)
