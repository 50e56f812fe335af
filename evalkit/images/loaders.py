"""Pictures through other libraries' loaders, as plans: torchvision's data set classes and scikit-learn's digits.

torchvision knows the files' addresses and checks their checksums. named.py says which name means which.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.images.plan import Plan
from evalkit.images.sources.arrays import Block, blocks

Arguments = dict[str, dict[str, Any]]  # of a data set class, for each split of ours
DIGITS_IDENTITY = {"class": "sklearn.datasets.load_digits", "split": "every 3.594th of each class is test"}


def digits_plan(downloads: Path, download: bool) -> Plan:
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
