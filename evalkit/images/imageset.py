"""ImageSet: uint8 pictures with labels and splits, memory-mapped. Made by prepare, read by training and extraction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalkit.artifacts import Manifest, read_manifest
from evalkit.errors import ArtifactError
from evalkit.images.view import ROWS, Rows, checked_parent, identity

KIND = "image set"


@dataclass(frozen=True)
class ImageSet:
    """Pictures of one size.

    Attributes:
        name: the data set's name, as figures carry it.
        images: uint8 (N, H, W, 3), memory-mapped, or Rows of such an array where the set is a view of another; MNIST,
            too, has three equal channels.
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
        """The identity of the pictures: SHA-256 of `images.npy`, or of it and the rows where this is a view."""
        return identity(self.manifest)

    @property
    def training(self) -> np.ndarray:
        """The pictures of the split `train`, uint8 (n, H, W, 3); all where there is no such split."""
        return self.split("train") if "train" in self.splits else self.images

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
    """Opens a prepared image set, memory-mapped, or a view of one.

    Raises:
        ArtifactError: nothing there, cut short, not an image set, or a view of pictures that have changed since.
    """
    manifest = read_manifest(directory, KIND)
    of = manifest["made_from"].get("view_of")
    if of is None:
        images, labels = np.load(directory / "images.npy", mmap_mode="r"), np.load(directory / "labels.npy")
    else:
        parent = load_images((directory / of["path"]).resolve())
        checked_parent(directory, manifest, directory / of["path"], parent.sha256)
        rows = np.load(directory / ROWS)
        images, labels = Rows(parent.images, rows), parent.labels[rows]
    return ImageSet(
        name=manifest["settings"]["name"],
        images=images,
        labels=labels,
        class_names=manifest["class_names"],
        splits={name: (first, end) for name, (first, end) in manifest["splits"].items()},
        manifest=manifest,
    )
