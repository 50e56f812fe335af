"""ImageSet: uint8 images with labels and splits, memory-mapped. `prepare` makes it; training and extraction read it.

A view is an image set that selects rows of another one by an index, without a copy of the images; deduplication makes
views.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.artifacts import (
    MANIFEST,
    ArtifactWriter,
    Manifest,
    new_manifest,
    read_manifest,
    sha256_file,
    sha256_json,
    verify_files,
    write_artifact,
)
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.images.arrays import Batch, array_batches
from evalkit.images.sources.base import checked_labels
from evalkit.npy import NpyWriter, open_npy
from evalkit.workspace import Workspace

KIND = "image set"
ROWS = "rows.npy"
IMAGES, LABELS = "images.npy", "labels.npy"
_DEEPEST_VIEW = 8


@dataclass(frozen=True)
class ImageSet:
    """Images of one size.

    Attributes:
        name: the name of the data set, as results carry it.
        images: uint8 (N, H, W, 3), memory-mapped, or Rows of such an array where the set is a view of another; MNIST,
            too, has three equal channels.
        labels: int64 (N,), -1 where an image has no label.
        class_names: the K names; label k is class_names[k].
        splits: name -> (first row, row after the last), e.g. {"train": (0, 50000), "test": (50000, 60000)}.
        manifest: what the set was made from.
        directory: the folder of the files; None for a selection that exists in memory only.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    splits: dict[str, tuple[int, int]]
    manifest: Manifest
    directory: Path | None = None
    _keep: tuple[object, ...] = field(default=(), repr=False, compare=False)  # owners of temporary files

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any = None,
        *,
        test_images: Any = None,
        test_labels: Any = None,
        splits: Mapping[str, tuple[int, int]] | None = None,
        name: str = "images",
        class_names: Sequence[str] | None = None,
        home: Workspace | Path | str | None = None,
    ) -> "ImageSet":
        """Makes an image set from arrays in memory.

        Args:
            images: array or tensor (N, H, W, C) or (N, C, H, W), C 1 or 3, uint8 or floats in [0, 1].
            labels: whole numbers (N,), -1 for no label; without them no image has one.
            test_images, test_labels: the images of the split `test`; `images` are then the split `train`.
            splits: name -> (first row, row after the last) instead; by default all images are the split `train`.
            name: the name of the data set.
            class_names: the names of the labels 0 to K - 1; by default "0", "1", ….
            home: the workspace to keep the set in; by default its files go with the object.

        Raises:
            EvalkitError: images, labels or splits that are not valid, or `home` holds other images by this name.
        """
        if splits is not None and test_images is not None:
            raise EvalkitError("splits and test_images exclude each other; give one of them")
        parts = {"train": array_batches(images, labels)}
        if test_images is not None:
            parts["test"] = array_batches(test_images, test_labels)
        elif test_labels is not None:
            raise EvalkitError("test_labels without test_images; give both")
        return write_batches(parts, name=name, class_names=class_names, home=home, splits=splits)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sha256(self) -> str:
        """The identity of the images: SHA-256 of `images.npy`, for a view of it and the rows."""
        return identity(self.manifest)

    @property
    def training(self) -> np.ndarray:
        """The images of the split `train`, uint8 (n, H, W, 3); all images if there is no such split."""
        return self.split("train") if "train" in self.splits else self.images

    def split(self, name: str) -> np.ndarray:
        """The images of one split, uint8 (n, H, W, 3).

        Raises:
            ArtifactError: no such split; the message lists the splits.
        """
        if name not in self.splits:
            raise ArtifactError(f"{self.name}: no split {name!r}; it has {', '.join(self.splits)}")
        first, end = self.splits[name]
        return self.images[first:end]

    def keeping(self, *owners: object) -> "ImageSet":
        """The same set, which keeps `owners` of temporary files alive (a temporary workspace, the set of a view)."""
        return replace(self, _keep=(*self._keep, *owners))


