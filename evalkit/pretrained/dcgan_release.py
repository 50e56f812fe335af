"""Radford et al.'s released weights: the index of their files, and a folder of those files as networks of ours.

The files are those of Newmu/dcgan_code at commit ee12b2d (MIT licence). The index has each file's address, size and
the hash under which git stores it, so that a file is checked before it is read. A folder with part of a release gives
the layers that are complete.

Theano's arrays become torch's: Theano convolves truly, with the kernel rotated by 180 degrees; torch correlates. A
kernel rotated once gives the same maps, in the discriminator's convolutions and in the generator's deconvolutions,
which the release (lib/ops.py) computes as the gradient of such a convolution. Matrices multiply from the right there
(z @ w), from the left in torch.
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
from evalkit.pretrained.store import Pretrained, PretrainedSettings, Weights, first_layers

_BASE = "https://raw.githubusercontent.com/Newmu/dcgan_code/ee12b2d15a3856794b8dae77d1eb263c67c36e47"
_NAMED = 4  # missing files that a message names


@dataclass(frozen=True)
class ReleasedFile:
    """A file of a release, identified by `bytes` and `git_blob_sha1` (SHA-1 of "blob BYTES\\0" and the content)."""

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
    """A released model: both networks of `recipe`, as joblib stored them, one .npy file per array.

    Attributes:
        name: as in `pretrained:NAME`.
        recipe: name of the recipe that describes the networks.
        about: one line for the list and the card.
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
        """The files of the arrays, in parameter order, D's before G's. The pickles beside them are not needed."""
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
        EvalkitError: no such release; the message lists the names.
    """
    if name not in RELEASES:
        raise EvalkitError(f"{name}: no released weights of that name; choose {', '.join(RELEASES)}")
    return RELEASES[name]


def find_release(folder: Path) -> Release:
    """The release whose files are in `folder`, recognised by their names.

    Raises:
        EvalkitError: files of no release, or of more than one.
    """
    names = {path.name for path in folder.iterdir()}
    matching = [release for release in RELEASES.values() if names & {file.name for file in release.files}]
    if len(matching) != 1:
        examples = " or ".join(release.files[0].name for release in RELEASES.values())
        problem = "files of more than one release" if matching else "no file of a release"
        raise EvalkitError(f"{folder}: {problem}; expected those of one, like {examples}")
    return matching[0]


def read_release(
    folder: Path, release: Release, *, partial: bool = False, layers: Sequence[str] | None = None
) -> Pretrained:
    """The weights in a folder of a release's files; each file is checked against the index first.

    Args:
        folder: holds the .npy files; pickles in it are not read.
        release: the release they are of.
        partial: take the first layers of D whose files are all there, and G only if it is complete.
        layers: take exactly these conv layers of D, which have to be the first ones, and no G.

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
    settings = PretrainedSettings(
        recipe=recipe,
        about=release.about,
        source=release.source,
        licence=release.licence,
        notes=_notes(chosen, whole_g),
        complete=complete,
        training_known=False,  # the release's names and scripts say it in part only
    )
    return Pretrained(
        settings,
        d_files.read(Discriminator(recipe), chosen),
        g_files.read(Generator(recipe), whole_g) if whole_g else None,
        {"git_blob_sha1": d_files.hashes(chosen) | g_files.hashes(whole_g)},
    )


@dataclass(frozen=True)
class Parameter:
    """One array of a release: its name in our network's state dict, and its layer."""

    name: str
    layer: str


@dataclass(frozen=True)
class _Files:
    """The files of one network of a release in a folder, by parameter, in the release's order."""

    folder: Path
    entries: dict[Parameter, ReleasedFile]

    def missing(self, *layers: str) -> list[tuple[str, str]]:
        """(layer, file name) of each missing file of these layers, or of all layers when none is named."""
        chosen = [(p.layer, entry.name) for p, entry in self.entries.items() if not layers or p.layer in layers]
        return [(layer, name) for layer, name in chosen if not (self.folder / name).is_file()]

    def read(self, network: nn.Module, layers: Sequence[str]) -> Weights:
        """The network's state dict with the arrays of these layers; running statistics keep their initial values."""
        state = network.state_dict()
        for parameter, entry in self.entries.items():
            if parameter.layer in layers:
                check_file(self.folder / entry.name, entry)
                state[parameter.name] = read_array(self.folder / entry.name, state[parameter.name].shape)
        return {name: value for name, value in state.items() if name != "out.weight" or "out" in layers}

    def hashes(self, layers: Sequence[str]) -> dict[str, str]:
        """URL -> git blob SHA-1 of the files of these layers."""
        return {entry.url: entry.git_blob_sha1 for p, entry in self.entries.items() if p.layer in layers}


