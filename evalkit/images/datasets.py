"""Named data sets: what `--dataset NAME` means, and how each becomes an image set on first use.

loaders.py reads the files; an ordinary prepare does the rest.

From what a user types after `--dataset` to an opened image set.

The files of CIFAR, SVHN, STL-10 and MNIST wherever they lie: which named data set a path holds.

Images through other libraries' loaders, as plans: torchvision's data set classes and scikit-learn's digits.

torchvision knows the files' addresses and checks their checksums. named.py says which name means which.
"""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from evalkit.artifacts import already_built
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.images.decode import ResizeOptions
from evalkit.images.imageset import KIND, ImageSet, load_images
from evalkit.images.prepare import prepare, write_set
from evalkit.images.sources import plan_source
from evalkit.images.sources.base import Plan
from evalkit.images.sources.npz import Block, blocks
from evalkit.workspace import Workspace

Arguments = dict[str, dict[str, Any]]  # of a data set class, for each split of ours


@dataclass(frozen=True)
class Dataset:
    """A named data set.

    Attributes:
        about: one line for lists.
        plan: (downloads folder, whether to download) -> the images.
        identity: what says that an image set was made from this data set, known without reading it.
        size: side of the prepared images in pixels.
        files: what has to lie where below the downloads folder, for the error message.
    """

    about: str
    plan: Callable[[Path, bool], Plan]
    identity: dict[str, Any]
    size: int = 32
    files: str = ""


_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
_STL10 = "airplane bird car cat deer dog horse monkey ship truck".split()
_DIGITS = [str(k) for k in range(10)]


DIGITS_IDENTITY = {"class": "sklearn.datasets.load_digits", "split": "every 3.594th of each class is test"}


def _imagenet(downloads: Path) -> Path:
    folder = downloads / "imagenet"
    if folder.is_dir():
        return folder
    raise EvalkitError(
        f"{folder}: ImageNet is not there, and evalkit does not download it; put its folders of classes into "
        f"{folder / 'train'}, or prepare them where they are: evalkit prepare FOLDER --name imagenet"
    )


def digits_plan(downloads: Path, download: bool) -> Plan:
    """scikit-learn's 1,797 digits; every third or fourth of a class is a test image, 500 in all, without chance."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    bunch = load_digits()
    images = np.floor(bunch.images * (255 / 16) + 0.5).astype(np.uint8)  # 0 to 16 -> 0 to 255
    by_class = np.argsort(bunch.target, kind="stable")
    test = np.zeros(len(images), bool)
    test[by_class[np.arange(500) * len(images) // 500]] = True
    shards: list[Block] = []
    for split, rows in (("train", ~test), ("test", test)):
        shards += blocks(split, images[rows], bunch.target[rows].astype(np.int64))
    return Plan("scikit-learn", shards, [str(k) for k in range(10)], DIGITS_IDENTITY)


def torchvision_plan(name: str, splits: Arguments, class_names: Sequence[str] = ()) -> Callable[[Path, bool], Plan]:
    """The plan of one of torchvision's data set classes; the class names are its own unless given."""

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
        names = class_names or list(loaded.classes)
        return Plan("torchvision", shards, names, torchvision_identity(name, splits))

    return plan


def torchvision_identity(name: str, splits: Arguments) -> dict[str, Any]:
    """What says that an image set was made of these splits of the class, known without reading it."""
    return {"class": f"torchvision.datasets.{name}", "splits": list(splits)}


def _vision(about: str, name: str, splits: Arguments, classes: Sequence[str], **rest: Any) -> Dataset:
    return Dataset(about, torchvision_plan(name, splits, classes), torchvision_identity(name, splits), **rest)


_BY_TRAIN: Arguments = {"train": {"train": True}, "test": {"train": False}}


