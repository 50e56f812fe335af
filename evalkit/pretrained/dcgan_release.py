"""From a folder of a release's files, checked against the index, to weights of ours: all, or the part that is there.

Is a file the one that the index means? Git's own hash of a file says so.

The index of released weights: for each file its address, its size and the hash under which git keeps it.

The files are those of Newmu/dcgan_code at commit ee12b2d (MIT licence), Radford et al.'s own release.

The release's arrays as our networks: which array is which parameter, and how Theano's conventions become torch's.

Theano convolves truly, with the kernel turned by 180 degrees; torch correlates. A kernel turned once gives the same
maps, in the discriminator's convolutions and in the generator's deconvolutions, which the release (lib/ops.py) takes
as the gradient of such a convolution. Matrices multiply from the right there (z @ w), from the left in torch.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor, nn

from evalkit.errors import EvalkitError
from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.recipes import Recipe, load_recipe
from evalkit.pretrained.store import Pretrained, Weights, first_layers

_SHOWN = 4  # names of missing files in a message


def _listed(missing: list[tuple[str, str]]) -> str:
    """What is missing: every layer by name, the first files."""
    layers = ", ".join(dict.fromkeys(layer for layer, _ in missing))
    more = f" and {len(missing) - _SHOWN} more files" if missing[_SHOWN:] else ""
    return f"missing of {layers}: {', '.join(name for _, name in missing[:_SHOWN])}{more}"


def _notes(chosen: Sequence[str], whole_g: Sequence[str]) -> list[str]:
    notes = ["kernels turned by 180 degrees (Theano convolves, torch correlates), matrices transposed"]
    notes.append("no running statistics: use batch norm `target`, as the release does, `source` or `batch`")
    if "out" not in chosen:
        notes.append(f"incomplete: the discriminator's {', '.join(chosen)} alone; features yes, verdicts no")
    if not whole_g:
        notes.append("no generator")
    return notes


def git_blob_sha1(path: Path) -> str:
    """The hash under which git keeps a file: SHA-1 of "blob BYTES\\0" and its content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


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


def check_file(path: Path, entry: ReleasedFile) -> None:
    """Refuses a file that is not the index's.

    Raises:
        EvalkitError: another size or hash; the message has both.
    """
    found = path.stat().st_size
    if found != entry.bytes:
        raise EvalkitError(f"{path}: {found:,} bytes, the release's file has {entry.bytes:,}; fetch it again")
    if (digest := git_blob_sha1(path)) != entry.git_blob_sha1:
        expected = entry.git_blob_sha1
        raise EvalkitError(f"{path}: git blob SHA-1 {digest}, the release's file has {expected}; fetch it again")


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


def find_release(folder: Path) -> Release:
    """The release whose files lie in `folder`, told by their names.

    Raises:
        EvalkitError: files of none, or of more than one.
    """
    there = {path.name for path in folder.iterdir()}
    found = [release for release in RELEASES.values() if there & {file.name for file in release.files}]
    if len(found) != 1:
        examples = " or ".join(release.files[0].name for release in RELEASES.values())
        what = "files of more than one release" if found else "no file of a release"
        raise EvalkitError(f"{folder}: {what}; expected those of one, like {examples}")
    return found[0]


def read_release(
    folder: Path, release: Release, *, partial: bool = False, layers: Sequence[str] | None = None
) -> Pretrained:
    """The weights in a folder of a release's files, each file checked against the index first.

    Args:
        folder: holds the .npy files; the pickles beside them are not touched.
        release: which one.
        partial: take D's first whole layers, and G only if it is whole.
        layers: take exactly these conv layers of D, the first ones, and no G.

    Raises:
        EvalkitError: a file that is missing (unless partial), changed, or of another shape.
    """
    recipe = load_recipe(release.recipe)
    of_d, of_g = discriminator_parameters(recipe), generator_parameters(recipe)
    entries = list(zip([*of_d, *of_g], release.files, strict=True))
    d_files, g_files = _Files(folder, dict(entries[: len(of_d)])), _Files(folder, dict(entries[len(of_d) :]))
    chosen = _chosen_layers(d_files, g_files, recipe, partial=partial, layers=layers)
    complete = "out" in chosen
    recipe = recipe if complete else first_layers(recipe, len(chosen))
    whole_g = list(dict.fromkeys(p.layer for p in of_g)) if layers is None and not g_files.missing() else []
    return Pretrained(
        recipe,
        d_files.read(Discriminator(recipe), chosen),
        g_files.read(Generator(recipe), whole_g) if whole_g else None,
        {
            **{key: getattr(release, key) for key in ("about", "source", "licence")},
            "notes": _notes(chosen, whole_g),
            "complete": complete,
            "training_known": False,  # the release's names and scripts say it in part only
        },
        {"git_blob_sha1": d_files.hashes(chosen) | g_files.hashes(whole_g)},
    )


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


