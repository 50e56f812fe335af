"""Named data sets: what each name means, where its files are, and how they become a Plan.

torchvision's data set classes know the files' addresses and verify their checksums; scikit-learn has the digits.
`prepare` comes after.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.images.sources import plan_source
from evalkit.images.sources.base import Plan, checked_labels
from evalkit.images.sources.npz import Block, blocks

Arguments = dict[str, dict[str, Any]]  # keyword arguments of a torchvision class, for each of our splits


@dataclass(frozen=True)
class NamedDataset:
    """A data set that users know by its name.

    Attributes:
        about: one line for lists.
        loader: the library that reads the files, as the image set's manifest names it.
        plan: (downloads folder, whether to download) -> the images.
        identity: identifies the data set in an image set's manifest; known without reading the files.
        size: side of the prepared images in pixels.
        files: what belongs into the downloads folder, for the error message.
    """

    about: str
    loader: str
    plan: Callable[[Path, bool], Plan]
    identity: dict[str, Any]
    size: int = 32
    files: str = ""


@dataclass(frozen=True)
class NamedFiles:
    """A named data set and the folder that its files are in or are downloaded to."""

    name: str
    folder: Path
    may_download: bool


def dataset_names() -> list[str]:
    """The named data sets, for `--dataset`."""
    return list(DATASETS)


def dataset_named(name: str) -> NamedDataset:
    """The named data set.

    Raises:
        EvalkitError: no such name; the message lists the choices.
    """
    if name not in DATASETS:
        raise EvalkitError(f"no data set {name!r}; choose from {', '.join(DATASETS)}, or give the path of an image set")
    return DATASETS[name]


def named_files(source: Path | str, downloads: Path) -> NamedFiles | None:
    """The named data set that `source` refers to, by its name or by the path of its files; None if it is none."""
    if str(source) in DATASETS and not Path(source).exists():
        return NamedFiles(str(source), downloads, may_download=True)
    known = known_files(source)
    return NamedFiles(*known, may_download=False) if known else None


_FILES = {  # one file of the data set, relative to the folder that torchvision is given
    "cifar10": "cifar-10-batches-py/data_batch_1",
    "cifar100": "cifar-100-python/train",
    "mnist": "MNIST/raw/train-images-idx3-ubyte",
    "stl10": "stl10_binary/train_X.bin",
    "svhn": "train_32x32.mat",
}


def known_files(source: Path | str) -> tuple[str, Path] | None:
    """The named data set whose files are at a path, and the folder that torchvision expects; None if it is none.

    The path is the data set's own folder (`cifar-10-batches-py`, `MNIST`), a file in _FILES, or a folder in between.
    """
    path = Path(source).absolute()
    for name, file in _FILES.items():
        parts = PurePosixPath(file).parts
        for depth in range(0 if len(parts) == 1 else 1, min(len(parts), len(path.parents)) + 1):
            folder = path.parents[depth - 1] if depth else path
            if path == folder.joinpath(*parts[:depth]) and (folder / file).is_file():
                return name, folder
    return None


def imagenet_folder(downloads: Path) -> Path:
    """The user's own copy of ImageNet.

    Raises:
        EvalkitError: it is not there; the message says where to put it.
    """
    folder = downloads / "imagenet"
    if folder.is_dir():
        return folder
    raise EvalkitError(
        f"{folder}: ImageNet is not there, and evalkit does not download it; put its class folders into "
        f"{folder / 'train'}, or prepare them where they are: evalkit prepare FOLDER --name imagenet"
    )


_DIGITS_IDENTITY = {"class": "sklearn.datasets.load_digits", "split": "every 3.594th of each class is test"}


def _digits_plan(downloads: Path, download: bool) -> Plan:
    """scikit-learn's 1,797 digits; a fixed third or fourth image of a class is a test image, 500 in all."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    bunch = load_digits()
    images = np.floor(bunch.images * (255 / 16) + 0.5).astype(np.uint8)  # 0 to 16 -> 0 to 255
    by_class = np.argsort(bunch.target, kind="stable")
    test = np.zeros(len(images), bool)
    test[by_class[np.arange(500) * len(images) // 500]] = True
    shards: list[Block] = []
    for split, rows in (("train", ~test), ("test", test)):
        shards += blocks(split, images[rows], bunch.target[rows].astype(np.int64))
    return Plan("scikit-learn", shards, [str(k) for k in range(10)], _DIGITS_IDENTITY)


def _torchvision(
    about: str, class_name: str, splits: Arguments, class_names: Sequence[str], *, files: str, size: int = 32
) -> NamedDataset:
    """A data set that one of torchvision's classes reads; the class names are torchvision's if none are given."""
    identity = {"class": f"torchvision.datasets.{class_name}", "splits": list(splits)}

    def plan(downloads: Path, download: bool) -> Plan:
        import torchvision.datasets

        shards: list[Block] = []
        for split, arguments in splits.items():
            loaded = getattr(torchvision.datasets, class_name)(str(downloads), download=download, **arguments)
            images = np.asarray(loaded.data)
            if images.ndim == 4 and images.shape[1] == 3:
                images = images.transpose(0, 2, 3, 1)  # SVHN and STL-10 hold N x 3 x H x W
            given = loaded.labels if hasattr(loaded, "labels") else loaded.targets
            labels = np.asarray(given, dtype=np.int64)
            names = class_names or list(loaded.classes)
            checked_labels(labels, names, downloads)  # torchvision checks neither labels nor their number
            if len(labels) != len(images):
                raise EvalkitError(
                    f"{downloads}: {len(images):,} images and {len(labels):,} labels; download them again"
                )
            shards += blocks(split, images, labels)
        return Plan("torchvision", shards, names, identity)

    return NamedDataset(about, "torchvision", plan, identity, size, files)


_BY_TRAIN: Arguments = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT: Arguments = {"train": {"split": "train"}, "test": {"split": "test"}}
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
_STL10 = "airplane bird car cat deer dog horse monkey ship truck".split()
_DIGITS = [str(k) for k in range(10)]

DATASETS: dict[str, NamedDataset] = {
    "digits": NamedDataset(
        "scikit-learn's 1,797 handwritten digits, 8x8 enlarged; 1,297 train, 500 test; no download",
        "scikit-learn",
        _digits_plan,
        _DIGITS_IDENTITY,
    ),
    "cifar10": _torchvision(
        "CIFAR-10: 50,000 train, 10,000 test",
        "CIFAR10",
        _BY_TRAIN,
        _CIFAR10,
        files="cifar-10-python.tar.gz (or the folder cifar-10-batches-py) from https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "cifar100": _torchvision(
        "CIFAR-100 with its 100 fine classes: 50,000 train, 10,000 test",
        "CIFAR100",
        _BY_TRAIN,
        (),
        files="cifar-100-python.tar.gz (or the folder cifar-100-python) from https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "svhn": _torchvision(
        "SVHN, cropped digits: 73,257 train, 26,032 test",
        "SVHN",
        _BY_SPLIT,
        _DIGITS,
        files="train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers",
    ),
    "svhn-extra": _torchvision(
        "SVHN with its 531,131 extra training images as a split of their own",
        "SVHN",
        _BY_SPLIT | {"extra": {"split": "extra"}},
        _DIGITS,
        files="train_32x32.mat, test_32x32.mat and extra_32x32.mat from http://ufldl.stanford.edu/housenumbers",
    ),
    "mnist": _torchvision(
        "MNIST, 28x28: 60,000 train, 10,000 test",
        "MNIST",
        _BY_TRAIN,
        _DIGITS,
        size=28,
        files="MNIST/raw with the four idx files (train-images-idx3-ubyte, …), unzipped",
    ),
    "stl10": _torchvision(
        "STL-10, 96x96: 5,000 train, 8,000 test",
        "STL10",
        _BY_SPLIT,
        _STL10,
        size=96,
        files="stl10_binary.tar.gz (or the folder stl10_binary) from https://cs.stanford.edu/~acoates/stl10",
    ),
    "stl10-unlabeled": _torchvision(
        "STL-10 with its 100,000 unlabeled images as a split of their own",
        "STL10",
        _BY_SPLIT | {"unlabeled": {"split": "unlabeled"}},
        _STL10,
        size=96,
        files="stl10_binary.tar.gz (or the folder stl10_binary) from https://cs.stanford.edu/~acoates/stl10",
    ),
    "imagenet": NamedDataset(
        "ImageNet-1k from your own copy: DOWNLOADS/imagenet/train/n01440764/…; never downloaded",
        "folder",
        lambda downloads, download: plan_source(imagenet_folder(downloads)),
        {},
    ),
}
