"""Named data sets: what `--dataset NAME` means, and how each becomes an image set on first use.

loaders.py reads the files; an ordinary prepare does the rest.
"""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.images.fit import Fit
from evalkit.images.imageset import ImageSet
from evalkit.images.loaders import DIGITS_IDENTITY, Arguments, digits_plan, torchvision_identity, torchvision_plan
from evalkit.images.plan import Plan
from evalkit.images.prepare import finished, prepare, write_set
from evalkit.images.sources import plan_source


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


def _vision(about: str, name: str, splits: Arguments, classes: Sequence[str], **rest: Any) -> Dataset:
    return Dataset(about, torchvision_plan(name, splits, classes), torchvision_identity(name, splits), **rest)


_DIGITS = [str(k) for k in range(10)]
_BY_TRAIN: Arguments = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT: Arguments = {"train": {"split": "train"}, "test": {"split": "test"}}
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
_STL10 = "airplane bird car cat deer dog horse monkey ship truck".split()

DATASETS = {
    "digits": Dataset(
        "scikit-learn's 1,797 handwritten digits, 8x8 enlarged; 1,297 train, 500 test; no download",
        digits_plan,
        DIGITS_IDENTITY,
    ),
    "cifar10": _vision(
        "CIFAR-10: 50,000 train, 10,000 test",
        "CIFAR10",
        _BY_TRAIN,
        _CIFAR10,
        files="cifar-10-python.tar.gz (or the folder cifar-10-batches-py) from https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "cifar100": _vision(
        "CIFAR-100 with its 100 fine classes: 50,000 train, 10,000 test",
        "CIFAR100",
        _BY_TRAIN,
        (),
        files="cifar-100-python.tar.gz (or the folder cifar-100-python) from https://www.cs.toronto.edu/~kriz/cifar.html",
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
        files="MNIST/raw with the four idx files (train-images-idx3-ubyte, …), unzipped",
    ),
    "stl10": _vision(
        "STL-10, 96x96: 5,000 train, 8,000 test",
        "STL10",
        _BY_SPLIT,
        _STL10,
        size=96,
        files="stl10_binary.tar.gz (or the folder stl10_binary) from https://cs.stanford.edu/~acoates/stl10",
    ),
    "stl10-unlabeled": _vision(
        "STL-10 with its 100,000 unlabelled pictures as a split of their own",
        "STL10",
        _BY_SPLIT | {"unlabeled": {"split": "unlabeled"}},
        _STL10,
        size=96,
        files="stl10_binary.tar.gz (or the folder stl10_binary) from https://cs.stanford.edu/~acoates/stl10",
    ),
    "imagenet": Dataset(
        "ImageNet-1k from your own copy: DOWNLOADS/imagenet/train/n01440764/…; never downloaded",
        lambda downloads, download: plan_source(_imagenet(downloads)),
        {},
    ),
}


def _imagenet(downloads: Path) -> Path:
    folder = downloads / "imagenet"
    if folder.is_dir():
        return folder
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
    if name == "imagenet":
        folder = _imagenet(downloads)
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
