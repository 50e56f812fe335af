"""The discriminator as a fixed function of one picture: scores, taps and features. Used by most experiments."""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.features.grids import Taps
from evalkit.gan.networks import Discriminator, to_network_range
from evalkit.latent.gan import CHUNK, REFERENCE, FrozenGAN, freeze_batch_norm, one_hot, reference_pictures


class Critic:
    """A copy of a GAN's discriminator with batch norm frozen at the statistics of some pictures.

    Samples are judged with the statistics of samples, as in training, where each batch is of one kind; the release
    takes those of the batch at hand. A conditional discriminator is told the GAN's class for every picture.

    Args:
        normalised_by: uint8 (n, H, W, 3 or C), of which the first REFERENCE count; None: the GAN's reference samples.
        discriminator: other weights for the same recipe, such as random ones; None: the GAN's.
    """

    def __init__(
        self, gan: FrozenGAN, *, normalised_by: np.ndarray | None = None, discriminator: Discriminator | None = None
    ):
        self.recipe, self.device, self._label = gan.recipe, gan.device, gan.label
        self.discriminator = deepcopy(discriminator or gan.discriminator).to(self.device)
        pictures = reference_pictures(gan) if normalised_by is None else normalised_by
        images = self.images(pictures[:REFERENCE])
        freeze_batch_norm(self.discriminator, images, self.classes(len(images)))

    def images(self, pictures: np.ndarray) -> Tensor:
        """uint8 (n, H, W, C) -> float32 (n, C, H, W) in the networks' range."""
        return to_network_range(torch.from_numpy(np.array(pictures)).to(self.device), self.recipe)

    def classes(self, count: int) -> Tensor | None:
        """One-hot rows of the class that every picture is said to be of; None without classes."""
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
                rows.append(torch.cat([Taps()(maps) for maps in self._taps(images).values()], dim=1).cpu())
        return torch.cat(rows).numpy()

    @property
    def layers(self) -> list[str]:
        """The names of the conv layers, from the picture up."""
        return [f"conv{index + 1}" for index in range(len(self.discriminator.blocks))]

    def check_layer(self, layer: str) -> None:
        """Refuses a layer that the discriminator does not have."""
        if layer not in self.layers:
            raise EvalkitError(
                f"recipe {self.recipe.name}: its discriminator has no layer {layer!r}; choose {', '.join(self.layers)}"
            )

    def _chunks(self, pictures: np.ndarray) -> Iterator[Tensor]:
        for first in range(0, len(pictures), CHUNK):
            yield self.images(pictures[first : first + CHUNK])

    def _taps(self, images: Tensor) -> dict[str, Tensor]:
        return self.discriminator.taps(images, self.classes(len(images)))
