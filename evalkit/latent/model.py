"""A trained GAN as a fixed function: what a z draws depends on that z alone. From a run to the experiments.

differs from the paper: its release normalises every batch by its own statistics, so that a sample depends on its
neighbours. Here each batch norm is frozen at the statistics of one reference batch, drawn from the z law with a fixed
seed; walks, sums and inversions are then functions of z.

The discriminator as a fixed function of one image: scores, taps and features. Used by most experiments.

From what a user types after --run to a frozen GAN, and to the images it was trained on.
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
from evalkit.features.pooling import LayerSelection
from evalkit.gan.checkpoint import load_weights, read_checkpoint, stored_recipe, weights_file
from evalkit.gan.networks import Discriminator, Generator, draw_z, to_images, to_network_range
from evalkit.gan.recipes import Recipe
from evalkit.gan.run_dir import find_checkpoint, run_of
from evalkit.images import ImageSet, find_images, find_images_by_sha256
from evalkit.pretrained.registry import find_pretrained
from evalkit.pretrained.store import load_discriminator, load_generator, read_pretrained
from evalkit.runtime import resolve_device
from evalkit.workspace import Workspace

# z of the reference batch: with another batch of 256, pixels of imagenet32@1077 move by 8 of 255 in the mean, with one
# of 128 by 12; a batch of 64 that normalises itself, as the release's, moves them by 16 (benchmarks/NOTES.md)
REFERENCE = 256
_REFERENCE_SEED = 20151119  # of the reference batch, the same for every run
CHUNK = 64  # images a pass


@dataclass(frozen=True)
class FrozenGAN:
    """A generator with frozen batch norm, and the discriminator.

    Attributes:
        name: as figures carry it, e.g. "imagenet32@800".
        generator: z (N, z_length) and one-hot classes or None -> images in its range; takes no gradients itself.
        discriminator: as loaded; `Critic` freezes a copy of it.
        label: the class that a conditional generator draws, None for others.
        made_from: path and hashes of the weights, for manifests; `images_sha256` is of the images trained on.
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

    def draw(self, count: int, *, seed: int) -> Tensor:
        """z (count, z_length) by the recipe's law, the same on every device."""
        return draw_z(count, self.recipe, torch.Generator().manual_seed(seed)).to(self.device)

    def decode(self, z: Tensor) -> Tensor:
        """z (N, z_length) -> float (N, C, size, size) in the generator's range, with gradients to z."""
        return self.generator(z, one_hot(self.label, len(z), self.recipe, self.device))

    def images(self, z: Tensor) -> np.ndarray:
        """z (N, z_length) -> uint8 (N, H, W, C)."""
        with torch.no_grad():
            return np.concatenate([to_images(self.decode(chunk), self.recipe) for chunk in z.split(CHUNK)])


def one_hot(label: int | None, count: int, recipe: Recipe, device: torch.device) -> Tensor | None:
    """`count` one-hot rows of the class `label`, or None where the recipe has no classes."""
    if label is None:
        return None
    return F.one_hot(torch.full((count,), label, device=device), recipe.classes)


def freeze_batch_norm(network: nn.Module, *inputs: Tensor | None) -> None:
    """Freezes every batch norm of `network` at the mean and biased variance it meets in one pass over `inputs`."""
    norms = {name: norm for name, norm in network.named_modules() if isinstance(norm, BatchNorm)}
    like = next(network.parameters())
    network.eval()
    with torch.no_grad():
        statistics = batch_statistics(norms, [inputs], lambda each: network(*each), batches=1, device=like.device)
    freeze_batch_norms(norms, statistics, like)
    network.requires_grad_(False)