@dataclass(frozen=True)
class ImageSetInfo:
    """What the manifest of an image set says beside its settings and files.

    Attributes:
        class_names, splits: as in ImageSet.
        counts: numbers of images "read", "written", "grey" (one channel) and "skipped".
        faces: numbers of photographs with "none", "one" and "several" faces, if faces were cropped.
        formats: numbers of images by file format.
        notes: what the user should know about the source, sentences.
        variant: which of several data sets of one name this is, e.g. "imagenet32-chrabaszcz2017"; often empty.
        first_skipped: (name, reason) of the first skipped images.
    """

    class_names: Sequence[str]
    splits: Mapping[str, Sequence[int]]
    counts: Mapping[str, int] = field(default_factory=dict)
    faces: Mapping[str, int] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    variant: str = ""
    first_skipped: Sequence[Sequence[str]] = ()

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "ImageSetInfo":
        """The fields that the manifest has."""
        return cls(**{name: manifest[name] for name in cls.__dataclass_fields__ if name in manifest})

    def as_dict(self) -> dict[str, Any]:
        """The fields for the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class ViewOf:
    """The image set that a view selects rows of: its path relative to the view, and its identity."""

    path: str
    sha256: str

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "ViewOf | None":
        """None if the image set is not a view."""
        fields = manifest["made_from"].get("view_of")
        return None if fields is None else cls(**fields)


def load_images(directory: Path | str, *, depth: int = 0) -> ImageSet:
    """Opens a prepared image set, memory-mapped, or a view of one.

    Args:
        directory: the image set's folder.
        depth: how many views of views led here.

    Raises:
        ArtifactError: nothing there, cut short, not an image set, or a view of images that have changed since.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, KIND)
    verify_files(directory, manifest)
    info, view_of = ImageSetInfo.from_manifest(manifest), ViewOf.from_manifest(manifest)
    images: Any
    if view_of is None:
        images = open_npy(directory / IMAGES, dtype="uint8", dimensions=4)
        labels = open_npy(directory / LABELS, dtype="int64", dimensions=1, mapped=False)
    else:
        if depth == _DEEPEST_VIEW:
            raise ArtifactError(
                f"{directory}: a view of more than {_DEEPEST_VIEW} views, or of itself; run dedup again"
            )
        parent = load_images((directory / view_of.path).resolve(), depth=depth + 1)
        if parent.sha256 != view_of.sha256:
            raise ArtifactError(
                f"{directory}: a view of other images than those now in {directory / view_of.path}; run dedup again"
            )
        rows = open_npy(directory / ROWS, dtype="int64", dimensions=1, mapped=False)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(parent):
            raise ArtifactError(
                f"{directory / ROWS}: rows that {directory / view_of.path} does not have; run dedup again"
            )
        images, labels = Rows(parent.images, rows), parent.labels[rows]
    _check_layout(directory, info, len(images), labels)
    return ImageSet(
        name=manifest["settings"]["name"],
        images=images,
        labels=labels,
        class_names=info.class_names,
        splits={name: (first, end) for name, (first, end) in info.splits.items()},
        manifest=manifest,
        directory=directory,
    )


def _check_layout(directory: Path, info: ImageSetInfo, count: int, labels: np.ndarray) -> None:
    """Refuses splits and labels that do not fit the images."""
    ends = [end for _, end in info.splits.values()]
    outside = len(labels) and not -1 <= labels.min() <= labels.max() < len(info.class_names)
    if len(labels) != count or max(ends, default=0) > count or outside:
        raise ArtifactError(
            f"{directory}: {count:,} images, and labels or splits of another number; prepare the images again"
        )


def write_batches(
    parts: Mapping[str, Iterable[Batch]],
    *,
    name: str,
    class_names: Sequence[str] | None = None,
    home: Workspace | Path | str | None = None,
    splits: Mapping[str, tuple[int, int]] | None = None,
) -> ImageSet:
    """Writes an image set from batches in memory, split by split; returns the finished one if it has the same images.

    Args as in `ImageSet.from_arrays`; `splits` replaces the rows of the parts.

    Raises:
        EvalkitError: no images, images of two sizes, labels out of range, or other images by this name.
    """
    workspace = Workspace.of(home)
    target = workspace.path_of(KIND, name)
    settings, made_from = {"name": name}, {"source": "arrays"}
    with write_artifact(target, settings=settings, made_from=made_from) as work:
        rows, labels = _write_parts(work.path, parts)
        info = ImageSetInfo(
            class_names=checked_labels(labels, class_names or (), name),
            splits=_checked_splits(splits, len(labels)) if splits is not None else rows,
            counts={"read": len(labels), "written": len(labels), "grey": 0, "skipped": 0},
        )
        hashes = {file: sha256_file(work.path / file) for file in (IMAGES, LABELS)}
        if (target / MANIFEST).is_file():
            _check_same(target, work, info, hashes)
        else:
            head = new_manifest(KIND, settings=settings, made_from=made_from)
            work.finish(head | info.as_dict(), hashes=hashes)
    return load_images(target).keeping(workspace)


