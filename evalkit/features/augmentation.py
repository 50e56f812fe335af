"""Augmentation at extraction: the flipped and shifted copies of an image whose features are averaged with its own."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from evalkit.features.options import Augmentation


def augmented(images: Tensor, augmentation: Augmentation) -> Iterator[Tensor]:
    """Images (N, C, h, w) and then their copies, each of the same shape."""
    for copy in _shifted(images, augmentation.shift):
        yield copy
        if augmentation.hflip:
            yield copy.flip(3)


def _shifted(images: Tensor, shift: int) -> Iterator[Tensor]:
    yield images
    if not shift:
        return
    height, width = images.shape[2:]
    padded = F.pad(images, [shift] * 4, mode="reflect")
    for top in (0, 2 * shift):
        for left in (0, 2 * shift):
            yield padded[:, :, top : top + height, left : left + width]
