"""import: weights from files that are here already, whichever of the known forms they have."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from evalkit.artifacts import MANIFEST
from evalkit.errors import EvalkitError
from evalkit.pretrained.released import find_release, read_release
from evalkit.pretrained.store import DTYPES, KIND, STATISTICS, Pretrained, save_pretrained
from evalkit.pretrained.torch_dcgan import read_torch_dcgan
from evalkit.pretrained.trained import is_trained, read_trained
from evalkit.workspace import Workspace

# weights, in which type they are stored, a workspace with the pictures trained on -> a file's content, its arithmetic
StatisticsOf = Callable[[Pretrained, torch.dtype, Workspace], tuple[bytes, str]]
_FORMS = "a folder of a release's .npy files, a run or checkpoint, or a torch state dict (.pth, .pt)"


def import_weights(
    paths: Sequence[Path],
    workspace: Workspace,
    *,
    name: str | None = None,
    out: Path | None = None,
    partial: bool = False,
    layers: Sequence[str] | None = None,
    source: str | None = None,
    licence: str | None = None,
    notes: Sequence[str] = (),
    dtype: str = "float32",
    statistics_of: StatisticsOf | None = None,
    replace: bool = False,
) -> Path:
    """Stores weights found in files as `pretrained:NAME`.

    Args:
        paths: a folder of a release's files, a run or checkpoint of ours, or one or two torch state dicts.
        workspace: gets them, unless `out` says where.
        name: by default the release's, the run's, or the first file's.
        out: folder to write to, such as a clone's pretrained/NAME.
        partial: take what is whole of an incomplete release.
        layers: take exactly these conv layers of a release's discriminator.
        source, licence: for the card, where the files do not say; notes: of limits, one line each.
        dtype: of the files written, "float32" or "float16".
        statistics_of: computes the statistics for batch norm `source`, which are added: `features.handed_on` has it.
        replace: overwrite other weights of that name.

    Raises:
        EvalkitError: files of no known form, incomplete or changed; other weights of that name.
    """
    weights, default = _read(paths, workspace, partial=partial, layers=layers, source=source, licence=licence)
    target = out or workspace.place(KIND, name or default)
    settings = weights.settings | {"notes": [*weights.settings["notes"], *notes]}
    weights = dataclasses.replace(weights, settings=settings)
    if statistics_of:
        content, precision = statistics_of(weights, DTYPES[dtype], workspace)
        settings = settings | {"source_statistics": precision}
        weights = dataclasses.replace(weights, settings=settings, evidence={**weights.evidence, STATISTICS: content})
    return save_pretrained(weights, target, replace=replace, dtype=dtype)


def _read(
    paths: Sequence[Path],
    workspace: Workspace,
    *,
    partial: bool,
    layers: Sequence[str] | None,
    source: str | None,
    licence: str | None,
) -> tuple[Pretrained, str]:
    """The weights and the name they have by default."""
    first, stated = paths[0], {"source": source or "not stated", "licence": licence or "not stated"}
    if all(path.is_file() for path in paths) and len(paths) <= 2:
        return read_torch_dcgan(list(paths), **stated), first.stem
    if len(paths) > 1 or not first.is_dir():
        raise EvalkitError(f"{first}{' and more' if paths[1:] else ''}: expected {_FORMS}")
    if is_trained(first):
        weights = read_trained(first, workspace, **stated)
        return weights, f"{weights.recipe.name}-{weights.made_from['d_updates']}"
    if (first / MANIFEST).is_file():
        raise EvalkitError(f"{first}: an artifact of evalkit, but no run and no checkpoint; expected {_FORMS}")
    release = find_release(first)
    weights = read_release(first, release, partial=partial, layers=layers)
    if not weights.settings["complete"]:
        return weights, f"{release.name}-conv1to{len(weights.recipe.d_maps)}"
    return weights, release.name if weights.generator else f"{release.name}-discriminator"