def frozen(
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
    z = gan.draw(REFERENCE, seed=_REFERENCE_SEED)
    freeze_batch_norm(gan.generator, z, one_hot(label, REFERENCE, recipe, where))
    return gan


def reference_images(gan: FrozenGAN) -> np.ndarray:
    """What the reference batch draws: uint8 (REFERENCE, H, W, C)."""
    return gan.images(gan.draw(REFERENCE, seed=_REFERENCE_SEED))


def _checked_label(label: int | None, recipe: Recipe) -> int | None:
    if not recipe.classes:
        if label is not None:
            raise EvalkitError(f"recipe {recipe.name}: has no classes, found class {label}; leave --class out")
        return None
    if not 0 <= (label or 0) < recipe.classes:
        raise EvalkitError(f"recipe {recipe.name}: class {label}, expected 0 to {recipe.classes - 1}")
    return label or 0


class FrozenDiscriminator:
    """A copy of a GAN's discriminator with batch norm frozen at the statistics of some images.

    Samples are judged with the statistics of samples, as in training, where each batch is of one kind; the release
    takes those of the batch at hand. A conditional discriminator is told the GAN's class for every image.

    Args:
        normalised_by: uint8 (n, H, W, 3 or C), of which the first REFERENCE count; None: the GAN's reference samples.
        discriminator: other weights for the same recipe, such as random ones; None: the GAN's.
    """

    def __init__(
        self, gan: FrozenGAN, *, normalised_by: np.ndarray | None = None, discriminator: Discriminator | None = None
    ):
        self.recipe, self.device, self._label = gan.recipe, gan.device, gan.label
        self.discriminator = deepcopy(discriminator or gan.discriminator).to(self.device)
        pictures = reference_images(gan) if normalised_by is None else normalised_by
        images = self.images(pictures[:REFERENCE])
        freeze_batch_norm(self.discriminator, images, self.classes(len(images)))

    def images(self, images: np.ndarray) -> Tensor:
        """uint8 (n, H, W, C) -> float32 (n, C, H, W) in the networks' range."""
        return to_network_range(torch.from_numpy(np.array(images)).to(self.device), self.recipe)

    def classes(self, count: int) -> Tensor | None:
        """One-hot rows of the class that every image is said to be of; None without classes."""
        return one_hot(self._label, count, self.recipe, self.device)

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """Logits (n,), larger for what looks real."""
        with torch.no_grad():
            chunks = [self.discriminator(images, self.classes(len(images))) for images in self._chunks(pictures)]
        return torch.cat(chunks).cpu().numpy()

    def taps(self, pictures: np.ndarray, layer: str) -> np.ndarray:
        """The maps of one conv layer after its leaky ReLU, float32 (n, maps, h, w).

        Raises:
            EvalkitError: no such layer.
        """
        self.check_layer(layer)
        with torch.no_grad():
            return np.concatenate([self._taps(images)[layer].cpu().numpy() for images in self._chunks(pictures)])

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """All conv layers max-pooled to 4 x 4 and concatenated, float32 (n, D): the features of the tables."""
        rows = []
        with torch.no_grad():
            for images in self._chunks(pictures):
                rows.append(torch.cat([LayerSelection()(maps) for maps in self._taps(images).values()], dim=1).cpu())
        return torch.cat(rows).numpy()

    @property
    def layers(self) -> list[str]:
        """The names of the conv layers, from the image up."""
        return [f"conv{index + 1}" for index in range(len(self.discriminator.blocks))]

    def check_layer(self, layer: str) -> None:
        """Refuses a layer that the discriminator does not have."""
        if layer not in self.layers:
            raise EvalkitError(
                f"recipe {self.recipe.name}: its discriminator has no layer {layer!r}; choose {', '.join(self.layers)}"
            )

    def _chunks(self, images: np.ndarray) -> Iterator[Tensor]:
        for first in range(0, len(images), CHUNK):
            yield self.images(images[first : first + CHUNK])

    def _taps(self, images: Tensor) -> dict[str, Tensor]:
        return self.discriminator.layer_outputs(images, self.classes(len(images)))


_PRETRAINED = "pretrained:"


def open_gan(name: str, workspace: Workspace, *, label: int | None = None, device: str = "auto") -> FrozenGAN:
    """The GAN of a run or checkpoint (name, NAME@UPDATES or path; "latest": the latest run) or pretrained:NAME, frozen.

    Where training kept a moving average of a network, that one is taken.

    Args:
        label: the class to draw where the recipe has classes [0 if None].

    Raises:
        EvalkitError: no such run or weights, broken ones, or a class that the recipe does not have.
    """
    if name.startswith(_PRETRAINED):
        return _open_pretrained(name, workspace, label, device)
    checkpoint = find_checkpoint(name, workspace)
    manifest = read_checkpoint(checkpoint)
    recipe = stored_recipe(manifest)
    generator, discriminator = Generator(recipe), Discriminator(recipe)
    load_weights(generator, checkpoint / weights_file(manifest, "generator"))
    load_weights(discriminator, checkpoint / weights_file(manifest, "discriminator"))
    run = f"{run_of(checkpoint).name}@{manifest['settings']['d_updates']}"
    made_from = _made_from(checkpoint, manifest)
    return frozen(run, generator, discriminator, label=label, device=device, made_from=made_from)


def _open_pretrained(name: str, workspace: Workspace, label: int | None, device: str) -> FrozenGAN:
    path = find_pretrained(name.removeprefix(_PRETRAINED), workspace)
    manifest = read_pretrained(path)
    if not manifest["settings"]["complete"]:
        raise EvalkitError(f"{path}: holds the discriminator's first layers alone, expected a whole GAN")
    networks = load_generator(path), load_discriminator(path)
    return frozen(name, *networks, label=label, device=device, made_from=_made_from(path, manifest))


def _made_from(path: Path, manifest: Manifest) -> dict[str, Any]:
    files = [weights_file(manifest, network) for network in ("generator", "discriminator")]
    hashes = {file.removesuffix(".safetensors"): manifest["files"][file]["sha256"] for file in files}
    about = {"weights": str(path.resolve()), "images_sha256": manifest["made_from"].get("images_sha256", "")}
    return about | {f"{name}_sha256": found for name, found in hashes.items()}


def trained_on(gan: FrozenGAN, workspace: Workspace, name: str | None = None) -> ImageSet:
    """The image set `name`, else the workspace's set with the images that the GAN was trained on.

    Raises:
        EvalkitError: no such set, or images of another size than the GAN's.
    """
    images = find_images(workspace, name) if name else find_images_by_sha256(workspace, gan.made_from["images_sha256"])
    if images is None:
        raise EvalkitError(
            f"{gan.name}: the images it was trained on are not in {workspace.home}; name a set: --images"
        )
    if images.images.shape[1:3] != (gan.recipe.size, gan.recipe.size):
        found = f"images {images.images.shape[1]} pixels high, {gan.name} draws {gan.recipe.size}"
        raise EvalkitError(f"{images.name}: {found}; give a set prepared with --size {gan.recipe.size}")
    return images
