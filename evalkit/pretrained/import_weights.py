"""import_weights: weights from files on disk, in any of the known forms, as `pretrained:NAME`.

The forms are a folder of a release (dcgan_release), a torch DCGAN (torch_dcgan), and a run or checkpoint of evalkit:
both networks without the optimizers' state, with what the runs on the way to the checkpoint logged (hours, samples,
the probe's curve). Batch-norm statistics of the images trained on may be stored with the weights.
"""

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
from evalkit.pretrained import ImportOptions
from evalkit.pretrained.dcgan_release import find_release, read_release
from evalkit.pretrained.store import DTYPES, KIND, STATISTICS, Pretrained, PretrainedSettings, save_pretrained
from evalkit.pretrained.torch_dcgan import read_torch_dcgan
from evalkit.runtime import resolve_device, resolve_precision
from evalkit.workspace import Workspace

_FORMS = "a folder of a release's .npy files, a run or checkpoint, or a torch state dict (.pth, .pt)"


def import_weights(
    paths: Sequence[Path | str] | Path | str,
    *,
    home: Workspace | Path | str | None = None,
    name: str | None = None,
    out: Path | str | None = None,
    options: ImportOptions = ImportOptions(),
) -> Path:
    """Stores weights from files as `pretrained:NAME` and returns their directory.

    Args:
        paths: a folder of a release's files, a run or checkpoint, or one or two torch state dicts.
        home: workspace for the weights; batch-norm statistics need its images.
        name: by default the release's, the run's, or that of the first file.
        out: folder to write to instead of the workspace, such as a clone's pretrained/NAME.
        options: what to take, and what the card says.

    Raises:
        EvalkitError: files of an unknown form, incomplete or changed; other weights of that name; neither `home` nor
            `out`.
    """
    if home is None and out is None:
        raise EvalkitError("import_weights: expected home=, the workspace for the weights, or out=, a folder")
    workspace = Workspace.of(home)
    files = [Path(each) for each in ([paths] if isinstance(paths, (str, Path)) else paths)]
    weights, default = _read(files, workspace, options)
    target = Path(out) if out else workspace.path_of(KIND, name or default)
    settings = replace(weights.settings, notes=(*weights.settings.notes, *options.notes), dtype=options.dtype)
    logs = dict(weights.training_logs)
    if options.source_batch_norm:
        logs[STATISTICS], precision = source_statistics(weights, DTYPES[options.dtype], workspace)
        settings = replace(settings, source_statistics=precision)
    return save_pretrained(replace(weights, settings=settings, training_logs=logs), target, replace=options.replace)


def _read(paths: list[Path], workspace: Workspace, options: ImportOptions) -> tuple[Pretrained, str]:
    """The weights, and their default name."""
    first, stated = paths[0], {"source": options.source, "licence": options.licence}
    if all(path.is_file() for path in paths) and len(paths) <= 2:
        return read_torch_dcgan(paths, **stated), first.stem
    if len(paths) > 1 or not first.is_dir():
        raise EvalkitError(f"{first}{' and more' if paths[1:] else ''}: expected {_FORMS}")
    if is_trained(first):
        weights = read_trained(first, workspace, **stated)
        return weights, f"{weights.recipe.name}-{weights.made_from['d_updates']}"
    if (first / MANIFEST).is_file():
        raise EvalkitError(f"{first}: an artifact of evalkit, but not a run or a checkpoint; expected {_FORMS}")
    release = find_release(first)
    layers = options.layers.split(",") if options.layers else None
    weights = read_release(first, release, partial=options.partial, layers=layers)
    if not weights.settings.complete:
        return weights, f"{release.name}-conv1to{len(weights.recipe.d_channel_mults)}"
    return weights, release.name if weights.generator else f"{release.name}-discriminator"


def is_trained(path: Path) -> bool:
    """Whether a folder is a run or a checkpoint."""
    known = (path / "checkpoints").is_dir() or (path / "optimizers.safetensors").is_file()
    return known and (path / MANIFEST).is_file()