@dataclass(frozen=True)
class Parameter:
    """One array of a release: its name in our network's state dict, and the layer it belongs to."""

    name: str
    layer: str


@dataclass(frozen=True)
class _Files:
    """The files of one network of a release in a folder, by parameter, in the release's order."""

    folder: Path
    entries: dict[Parameter, ReleasedFile]

    def missing(self, *layers: str) -> list[tuple[str, str]]:
        """(layer, file name) of the files of these layers, or of all when none is named, that are not there."""
        chosen = [(p.layer, entry.name) for p, entry in self.entries.items() if not layers or p.layer in layers]
        return [(layer, name) for layer, name in chosen if not (self.folder / name).is_file()]

    def read(self, network: nn.Module, layers: Sequence[str]) -> Weights:
        """The network's state dict with the arrays of these layers; batch norm's running buffers stay as new."""
        state = network.state_dict()
        for parameter, entry in self.entries.items():
            if parameter.layer in layers:
                check_file(self.folder / entry.name, entry)
                state[parameter.name] = read_array(self.folder / entry.name, state[parameter.name].shape)
        return {name: value for name, value in state.items() if name != "out.weight" or "out" in layers}

    def hashes(self, layers: Sequence[str]) -> dict[str, str]:
        """URL -> git blob SHA-1 of the files of these layers."""
        return {entry.url: entry.git_blob_sha1 for p, entry in self.entries.items() if p.layer in layers}


def _chosen_layers(
    d_files: _Files, g_files: _Files, recipe: Recipe, *, partial: bool, layers: Sequence[str] | None
) -> list[str]:
    """D's layers to take, in order; with "out" for a whole discriminator."""
    everything = [f"conv{index + 1}" for index in range(len(recipe.d_channel_mults))] + ["out"]
    whole = next((i for i, layer in enumerate(everything) if d_files.missing(layer)), len(everything))
    if layers is not None:
        if not layers or list(layers) != everything[:-1][: len(layers)]:
            raise EvalkitError(f"layers {','.join(layers)}: expected the first ones, of {','.join(everything[:-1])}")
        missing = d_files.missing(*layers)
    else:
        missing = d_files.missing() + g_files.missing()
    if missing and not (partial and layers is None):
        cure = f"; --partial takes what is whole ({', '.join(everything[:whole])})" if whole else ""
        raise EvalkitError(f"{d_files.folder}: {_listed(missing)}{cure}")
    if not whole:
        raise EvalkitError(f"{d_files.folder}: not even the first layer is whole: {_listed(d_files.missing())}")
    return list(layers) if layers is not None else everything[:whole]


def discriminator_parameters(recipe: Recipe) -> list[Parameter]:
    """D's arrays in the release's order: w; then w, gain, bias a layer; last the output's weight."""
    found = []
    for index in range(len(recipe.d_channel_mults)):
        names = ("conv.weight",) if index == 0 else ("conv.weight", "norm.weight", "norm.bias")
        found += [Parameter(f"blocks.{index}.{name}", f"conv{index + 1}") for name in names]
    return [*found, Parameter("out.weight", "out")]


def generator_parameters(recipe: Recipe) -> list[Parameter]:
    """G's arrays in the release's order: w, gain, bias of z's linear layer and of each deconv; the last has w alone."""
    found = [Parameter(name, "linear") for name in _normalised("linears.0", "linear_norms.0")]
    deconvs = len(recipe.g_channel_mults)
    for index in range(deconvs):
        names = _normalised(f"deconvs.{index}", f"deconv_norms.{index}")[: 3 if index < deconvs - 1 else 1]
        found += [Parameter(name, f"deconv{index + 1}") for name in names]
    return found


def _normalised(layer: str, norm: str) -> tuple[str, str, str]:
    return f"{layer}.weight", f"{norm}.weight", f"{norm}.bias"


def read_array(path: Path, shape: torch.Size) -> Tensor:
    """One array of the release as the torch parameter of that shape, float32. No pickle is ever read.

    Raises:
        EvalkitError: no plain NumPy array, or not of the shape and type that the parameter needs.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise EvalkitError(f"{path}: no plain NumPy array ({error}); fetch the file again") from None
    expected = tuple(shape[::-1]) if len(shape) == 2 else tuple(shape)
    if not isinstance(array, np.ndarray) or array.shape != expected or array.dtype != np.float32:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise EvalkitError(f"{path}: {found}, expected float32 {expected}; is it a file of this model?")
    return torch.from_numpy(to_torch(array).copy())


def to_torch(array: np.ndarray) -> np.ndarray:
    """Kernels (o, i, h, w) turned by 180 degrees, matrices transposed, vectors (gains, biases) as they are."""
    if array.ndim == 4:
        return array[:, :, ::-1, ::-1]
    return array.T
