"""ImageSet: uint8 pictures with labels and splits, memory-mapped. Made by prepare, read by training and extraction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalkit.artifacts import Manifest, read_manifest
from evalkit.errors import ArtifactError

KIND = "image set"


@dataclass(frozen=True)
class ImageSet:
    """Pictures of one size.

    Attributes:
        name: the data set's name, as figures carry it.
        images: uint8 (N, H, W, 3), usually memory-mapped; MNIST, too, has three equal channels.
        labels: int64 (N,), -1 where a picture has no label.
        class_names: the K names; label k is class_names[k].
        splits: name -> (first row, row after the last), e.g. {"train": (0, 50000), "test": (50000, 60000)}.
        manifest: what the set was made from.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    splits: dict[str, tuple[int, int]]
    manifest: Manifest

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sha256(self) -> str:
        """SHA-256 of `images.npy`: the identity of the pictures."""
        return self.manifest["files"]["images.npy"]["sha256"]

    def split(self, name: str) -> np.ndarray:
        """The pictures of one split, uint8 (n, H, W, 3).

        Raises:
            ArtifactError: no such split; the message lists those there are.
        """
        if name not in self.splits:
            raise ArtifactError(f"{self.name}: no split {name!r}; it has {', '.join(self.splits)}")
        first, end = self.splits[name]
        return self.images[first:end]


def load_images(directory: Path) -> ImageSet:
    """Opens a prepared image set, memory-mapped.

    Raises:
        ArtifactError: nothing there, cut short, or not an image set.
    """
    manifest = read_manifest(directory, KIND)
    about = manifest["settings"]
    return ImageSet(
        name=about["name"],
        images=np.load(directory / "images.npy", mmap_mode="r"),
        labels=np.load(directory / "labels.npy"),
        class_names=manifest["class_names"],
        splits={name: (first, end) for name, (first, end) in manifest["splits"].items()},
        manifest=manifest,
    )