def _notes(chosen: Sequence[str], whole_g: Sequence[str]) -> tuple[str, ...]:
    notes = ["kernels rotated by 180 degrees (Theano convolves, torch correlates), matrices transposed"]
    notes.append("no running statistics: use batch norm `target`, as the release does, or `source` or `batch`")
    if "out" not in chosen:
        notes.append(f"incomplete: only {', '.join(chosen)} of the discriminator; it gives features but no logits")
    if not whole_g:
        notes.append("no generator")
    return tuple(notes)


def _chosen_layers(
    d_files: _Files, g_files: _Files, recipe: Recipe, *, partial: bool, layers: Sequence[str] | None
) -> list[str]:
    """D's layers to take, in order; with "out" for a complete discriminator."""
    everything = [f"conv{index + 1}" for index in range(len(recipe.d_channel_mults))] + ["out"]
    whole = next((i for i, layer in enumerate(everything) if d_files.missing(layer)), len(everything))
    if layers is not None:
        if not layers or list(layers) != everything[:-1][: len(layers)]:
            raise EvalkitError(f"layers {','.join(layers)}: expected the first ones, of {','.join(everything[:-1])}")
        missing = d_files.missing(*layers)
    else:
        missing = d_files.missing() + g_files.missing()
    if missing and not (partial and layers is None):
        remedy = f"; --partial takes the complete layers ({', '.join(everything[:whole])})" if whole else ""
        raise EvalkitError(f"{d_files.folder}: {_missing_in_words(missing)}{remedy}")
    if not whole:
        reason = _missing_in_words(d_files.missing())
        raise EvalkitError(f"{d_files.folder}: not even the first layer is complete: {reason}")
    return list(layers) if layers is not None else everything[:whole]


def _missing_in_words(missing: list[tuple[str, str]]) -> str:
    """The missing layers and the first missing files."""
    layers = ", ".join(dict.fromkeys(layer for layer, _ in missing))
    more = f" and {len(missing) - _NAMED} more files" if missing[_NAMED:] else ""
    return f"files of {layers} are missing: {', '.join(name for _, name in missing[:_NAMED])}{more}"


def discriminator_parameters(recipe: Recipe) -> list[Parameter]:
    """D's arrays in the release's order: w; then w, gain, bias per layer; last the output's weight."""
    parameters = []
    for index in range(len(recipe.d_channel_mults)):
        names = ("conv.weight",) if index == 0 else ("conv.weight", "norm.weight", "norm.bias")
        parameters += [Parameter(f"blocks.{index}.{name}", f"conv{index + 1}") for name in names]
    return [*parameters, Parameter("out.weight", "out")]


def generator_parameters(recipe: Recipe) -> list[Parameter]:
    """G's arrays in the release's order: w, gain, bias of z's linear layer and of each deconv; the last has w only."""
    parameters = [Parameter(name, "linear") for name in _with_norm("linears.0", "linear_norms.0")]
    deconvs = len(recipe.g_channel_mults)
    for index in range(deconvs):
        names = _with_norm(f"deconvs.{index}", f"deconv_norms.{index}")[: 3 if index < deconvs - 1 else 1]
        parameters += [Parameter(name, f"deconv{index + 1}") for name in names]
    return parameters


def _with_norm(layer: str, norm: str) -> tuple[str, str, str]:
    return f"{layer}.weight", f"{norm}.weight", f"{norm}.bias"


def read_array(path: Path, shape: torch.Size) -> Tensor:
    """One array of the release as a torch parameter of that shape, float32. No pickle is ever read.

    Raises:
        EvalkitError: not a plain NumPy array, or of another shape or type than the parameter.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise EvalkitError(f"{path}: not a plain NumPy array ({error}); fetch the file again") from None
    expected = tuple(shape[::-1]) if len(shape) == 2 else tuple(shape)
    if not isinstance(array, np.ndarray) or array.shape != expected or array.dtype != np.float32:
        actual = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise EvalkitError(f"{path}: {actual}, expected float32 {expected}; is it a file of this model?")
    return torch.from_numpy(to_torch(array).copy())


def to_torch(array: np.ndarray) -> np.ndarray:
    """Kernels (o, i, h, w) rotated by 180 degrees, matrices transposed, vectors (gains, biases) as they are."""
    if array.ndim == 4:
        return array[:, :, ::-1, ::-1]
    return array.T


def check_file(path: Path, entry: ReleasedFile) -> None:
    """Refuses a file that differs from the one in the index.

    Raises:
        EvalkitError: another size or hash; the message has both.
    """
    size = path.stat().st_size
    if size != entry.bytes:
        raise EvalkitError(f"{path}: {size:,} bytes, the release's file has {entry.bytes:,}; fetch it again")
    if (digest := git_blob_sha1(path)) != entry.git_blob_sha1:
        expected = entry.git_blob_sha1
        raise EvalkitError(f"{path}: git blob SHA-1 {digest}, the release's file has {expected}; fetch it again")


def git_blob_sha1(path: Path) -> str:
    """The hash under which git stores a file: SHA-1 of "blob BYTES\\0" and its content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