def _write_parts(folder: Path, parts: Mapping[str, Iterable[Batch]]) -> tuple[dict[str, tuple[int, int]], np.ndarray]:
    """Writes images.npy and labels.npy; returns the splits and all labels."""
    splits: dict[str, tuple[int, int]] = {}
    labels: list[np.ndarray] = []
    writer: NpyWriter | None = None
    with ExitStack() as files:
        for split, batches in parts.items():
            first = writer.rows if writer else 0
            for batch in batches:
                shape = batch.images.shape[1:]
                if writer is None:
                    writer = files.enter_context(NpyWriter(folder / IMAGES, shape, np.uint8))
                if shape != writer.row_shape:
                    sizes = " and ".join(f"{h} x {w}" for h, w, _ in (writer.row_shape, shape))
                    raise EvalkitError(f"images of {sizes} pixels; an image set has images of one size")
                writer.append(batch.images)
                labels.append(batch.labels)
            if writer and writer.rows > first:
                splits[split] = (first, writer.rows)
    if not splits:
        raise EvalkitError("there are no images; expected at least one")
    with NpyWriter(folder / LABELS, (), np.int64) as file:
        file.append(np.concatenate(labels))
    return splits, np.concatenate(labels)


def _checked_splits(splits: Mapping[str, tuple[int, int]], count: int) -> dict[str, tuple[int, int]]:
    for name, (first, end) in splits.items():
        if not 0 <= first < end <= count:
            raise EvalkitError(f"split {name!r}: rows {first} to {end}, expected 0 <= first < end <= {count}")
    return dict(splits)


def _check_same(target: Path, work: ArtifactWriter, info: ImageSetInfo, hashes: Mapping[str, str]) -> None:
    """Discards the new files if `target` has the same; refuses if it holds anything else."""
    shutil.rmtree(work.path)
    manifest = read_manifest(target, KIND)
    existing = {name: tuple(rows) for name, rows in ImageSetInfo.from_manifest(manifest).splits.items()}
    same = all(manifest["files"].get(file, {}).get("sha256") == sha256 for file, sha256 in hashes.items())
    if not same or existing != {name: tuple(rows) for name, rows in info.splits.items()}:
        raise EvalkitError(f"{target}: exists with other contents; choose another name: ImageSet.from_arrays(name=…)")


def identity(manifest: Manifest) -> str:
    """SHA-256 that identifies the images of an image set, a view or not."""
    view_of = ViewOf.from_manifest(manifest)
    if view_of is None:
        return manifest["files"][IMAGES]["sha256"]
    return sha256_json([view_of.sha256, manifest["files"][ROWS]["sha256"]])


class Rows:
    """Selected rows of an array, read when indexed; slices stay views. Replaces a memory-mapped array anywhere."""

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


def view_manifest(parent: ImageSet, target: Path, settings: dict[str, Any]) -> Manifest:
    """The head of the manifest of a view of `parent` in the folder `target`, which names the view."""
    assert parent.directory is not None
    path = os.path.relpath(parent.directory.resolve(), target.resolve())
    made_from = {"view_of": asdict(ViewOf(path, parent.sha256))}
    return new_manifest(KIND, settings={"name": target.name, **settings}, made_from=made_from)


def splits_of_rows(splits: dict[str, tuple[int, int]], rows: np.ndarray) -> dict[str, tuple[int, int]]:
    """The splits of a selection of rows (ascending); empty splits are left out."""
    ends = {name: np.searchsorted(rows, [first, end]) for name, (first, end) in splits.items()}
    return {name: (int(first), int(end)) for name, (first, end) in ends.items() if end > first}
