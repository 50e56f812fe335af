"""The index of released weights: for each file its address, its size and the hash under which git keeps it.

The files are those of Newmu/dcgan_code at commit ee12b2d (MIT licence), Radford et al.'s own release.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath

from evalkit.errors import EvalkitError

_BASE = "https://raw.githubusercontent.com/Newmu/dcgan_code/ee12b2d15a3856794b8dae77d1eb263c67c36e47"


@dataclass(frozen=True)
class ReleasedFile:
    """A file of a release. `bytes` and `git_blob_sha1` (SHA-1 of "blob BYTES\\0" and the content) are its identity."""

    url: str
    bytes: int
    git_blob_sha1: str

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return PurePosixPath(self.url).name

    def address(self, mirror: str | None) -> str:
        """Where to download it: its URL, or the same path under another base."""
        return self.url if mirror is None else mirror.rstrip("/") + self.url.removeprefix(_BASE)


@dataclass(frozen=True)
class Release:
    """A released model: both networks of `recipe`, as joblib left them, one .npy an array.

    Attributes:
        name: as in `pretrained:NAME`.
        recipe: name of the recipe that describes the networks.
        about: one line for lists and the card.
        indexed: its files, pickles included, in the order of the index: D's arrays, then G's.
        source, licence: for the card.
    """

    name: str
    recipe: str
    about: str
    indexed: tuple[ReleasedFile, ...]
    source: str = "https://github.com/Newmu/dcgan_code, commit ee12b2d15a3856794b8dae77d1eb263c67c36e47"
    licence: str = "MIT"

    @property
    def files(self) -> tuple[ReleasedFile, ...]:
        """The arrays, in parameter order, D's before G's. The pickles beside them are not needed."""
        return tuple(file for file in self.indexed if file.name.endswith(".npy"))


def _indexed(model: str) -> tuple[ReleasedFile, ...]:
    with files("evalkit.pretrained").joinpath("released.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == model]
    return tuple(ReleasedFile(row["url"], int(row["bytes"]), row["git_blob_sha1"]) for row in rows)


RELEASES = {
    "dcgan-imagenet32": Release(
        "dcgan-imagenet32",
        "imagenet32",
        "the paper's network of the CIFAR-10 table, 30 epochs of ImageNet-1k at 32x32",
        _indexed("dcgan-imagenet32"),
    ),
    "dcgan-svhn": Release(
        "dcgan-svhn", "svhn", "the release's network of the SVHN table, 200 epochs of SVHN", _indexed("dcgan-svhn")
    ),
}


def release_named(name: str) -> Release:
    """A release of the index by name.

    Raises:
        EvalkitError: no such release; the message lists them.
    """
    if name not in RELEASES:
        raise EvalkitError(f"{name}: no released weights of that name; choose {', '.join(RELEASES)}")
    return RELEASES[name]