_BY_SPLIT: Arguments = {"train": {"split": "train"}, "test": {"split": "test"}}


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
        "SVHN with its 531,131 extra training images as a split of their own",
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
        "STL-10 with its 100,000 unlabelled images as a split of their own",
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
    filter: str = ResizeOptions.filter,
    replace: bool = False,
    progress: bool = False,
) -> ImageSet:
    """Makes the image set of a named data set, or returns the finished one.

    Args:
        name: one of `dataset_names()`.
        target: the image set's folder.
        downloads: where the data set's files are, or are put.
        download: fetch missing files.
        size: side of the images in pixels; the data set's own if not given.
        filter, replace, progress: as in `prepare`.

    Raises:
        EvalkitError: unknown name; or files missing, with what belongs where.
    """
    chosen = dataset(name)
    fit = ResizeOptions(size=size or chosen.size, filter=filter)
    if name == "imagenet":
        folder = _imagenet(downloads)
        return prepare(folder, target, name=name, size=fit.size, filter=filter, replace=replace, progress=progress)
    settings = {"name": name, "size": fit.size, "filter": filter, "decode": "exact"}
    made_from = {"source": _kind(chosen), **chosen.identity}
    if already_built(target, KIND, settings=settings, made_from=made_from, replace=replace):
        return load_images(target)
    try:
        plan = chosen.plan(downloads, download)
    except (OSError, RuntimeError, EOFError) as error:  # torchvision's: missing, broken, or the network's
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        tried = "could not be downloaded" if download else "are not complete there"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EvalkitError(f"{downloads}: the files of {name} {tried} ({reason}); put there {chosen.files}") from None
    # One process: the images are in memory already and of the right size, or tiny.
    return write_set(plan, target, name=name, fit=fit, workers=1, replace=replace, progress=progress)


def _kind(chosen: Dataset) -> str:
    return "scikit-learn" if chosen is DATASETS["digits"] else "torchvision"


def find_images(workspace: Workspace, name_or_path: str, *, download: bool = True, progress: bool = False) -> ImageSet:
    """A prepared set by its path or its name in the workspace; a named data set is prepared on first use.

    Raises:
        EvalkitError: no such set, with the names there are; or the named data set's files are missing.
    """
    try:
        return load_images(workspace.find(KIND, name_or_path))
    except ArtifactError as error:
        place = workspace.home / "images" / name_or_path
        if name_or_path not in DATASETS or place.exists():
            raise EvalkitError(f"{error}; data sets known by name: {', '.join(DATASETS)}") from None
    return prepare_named(
        name_or_path,
        workspace.path_of(KIND, name_or_path),
        downloads=workspace.downloads,
        download=download,
        progress=progress,
    )


def prepare_from(workspace: Workspace, source: str, dataset: str) -> ImageSet:
    """The images of a named data set from where the user has them: its own files, or any source of its images.

    Raises:
        EvalkitError: the files of another data set, or what `prepare` raises.
    """
    known = known_files(source)
    if known is None:
        return prepare(source, workspace, name=dataset, progress=True)
    if known[0] != dataset:
        raise EvalkitError(f"{source}: these are the files of {known[0]}, expected those of {dataset}")
    place = workspace.path_of(KIND, dataset)
    return prepare_named(dataset, place, downloads=known[1], download=False, progress=True)


def find_images_by_sha256(workspace: Workspace, sha256: str) -> ImageSet | None:
    """The image set in the workspace with these images, such as those that a network was trained on."""
    for path in workspace.artifacts(KIND):
        try:
            found = load_images(path)
        except ArtifactError:
            continue
        if found.sha256 == sha256:
            return found
    return None


_FILES = {  # a file of the data set, as torchvision lays it out below the folder that it is given
    "cifar10": "cifar-10-batches-py/data_batch_1",
    "cifar100": "cifar-100-python/train",
    "mnist": "MNIST/raw/train-images-idx3-ubyte",
    "stl10": "stl10_binary/train_X.bin",
    "svhn": "train_32x32.mat",
}


def known_files(source: Path | str) -> tuple[str, Path] | None:
    """The named data set whose files are at a path, and the folder that they are below; None if it is none.

    The path is the data set's own folder (`cifar-10-batches-py`, `MNIST`), the file above, or whatever is between.
    """
    path = Path(source).absolute()
    for name, file in _FILES.items():
        parts = PurePosixPath(file).parts
        for depth in range(0 if len(parts) == 1 else 1, len(parts) + 1):
            folder = path.parents[depth - 1] if depth else path
            if path == folder.joinpath(*parts[:depth]) and (folder / file).is_file():
                return name, folder
    return None
