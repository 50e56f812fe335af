"""One extraction as it was asked for: pictures, encoder, taps, batch norm, and what its features are made from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.distributed import Ranks
from evalkit.errors import EvalkitError
from evalkit.features.encoders.encoder import Encoder
from evalkit.features.grids import Taps
from evalkit.features.views import Views
from evalkit.images.imageset import ImageSet


@dataclass(frozen=True)
class Job:
    """What `extract` was asked for; `mode` is empty for a network without batch norm."""

    images: ImageSet
    encoder: Encoder
    taps: Taps
    views: Views
    mode: str
    source_images: ImageSet | None
    dtype: str
    precision: str
    device: torch.device
    ranks: Ranks

    @property
    def settings(self) -> dict[str, Any]:
        """What is stamped and has to be equal for the features to be the same."""
        return {
            "dataset": self.images.name,
            "encoder": self.encoder.name,
            "weights": self.encoder.weights,
            "batch_norm": self.mode,
            "dtype": self.dtype,
            "precision": self.precision,
        } | (self.taps.as_dict() | self.views.as_dict())

    @property
    def made_from(self) -> dict[str, str]:
        """Hashes of weights and pictures."""
        found = {"weights_sha256": self.encoder.sha256, "images_sha256": self.images.sha256}
        if self.mode != "source":
            return found
        known = bool(self.encoder.source_statistics)
        return found | {"statistics_sha256": self.encoder.images_sha256 if known else self.statistics_images.sha256}

    @property
    def statistics_images(self) -> ImageSet:
        """The pictures whose statistics normalise, where the encoder does not bring them.

        Raises:
            EvalkitError: `source` without the pictures that the encoder was trained on, or with ones of another size.
        """
        if self.mode != "source":
            return self.images
        given = self.source_images
        if given is None or given.sha256 != self.encoder.images_sha256:
            found = given.name if given else "none given"
            raise EvalkitError(
                f"{self.encoder.name}: batch norm `source` needs the pictures it was trained on, found {found}"
            )
        height, width = given.images.shape[1:3]  # larger ones, where it was trained on crops
        self.encoder.preprocessing.check(height, width, f"{self.encoder.name}: batch norm `source`")
        return given

    def tensor(self, first: int, end: int) -> Tensor:
        """Pictures, uint8 (n, H, W, 3), on the device."""
        return torch.from_numpy(np.array(self.images.images[first:end])).to(self.device)


def variant(encoder: Encoder, taps: Taps, batch_norm: str | None, views: Views) -> list[str]:
    """What differs from the encoder's own batch norm and the paper's taps and views, in words that a figure carries."""
    other = batch_norm not in (None, encoder.batch_norm) and encoder.network.norms()
    return ([f"{batch_norm} batch norm"] if other else []) + taps.variant() + views.variant()
