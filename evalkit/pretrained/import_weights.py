"""import: weights from files that are here already, whichever of the known forms they have.

What runs logged on the way to a checkpoint: hours, samples, the probe's curve; over all runs that it came from.

From a run or checkpoint of ours to weights to hand on: both networks, without the state of the optimizers.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save

from evalkit.artifacts import MANIFEST, Manifest, read_manifest
from evalkit.batch_statistics import image_statistics
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.gan.checkpoint import RUN_KIND, load_weights, read_checkpoint, stored_recipe, weights_file
from evalkit.gan.networks import Discriminator, Generator, to_network_range
from evalkit.gan.recipes import RECIPES, Recipe
from evalkit.gan.run_dir import latest_checkpoint, updates_before
from evalkit.images import find_images_by_sha256
from evalkit.pretrained.dcgan_release import find_release, read_release
from evalkit.pretrained.store import DTYPES, KIND, STATISTICS, Pretrained, save_pretrained
from evalkit.pretrained.torch_dcgan import read_torch_dcgan
from evalkit.runtime import resolve_device, resolve_precision
from evalkit.workspace import Workspace

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
    source_batch_norm: bool = False,
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
        source_batch_norm: add batch-norm statistics of the images trained on, which the workspace has to have.
        replace: overwrite other weights of that name.

    Raises:
        EvalkitError: files of no known form, incomplete or changed; other weights of that name.
    """
    weights, default = _read(paths, workspace, partial=partial, layers=layers, source=source, licence=licence)
    target = out or workspace.path_of(KIND, name or default)
    settings = weights.settings | {"notes": [*weights.settings["notes"], *notes]}
    weights = dataclasses.replace(weights, settings=settings)
    if source_batch_norm:
        content, precision = source_statistics(weights, DTYPES[dtype], workspace)
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
        return weights, f"{release.name}-conv1to{len(weights.recipe.d_channel_mults)}"
    return weights, release.name if weights.generator else f"{release.name}-discriminator"


@dataclass(frozen=True)
class ParentRun:
    """A run on the way to some weights: its folder (None: not here), its D updates by its own count and before it."""

    name: str
    run: Path | None
    d_updates: int
    before: int


def parent_runs(run: Path, checkpoint: Manifest) -> list[ParentRun]:
    """The run of a checkpoint, last, after those that it started from, which lie beside it if they are here."""
    last = ParentRun(run.name, run, checkpoint["settings"]["d_updates"], updates_before(checkpoint))
    return [*_earlier(run, checkpoint["made_from"]), last]


def _earlier(last: Path, made_from: dict[str, Any]) -> list[ParentRun]:
    start = made_from.get("start")
    if not start:
        return []
    run = last.parent / start["run"]
    found = run if run != last and _is_of(run, start) else None
    stage = ParentRun(start["run"], found, start["d_updates"], updates_before({"made_from": start}))
    return [*_earlier(last, start), stage]


def _is_of(run: Path, start: dict[str, Any]) -> bool:
    """Whether a folder holds the run started from, not another of its name: recipe, images and own start agree."""
    try:
        manifest = read_manifest(run, RUN_KIND)
    except ArtifactError:
        return False
    recipes = [replace(stored_recipe(each), d_updates=1) for each in (manifest, {"settings": start})]
    same = all(manifest["made_from"].get(key) == start.get(key) for key in ("images_sha256", "start"))
    return same and recipes[0] == recipes[1]


def hours(way: list[ParentRun]) -> str:
    """Hours of training in all; runs that are not here are named."""
    logs = [_logged(stage, "metrics.csv") for stage in way]
    missing = [stage.name for stage, log in zip(way, logs, strict=True) if log.empty]
    if len(missing) == len(way):
        return "not logged"
    total = sum(float(log["seconds"].max()) for log in logs if not log.empty) / 3600
    return f"{total:.1f}" + (f", without {', '.join(missing)}" if missing else "")


def training_logs(way: list[ParentRun]) -> dict[str, bytes]:
    """Files to hand on with the weights: the last samples and the probe's curve, both by D updates in all."""
    found, last = {}, way[-1]
    grid = last.run / "samples" / f"d-{last.d_updates:08d}.png" if last.run else None
    if grid and grid.is_file():
        found[f"samples-{last.before + last.d_updates:08d}.png"] = grid.read_bytes()
    curves = [(stage, _logged(stage, "probe.csv")) for stage in way]
    probes = [log.assign(d_updates=log["d_updates"] + stage.before) for stage, log in curves if not log.empty]
    if probes:
        curve = pd.concat(probes).drop_duplicates(["d_updates", "dataset", "labels_per_class"])
        found["probe.csv"] = curve.to_csv(index=False, lineterminator="\n").encode()
    return found


def _logged(stage: ParentRun, file: str) -> pd.DataFrame:
    """A run's log up to the checkpoint that it gave; empty if it is not here."""
    if not stage.run or not (stage.run / file).is_file():
        return pd.DataFrame()
    log = pd.read_csv(stage.run / file)
    return log[log["d_updates"] <= stage.d_updates]


