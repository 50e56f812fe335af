"""ImageSet: uint8 images with labels and splits, memory-mapped. Made by prepare, read by training and extraction.

Some rows of an image set as an image set: an index, no copy of the images. What deduplication leaves.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.artifacts import Manifest, new_manifest, read_manifest, sha256_json
from evalkit.errors import ArtifactError

KIND = "image set"


@dataclass(frozen=True)
class ImageSet:
    """Images of one size.

    Attributes:
        name: the data set's name, as figures carry it.
        images: uint8 (N, H, W, 3), memory-mapped, or Rows of such an array where the set is a view of another; MNIST,
            too, has three equal channels.
        labels: int64 (N,), -1 where an image has no label.
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
        """The identity of the images: SHA-256 of `images.npy`, or of it and the rows where this is a view."""
        return identity(self.manifest)

    @property
    def training(self) -> np.ndarray:
        """The images of the split `train`, uint8 (n, H, W, 3); all where there is no such split."""
        return self.split("train") if "train" in self.splits else self.images

    def split(self, name: str) -> np.ndarray:
        """The images of one split, uint8 (n, H, W, 3).

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
        ArtifactError: nothing there, cut short, not an image set, or a view of images that have changed since.
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


ROWS = "rows.npy"


class Rows:
    """Rows of an array, read when indexed; slices stay views. Stands where a memory-mapped array may stand."""

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self._array, self._rows = array, rows
        self.shape = (len(rows), *array.shape[1:])
        self.dtype = array.dtype
        self.ndim = array.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        """A slice of rows is a view; a row, rows by number, or a tuple are read."""
        if isinstance(key, slice):
            return Rows(self._array, self._rows[key])
        first, *rest = key if isinstance(key, tuple) else (key,)
        read = self._array[self._rows[first]]
        return read[(slice(None),) * int(not np.isscalar(first)) + tuple(rest)] if rest else read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._array[self._rows], dtype=dtype)


def view_manifest(
    parent: Path, sha256: str, class_names: Sequence[str], place: Path, settings: dict[str, Any]
) -> Manifest:
    """The head of the manifest of a view in `place` of the image set in `parent`; the view has its place's name."""
    of = {"path": os.path.relpath(Path(parent).resolve(), place.resolve()), "sha256": sha256}
    manifest = new_manifest("image set", settings={"name": place.name, **settings}, made_from={"view_of": of})
    return manifest | {"class_names": list(class_names)}


def splits_of_rows(splits: dict[str, tuple[int, int]], rows: np.ndarray) -> dict[str, tuple[int, int]]:
    """Where the splits begin and end when only `rows` (ascending) are left; empty ones are gone."""
    ends = {name: np.searchsorted(rows, [first, end]) for name, (first, end) in splits.items()}
    return {name: (int(first), int(end)) for name, (first, end) in ends.items() if end > first}


def identity(manifest: Manifest) -> str:
    """SHA-256 that identifies the images of an image set, a view or not."""
    of = manifest["made_from"].get("view_of")
    if of is None:
        return manifest["files"]["images.npy"]["sha256"]
    return sha256_json([of["sha256"], manifest["files"][ROWS]["sha256"]])


def checked_parent(directory: Path, manifest: Manifest, parent: Path, parent_sha256: str) -> None:
    """Refuses a view whose images were made anew since.

    Raises:
        ArtifactError: other images are where the view's were.
    """
    if parent_sha256 != manifest["made_from"]["view_of"]["sha256"]:
        raise ArtifactError(f"{directory}: a view of other images than those now in {parent}; run dedup again")
