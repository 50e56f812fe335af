"""Images that are arrays already: NumPy's .npz, or what the loader of a data set returns."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.images.sources.base import (
    SHARD,
    Plan,
    SourceImage,
    checked_labels,
    identity_of,
    printable,
    split_of,
    split_order,
)

_IMAGES = ("images", "image", "x", "X", "data", "arr_0")
_LABELS = ("labels", "label", "y", "Y", "arr_1")


@dataclass(frozen=True)
class Block:
    """Images in memory, uint8 (n, H, W) or (n, H, W, C), with labels (n,); `first` is their first row in the split."""

    split: str
    images: np.ndarray
    labels: np.ndarray
    first: int

    @property
    def count(self) -> int:
        return len(self.images)

    def read(self) -> Iterator[SourceImage]:
        for row, (image, label) in enumerate(zip(self.images, self.labels, strict=True), self.first):
            yield SourceImage(f"{self.split} {row}", image, int(label))


def blocks(split: str, images: np.ndarray, labels: np.ndarray) -> list[Block]:
    """A split in memory as shards."""
    starts = range(0, len(images), SHARD)
    return [Block(split, images[first : first + SHARD], labels[first : first + SHARD], first) for first in starts]


@dataclass(frozen=True)
class NpzRows:
    """Some rows of an array in an .npz, read as a stream: no more than the shard is in memory."""

    split: str
    path: str
    member: str
    first: int
    labels: np.ndarray

    @property
    def count(self) -> int:
        return len(self.labels)

    def read(self) -> Iterator[SourceImage]:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member + ".npy") as stream:
            shape = npy_header(stream, f"{self.path}[{self.member}]")
            row_bytes = int(np.prod(shape[1:]))
            stream.seek(self.first * row_bytes, 1)
            for row, label in enumerate(self.labels, self.first):
                content = stream.read(row_bytes)
                if len(content) < row_bytes:
                    raise EvalkitError(f"{self.path}: {self.member} ends at row {row} of {shape[0]}; download it again")
                image = np.frombuffer(content, np.uint8).reshape(shape[1:])
                yield SourceImage(f"{self.member} {row}", as_hwc(image), int(label))


def as_hwc(image: np.ndarray) -> np.ndarray:
    """One image as (H, W, C): flat 3 x side x side (rows of CIFAR and downsampled ImageNet) or (C, H, W) too."""
    if image.ndim == 1:
        side = int(np.sqrt(image.size // 3))
        return image.reshape(3, side, side).transpose(1, 2, 0)
    if image.ndim == 3 and image.shape[2] not in (1, 3) and image.shape[0] in (1, 3):
        return image.transpose(1, 2, 0)
    return image


def npy_header(stream, source: str) -> tuple[int, ...]:
    """Reads a .npy header; returns the shape of an array of uint8 images.

    Raises:
        EvalkitError: not a .npy, another dtype, Fortran order, or not the shape of images.
    """
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EvalkitError(f"{source}: not a NumPy array ({error})") from None
    flat = len(shape) == 2 and shape[1] == 3 * int(np.sqrt(shape[1] // 3)) ** 2
    planes = len(shape) == 4 and (shape[3] in (1, 3) or shape[1] in (1, 3))
    if dtype != np.uint8 or fortran or not (flat or planes or len(shape) == 3):
        raise EvalkitError(
            f"{source}: {dtype} {shape}, expected uint8 (N, H, W), (N, H, W, 3), (N, 3, H, W) or (N, 3 x side x side)"
        )
    return shape


def npz_plan(root: Path, files: Sequence[Path]) -> Plan:
    """The images of an .npz: images and labels; or train_images, train_labels, x_test, y_test and so on.

    Raises:
        EvalkitError: no such arrays, or arrays that are not images.
    """
    if len(files) != 1:
        raise EvalkitError(f"{root}: {len(files)} .npz files, expected one; name the file")
    path = files[0]
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            if len(set(members)) < len(members):
                raise EvalkitError(f"{path}: two members of the archive have one name; save it again")
            pairs = _pairs(members)
            if not pairs:
                listed = ", ".join(map(printable, members)) or "none"
                raise EvalkitError(f"{path}: no array has a name for images (images, x_train, …); its arrays: {listed}")
            shapes = {images: _shape(archive, images, path) for _, images, _ in pairs}
        with np.load(path, allow_pickle=False) as loaded:
            labels = {images: _labels(loaded, label, shapes[images][0], path) for _, images, label in pairs}
            names = [str(name) for name in loaded["class_names"]] if "class_names" in members else []
    except (zipfile.BadZipFile, ValueError, EOFError, zlib.error, MemoryError) as error:
        raise EvalkitError(f"{path}: cannot be read as .npz ({error}); download it again") from None
    names = checked_labels(np.concatenate(list(labels.values())), names, path)
    shards = [
        NpzRows(split, str(path), images, first, labels[images][first : first + SHARD])
        for split, images, _ in pairs
        for first in range(0, shapes[images][0], SHARD)
    ]
    return Plan("npz", shards, names, identity_of([path], path))


def _shape(archive: zipfile.ZipFile, member: str, path: Path) -> tuple[int, ...]:
    with archive.open(member + ".npy") as stream:
        return npy_header(stream, f"{path}[{member}]")


def _pairs(members: list[str]) -> list[tuple[str, str, str | None]]:
    """(split, array of images, array of labels or None), in the order of the rows."""
    pairs = []
    for images in members:
        words = images.split("_")
        split = split_of(words)
        rest = "_".join(word for word in words if split_of([word]) is None) if images not in _IMAGES else images
        if rest in _IMAGES:
            same = [m for m in members if split_of(m.split("_")) == split]
            label = next((m for m in same if any(word in _LABELS for word in (*m.split("_"), m)) and m != images), None)
            pairs.append((split or "train", images, label))
    return sorted(pairs, key=lambda row: (split_order(row[0]), row[1]))


def _labels(loaded: np.lib.npyio.NpzFile, name: str | None, rows: int, path: Path) -> np.ndarray:
    if name is None:
        return np.full(rows, -1)
    labels = loaded[name].reshape(-1)
    if len(labels) != rows or not np.issubdtype(labels.dtype, np.integer):
        raise EvalkitError(f"{path}: {name} holds {len(labels)} {labels.dtype}, expected {rows} whole numbers")
    return labels.astype(np.int64)