def read_trained(path: Path, workspace: Workspace, *, source: str, licence: str) -> Pretrained:
    """The weights of a checkpoint, or of a run's latest; of each network its moving average, where there is one.

    The workspace tells how many images they were trained on, if it has them.

    Raises:
        ArtifactError: cut short, changed, or a run without a checkpoint.
    """
    run = (path / "checkpoints").is_dir()
    if run:
        read_manifest(path, RUN_KIND)
    checkpoint = latest_checkpoint(path) if run else path
    manifest = read_checkpoint(checkpoint)
    recipe = stored_recipe(manifest)
    generator, discriminator = Generator(recipe), Discriminator(recipe)
    files = {name: weights_file(manifest, name) for name in ("generator", "discriminator")}
    load_weights(generator, checkpoint / files["generator"])
    load_weights(discriminator, checkpoint / files["discriminator"])
    updates, folder = manifest["settings"]["d_updates"], _run_of(checkpoint)
    way = parent_runs(folder, manifest) if folder else []
    settings = {
        "about": f"recipe {recipe.name} after {updates + updates_before(manifest):,} D updates",
        "source": source,
        "licence": licence,
        "notes": [f"the {name} is the moving average over training" for name in files if "_average" in files[name]],
        "complete": True,
        "training_known": True,
        "run": _facts(folder, manifest, way, workspace) if folder else {},
    }
    made_from = manifest["made_from"] | {
        "d_updates": updates,
        "sha256": {name: entry["sha256"] for name, entry in manifest["files"].items()},
    }
    logged = training_logs(way) if way else {}
    return Pretrained(recipe, discriminator.state_dict(), generator.state_dict(), settings, made_from, logged)


def _run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in; None where it lies alone."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and (run / MANIFEST).is_file() else None


def _facts(run: Path, manifest: Manifest, way: list[ParentRun], workspace: Workspace) -> dict[str, Any]:
    """How the run came to this checkpoint: lines of the card, and what reports say of the training."""
    begun = read_manifest(run, RUN_KIND)
    sha256 = begun["made_from"]["images_sha256"]
    images = find_images_by_sha256(workspace, sha256)
    size = {} if images is None else {"num_images": len(images), "classes": len(images.class_names)}
    kept = {key: begun["settings"][key] for key in ("images", "seed", "precision", "device")}
    start = manifest["made_from"].get("start")
    return {
        "command": _command(stored_recipe(manifest), kept, start),
        "run": run.name,
        **({"started_from": _start_line(start), "d_updates_before": updates_before(manifest)} if start else {}),
        **kept,
        **size,
        "hours": hours(way),
        "began": begun["created"],
        "commits": f"{begun['commit'] or 'unknown'} when it began, {manifest['commit'] or 'unknown'} at the end",
        "versions": " ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
    }


def _start_line(start: dict[str, Any]) -> str:
    """One line on the checkpoint that a run started from, and on what that one started from."""
    recipe = start["recipe"]
    how = f"batch_size {recipe['batch_size']}, lr {recipe['lr']}"
    before = f", itself from {_start_line(start['start'])}" if "start" in start else ""
    return f"{start['run']} after {start['d_updates']:,} D updates with {how}{before}"


def _command(recipe: Recipe, settings: dict[str, Any], start: dict[str, Any] | None) -> str:
    """The command that trains the like again, but for its length."""
    usual = RECIPES[recipe.name].as_dict() if recipe.name in RECIPES else {}
    changed = {key: value for key, value in recipe.as_dict().items() if usual.get(key, value) != value}
    options = "".join(f" --set {key}={value}" for key, value in changed.items() if key not in ("images", "d_updates"))
    if start:
        options += f" --start {start['run']}@{start['d_updates']}"
    return f"evalkit train-gan --recipe {recipe.name} --images {settings['images']} --seed {settings['seed']}{options}"


def source_statistics(weights: Pretrained, dtype: torch.dtype, workspace: Workspace) -> tuple[bytes, str]:
    """Batch-norm statistics of the images trained on: the file's content, and the arithmetic they were computed in.

    The content is safetensors, float32 (channels,) by name, as in "conv2.mean".

    Args:
        weights: with a discriminator, trained on images that the workspace has.
        dtype: in which the discriminator is stored: the statistics are those of its rounded weights.

    Raises:
        EvalkitError: no batch norm, or images that are not there.
    """
    images = find_images_by_sha256(workspace, weights.made_from.get("images_sha256", ""))
    if images is None:
        raise EvalkitError("source statistics need the images that the weights were trained on; prepare them first")
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    discriminator = _rounded(weights, dtype).eval().requires_grad_(False).to(device)
    norms, size = discriminator.batch_norms(), weights.recipe.size
    if not norms:
        raise EvalkitError("source statistics: the discriminator has no batch norm")
    if images.images.shape[1:3] != (size, size):
        height, width = images.images.shape[1:3]
        raise EvalkitError(
            f"source statistics: the discriminator takes {size}x{size}, {images.name} is {height}x{width}"
        )
    averages = image_statistics(
        norms,
        images.training,
        lambda batch: discriminator.layer_outputs(to_network_range(batch, weights.recipe)),
        precision=precision,
        device=device,
    )
    return save({name: value.float().cpu() for name, value in averages.items()}), precision


def _rounded(weights: Pretrained, dtype: torch.dtype) -> Discriminator:
    """The discriminator with its weights as they are stored."""
    discriminator = Discriminator(weights.recipe)
    state = {
        key: value.to(dtype).float() if value.is_floating_point() else value
        for key, value in (weights.discriminator or {}).items()
    }
    discriminator.load_state_dict(state)
    return discriminator


def is_trained(path: Path) -> bool:
    """Whether a folder is a run or a checkpoint."""
    known = (path / "checkpoints").is_dir() or (path / "optimizers.safetensors").is_file()
    return known and (path / MANIFEST).is_file()
