"""The files of CIFAR, SVHN, STL-10 and MNIST wherever they lie: which named data set a path holds."""

from pathlib import Path, PurePosixPath

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
