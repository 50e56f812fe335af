"""Named data sets: what `--dataset NAME` means, and how each becomes an image set on first use.

The files come through torchvision's classes, which know their addresses and check their checksums.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.images.fit import Fit
from evalkit.images.imageset import ImageSet
from evalkit.images.plan import Plan
from evalkit.images.prepare import finished, prepare, write_set
from evalkit.images.sources.arrays import Block, blocks


@dataclass(frozen=True)
class Dataset:
    """A named data set.

    Attributes:
        about: one line for lists.
        plan: (downloads folder, whether to download) -> the pictures.
        identity: what says that an image set was made from this data set, known without reading it.
        size: side of the prepared pictures in pixels.
        files: what has to lie where below the downloads folder, for the error message.
    """

    about: str
    plan: Callable[[Path, bool], Plan]
    identity: dict[str, Any]
    size: int = 32
    files: str = ""


def _digits(_: Path, download: bool) -> Plan:
    """scikit-learn's 1,797 digits; every third or fourth of a class is a test picture, 500 in all, without chance."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    bunch = load_digits()
    images = np.floor(bunch.images * (255 / 16) + 0.5).astype(np.uint8)  # 0 to 16 -> 0 to 255
    by_class = np.argsort(bunch.target, kind="stable")
    test = np.zeros(len(images), bool)
    test[by_class[np.arange(500) * len(images) // 500]] = True
    shards: list[Block] = []
    for split, rows in (("train", ~test), ("test", test)):
        shards += blocks(split, images[rows], bunch.target[rows].astype(np.int64))
    return Plan("scikit-learn", shards, [str(k) for k in range(10)], DATASETS["digits"].identity)


def _torchvision(name: str, splits: dict[str, dict[str, Any]], class_names: list[str]) -> Callable[[Path, bool], Plan]:
    """The plan of one of torchvision's data set classes; `splits` are its arguments for each split of ours."""

    def plan(downloads: Path, download: bool) -> Plan:
        import torchvision.datasets

        shards: list[Block] = []
        for split, arguments in splits.items():
            loaded = getattr(torchvision.datasets, name)(str(downloads), download=download, **arguments)
            images = np.asarray(loaded.data)
            if images.ndim == 4 and images.shape[1] == 3:
                images = images.transpose(0, 2, 3, 1)  # SVHN and STL-10 hold N x 3 x H x W
            labels = loaded.labels if hasattr(loaded, "labels") else loaded.targets
            shards += blocks(split, images, np.asarray(labels, dtype=np.int64))
        return Plan("torchvision", shards, class_names, _identity(name, splits))

    return plan


def _identity(name: str, splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"class": f"torchvision.datasets.{name}", "splits": list(splits)}


def _vision(about: str, name: str, splits: dict[str, dict[str, Any]], classes: list[str], **rest: Any) -> Dataset:
    return Dataset(about, _torchvision(name, splits, classes), _identity(name, splits), **rest)


_DIGITS = [str(k) for k in range(10)]
_BY_TRAIN: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()

DATASETS = {
    "digits": Dataset(
        "scikit-learn's 1,797 handwritten digits, 8x8 enlarged; 1,297 train, 500 test; no download",
        _digits,
        {"class": "sklearn.datasets.load_digits", "split": "every 3.594th of each class is test"},
    ),
    "cifar10": _vision(
        "CIFAR-10: 50,000 train, 10,000 test",
        "CIFAR10",
        _BY_TRAIN,
        _CIFAR10,
        files="cifar-10-python.tar.gz (or the folder cifar-10-batches-py) from https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "svhn": _vision(
        "SVHN, cropped digits: 73,257 train, 26,032 test",
        "SVHN",
        _BY_SPLIT,
        _DIGITS,
        files="train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers",
    ),
    "svhn-extra": _vision(
        "SVHN with its 531,131 extra training pictures as a split of their own",
        "SVHN",
        _BY_SPLIT | {"extra": {"split": "extra"}},
        _DIGITS,
        files="train_32x32.mat, test_32x32.mat and extra_32x32.mat from http://ufldl.stanford.edu/housenumbers",
    ),
    "mnist": _vision(
        "MNIST, 28x28: 60,000 train, 10,000 test",
        "MNIST",
        _BY_TRAIN,
        _DIGITS,
        size=28,
        files="MNIST/raw with the four idx files (train-images-idx3-ubyte.gz, …)",
    ),
    "imagenet": Dataset(
        "ImageNet-1k from your own copy: DOWNLOADS/imagenet/train/n01440764/…; never downloaded",
        lambda downloads, download: _imagenet(downloads),
        {},
    ),
}


def _imagenet(downloads: Path) -> Plan:
    folder = downloads / "imagenet"
    raise EvalkitError(
        f"{folder}: ImageNet is not there, and evalkit does not download it; put its folders of classes into "
        f"{folder / 'train'}, or prepare them where they are: evalkit prepare FOLDER --name imagenet"
    )


def dataset_names() -> list[str]:
    """The named data sets, for `--dataset`."""
    return list(DATASETS)


def dataset(name: str) -> Dataset:
    """The named data set.

    Raises:
        EvalkitError: no such name; the message lists the choices.
    """
    if name not in DATASETS:
        raise EvalkitError(f"no data set {name!r}; choose from {', '.join(DATASETS)}, or give the path of an image set")
    return DATASETS[name]


def prepare_named(
    name: str,
    target: Path,
    *,
    downloads: Path,
    download: bool = True,
    size: int | None = None,
    filter: str = Fit.filter,
    replace: bool = False,
    progress: bool = False,
) -> ImageSet:
    """Makes the image set of a named data set, or returns the finished one.

    Args:
        name: one of `dataset_names()`.
        target: the image set's folder.
        downloads: where the data set's files are, or are put.
        download: fetch missing files.
        size: side of the pictures in pixels; the data set's own if not given.
        filter, replace, progress: as in `prepare`.

    Raises:
        EvalkitError: unknown name; or files missing, with what belongs where.
    """
    chosen = dataset(name)
    fit = Fit(size=size or chosen.size, filter=filter)
    if name == "imagenet" and (downloads / "imagenet").is_dir():
        folder = downloads / "imagenet"
        return prepare(folder, target, name=name, size=fit.size, filter=filter, replace=replace, progress=progress)
    settings = {"name": name, "size": fit.size, "filter": filter, "decode": "exact"}
    found = finished(target, settings, {"source": _kind(chosen), **chosen.identity}, replace=replace)
    if found is not None:
        return found
    try:
        plan = chosen.plan(downloads, download)
    except (OSError, RuntimeError, EOFError) as error:  # torchvision's: missing, broken, or the network's
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        tried = "could not be downloaded" if download else "are not complete there"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EvalkitError(f"{downloads}: the files of {name} {tried} ({reason}); put there {chosen.files}") from None
    # One process: the pictures are in memory already and of the right size, or tiny.
    return write_set(plan, target, name=name, fit=fit, workers=1, replace=replace, progress=progress)


def _kind(chosen: Dataset) -> str:
    return "scikit-learn" if chosen is DATASETS["digits"] else "torchvision"
