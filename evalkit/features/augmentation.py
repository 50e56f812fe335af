"""Views: copies of an image whose features are averaged.

differs from the paper: its features are those of the image alone, which is the default.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError


@dataclass(frozen=True)
class Augmentation:
    """Which copies of an image beside itself.

    Attributes:
        mirror: its mirror image, and that of each other copy.
        shift: > 0: four copies shifted by that many pixels of the network's input along both axes, what enters at the
            edges reflected.

    Raises:
        EvalkitError: a negative shift.
    """

    hflip: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise EvalkitError(f"shift = {self.shift}, expected a number of pixels, 0 for none")

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        """The copies of images (N, C, h, w), themselves first, each of the same shape."""
        for copy in self._shifted(images):
            yield copy
            if self.hflip:
                yield copy.flip(3)

    def _shifted(self, images: Tensor) -> Iterator[Tensor]:
        yield images
        if not self.shift:
            return
        height, width = images.shape[2:]
        padded = F.pad(images, [self.shift] * 4, mode="reflect")
        for top in (0, 2 * self.shift):
            for left in (0, 2 * self.shift):
                yield padded[:, :, top : top + height, left : left + width]

    def check(self, height: int, width: int) -> None:
        """Refuses images that the shift is too large for.

        Raises:
            EvalkitError: says both sizes.
        """
        if self.shift >= min(height, width):
            raise EvalkitError(f"shift = {self.shift}, expected less than the images' {min(height, width)} pixels")

    def as_dict(self) -> dict[str, Any]:
        """What is not the default, as JSON values."""
        return ({"hflip": True} if self.hflip else {}) | ({"shift": self.shift} if self.shift else {})

    def variant(self) -> list[str]:
        """What differs from the paper's, in words that a figure can carry."""
        shifted = [f"shifted by {self.shift}"] if self.shift else []
        return shifted + (["with mirror image"] if self.hflip else [])