def read_trained(path: Path, workspace: Workspace, *, source: str, licence: str) -> Pretrained:
    """The weights of a checkpoint, or of a run's latest; of each network the moving average, where there is one.

    Args:
        workspace: if it has the images trained on, the card says how many they are.
        source, licence: for the card.

    Raises:
        ArtifactError: a checkpoint cut short or changed, or a run without one.
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
    runs = parent_runs(folder, manifest) if folder else []
    averages = (name for name in files if "_average" in files[name])
    settings = PretrainedSettings(
        recipe=recipe,
        about=f"recipe {recipe.name} after {updates + updates_before(manifest):,} D updates",
        source=source,
        licence=licence,
        notes=tuple(f"the {name} is the moving average over training" for name in averages),
        complete=True,
        training_known=True,
        run=_facts(folder, manifest, runs, workspace) if folder else {},
    )
    made_from = manifest["made_from"] | {
        "d_updates": updates,
        "sha256": {name: entry["sha256"] for name, entry in manifest["files"].items()},
    }
    logs = training_logs(runs) if runs else {}
    return Pretrained(settings, discriminator.state_dict(), generator.state_dict(), made_from, logs)


def _run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint is in; None for a checkpoint elsewhere."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and (run / MANIFEST).is_file() else None


@dataclass(frozen=True)
class ParentRun:
    """A run on the way to some weights.

    Attributes:
        run: its folder; None if it is not there.
        d_updates: D updates of this run, and `before` it.
    """

    name: str
    run: Path | None
    d_updates: int
    before: int


def _facts(run: Path, manifest: Manifest, runs: list[ParentRun], workspace: Workspace) -> dict[str, Any]:
    """How the run got to this checkpoint: lines of the card, which reports quote, too."""
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
        "hours": hours(runs),
        "began": begun["created"],
        "commits": f"{begun['commit'] or 'unknown'} when it began, {manifest['commit'] or 'unknown'} at the end",
        "versions": " ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
    }


def _start_line(start: dict[str, Any]) -> str:
    """One line on the checkpoint that a run started from, and on those before it."""
    recipe = start["recipe"]
    training = f"batch_size {recipe['batch_size']}, lr {recipe['lr']}"
    before = f", itself from {_start_line(start['start'])}" if "start" in start else ""
    return f"{start['run']} after {start['d_updates']:,} D updates with {training}{before}"


def _command(recipe: Recipe, settings: dict[str, Any], start: dict[str, Any] | None) -> str:
    """The command that trains with these settings again, without the number of updates."""
    defaults = RECIPES[recipe.name].as_dict() if recipe.name in RECIPES else {}
    changed = {key: value for key, value in recipe.as_dict().items() if defaults.get(key, value) != value}
    options = "".join(f" --set {key}={value}" for key, value in changed.items() if key not in ("images", "d_updates"))
    if start:
        options += f" --start {start['run']}@{start['d_updates']}"
    return f"evalkit train-gan --recipe {recipe.name} --images {settings['images']} --seed {settings['seed']}{options}"


def parent_runs(run: Path, checkpoint: Manifest) -> list[ParentRun]:
    """The run of a checkpoint, last, and before it the runs that it started from, looked for beside it."""
    last = ParentRun(run.name, run, checkpoint["settings"]["d_updates"], updates_before(checkpoint))
    return [*_earlier(run, checkpoint["made_from"]), last]


def _earlier(last: Path, made_from: dict[str, Any]) -> list[ParentRun]:
    start = made_from.get("start")
    if not start:
        return []
    run = last.parent / start["run"]
    folder = run if run != last and _is_run_of(run, start) else None
    parent = ParentRun(start["run"], folder, start["d_updates"], updates_before({"made_from": start}))
    return [*_earlier(last, start), parent]


def _is_run_of(run: Path, start: dict[str, Any]) -> bool:
    """Whether a folder is the run started from, not another of that name: recipe, images and own start agree."""
    try:
        manifest = read_manifest(run, RUN_KIND)
    except ArtifactError:
        return False
    recipes = [replace(stored_recipe(each), d_updates=1) for each in (manifest, {"settings": start})]
    same = all(manifest["made_from"].get(key) == start.get(key) for key in ("images_sha256", "start"))
    return same and recipes[0] == recipes[1]


def hours(runs: list[ParentRun]) -> str:
    """Total hours of training; runs without a log are named."""
    logs = [_log(run, "metrics.csv") for run in runs]
    missing = [run.name for run, log in zip(runs, logs, strict=True) if log.empty]
    if len(missing) == len(runs):
        return "not logged"
    total = sum(float(log["seconds"].max()) for log in logs if not log.empty) / 3600
    return f"{total:.1f}" + (f", without {', '.join(missing)}" if missing else "")


def training_logs(runs: list[ParentRun]) -> dict[str, bytes]:
    """Files to store with the weights: the last samples and the training probe's curve, both by total D updates."""
    files, last = {}, runs[-1]
    grid = last.run / "samples" / f"d-{last.d_updates:08d}.png" if last.run else None
    if grid and grid.is_file():
        files[f"samples-{last.before + last.d_updates:08d}.png"] = grid.read_bytes()
    logs = [(run, _log(run, "probe.csv")) for run in runs]
    probes = [log.assign(d_updates=log["d_updates"] + run.before) for run, log in logs if not log.empty]
    if probes:
        curve = pd.concat(probes).drop_duplicates(["d_updates", "dataset", "labels_per_class"])
        files["probe.csv"] = curve.to_csv(index=False, lineterminator="\n").encode()
    return files


def _log(parent: ParentRun, file: str) -> pd.DataFrame:
    """A run's log up to the checkpoint that training continued from; empty if it is not there."""
    if not parent.run or not (parent.run / file).is_file():
        return pd.DataFrame()
    log = pd.read_csv(parent.run / file)
    return log[log["d_updates"] <= parent.d_updates]


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
