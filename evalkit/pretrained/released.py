"""From a folder of a release's files, checked against the index, to weights of ours: all, or the part that is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from evalkit.errors import EvalkitError
from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.recipes import Recipe, recipe_named
from evalkit.pretrained.blobs import check_file
from evalkit.pretrained.index import RELEASES, Release, ReleasedFile
from evalkit.pretrained.store import Pretrained, Weights, first_layers
from evalkit.pretrained.theano import Parameter, discriminator_parameters, generator_parameters, read_array

_SHOWN = 4  # names of missing files in a message


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
    recipe = recipe_named(release.recipe)
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


def _chosen_layers(
    d_files: _Files, g_files: _Files, recipe: Recipe, *, partial: bool, layers: Sequence[str] | None
) -> list[str]:
    """D's layers to take, in order; with "out" for a whole discriminator."""
    everything = [f"conv{index + 1}" for index in range(len(recipe.d_maps))] + ["out"]
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
