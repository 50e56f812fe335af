"""Where a run keeps its checkpoints: finding, keeping and deleting them.

RUN/manifest.json                       recipe, seed, precision, images
RUN/checkpoints/d-00000800/             the state after 800 D updates, whole or absent
RUN/metrics.csv, RUN/samples/*.png      what the run logged
RUN/best/                               the checkpoint that a probe found best, where one watched

A run's manifest: written when training starts, checked when it goes on.

Where a new run may start: at the weights and moments of another run's checkpoint, under a recipe of its own.

Counts begin at zero; the manifests of the run and of its checkpoints say what it started from, and what that did.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from evalkit.artifacts import MANIFEST, ArtifactWriter, Manifest, new_manifest, read_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.gan.checkpoint import (
    KIND,
    RUN_KIND,
    TrainingState,
    load_weights,
    read_checkpoint,
    restore_optimizers,
    stored_recipe,
)
from evalkit.gan.recipes import Recipe, TrainOptions
from evalkit.images.imageset import ImageSet
from evalkit.runtime import Ranks, describe_device, resolve_precision
from evalkit.workspace import Workspace


def checkpoints(run: Path) -> list[Path]:
    """A run's whole checkpoints, fewest D updates first."""
    found = [path for path in run.glob("checkpoints/d-*") if re.fullmatch(r"d-\d+", path.name)]
    return sorted(found)


def latest_checkpoint(run: Path) -> Path:
    """A run's checkpoint with the most D updates.

    Raises:
        ArtifactError: it has none yet.
    """
    found = checkpoints(run)
    if not found:
        raise ArtifactError(f"{run}: no checkpoint yet; go on training with `evalkit train-gan`")
    return found[-1]


def best_checkpoint(run: Path) -> Path:
    """Where the checkpoint is kept that a probe found best."""
    return run / "best"


def find_checkpoint(name: str, workspace: Workspace) -> Path:
    """A checkpoint by its path, a run's last one by the run's path or name, or one of a run's by NAME@UPDATES.

    NAME@best is the one that a probe found best.

    "latest" is the workspace's latest run.

    Raises:
        EvalkitError: nothing of that name; the message lists the names there are.
    """
    if name == "latest":
        return latest_checkpoint(workspace.latest(RUN_KIND))
    path = Path(name)
    if not (path / MANIFEST).is_file():
        run, at, updates = name.partition("@")
        path = workspace.find(RUN_KIND, run)
        if at:
            return _checkpoint_at(path, updates)
    kind = RUN_KIND if (path / "checkpoints").is_dir() else KIND
    read_manifest(path, kind)
    return latest_checkpoint(path) if kind == RUN_KIND else path


def _checkpoint_at(run: Path, updates: str) -> Path:
    found = {str(int(path.name.removeprefix("d-"))): path for path in checkpoints(run)}
    if best_checkpoint(run).is_dir():
        found["best"] = best_checkpoint(run)
    if updates not in found:
        raise ArtifactError(f"{run}: no checkpoint after {updates} D updates; it has {', '.join(found) or 'none'}")
    return found[updates]


def run_of(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def checkpoint_before(run: Path, d_updates: int) -> Path:
    """A run's last checkpoint of at most that many D updates, else its first.

    Raises:
        ArtifactError: it has none.
    """
    latest_checkpoint(run)
    found = checkpoints(run)
    good = [path for path in found if int(path.name.removeprefix("d-")) <= d_updates]
    return good[-1] if good else found[0]


def prune_checkpoints(run: Path, *, keep: int, milestones: int) -> None:
    """Deletes all but the last `keep` checkpoints and those at multiples of `milestones` D updates (0: none)."""
    for path in checkpoints(run)[:-keep]:
        updates = json.loads((path / "manifest.json").read_text())["settings"]["d_updates"]
        if not milestones or updates % milestones:
            shutil.rmtree(path)


def remove_checkpoints_after(run: Path, checkpoint: Path) -> None:
    """Deletes a run's checkpoints of more D updates than `checkpoint`."""
    for path in checkpoints(run):
        if path.name > checkpoint.name:
            shutil.rmtree(path)


_MAY_CHANGE = ("d_updates",)  # a run can be made longer


def open_run(
    images: ImageSet,
    run: Path,
    recipe: Recipe,
    options: TrainOptions,
    *,
    start: Path | None,
    device: torch.device,
    ranks: Ranks,
) -> Manifest:
    """The manifest of a run: written if it is a new one, else checked against what is asked.

    Raises:
        EvalkitError: the run was made with another recipe, seed, precision, start or other images.
    """
    started = describe_start(start) if start else None
    if ranks.writes and not (run / "manifest.json").exists():
        settings = {
            "recipe": recipe.as_dict(),
            "seed": options.seed,
            "images": images.name,
            "precision": resolve_precision(options.precision, device),
            "device": describe_device(device),
            "processes": ranks.count,
            "sync_batch_norm": options.sync_batch_norm and ranks.count > 1,
        }
        _write(run, settings, {"images_sha256": images.sha256} | ({"start": started} if started else {}))
    ranks.wait()
    manifest = read_manifest(run, RUN_KIND)
    _check(run, manifest, images, recipe, options)
    check_start(run, manifest, started, begun=bool(checkpoints(run)))
    return manifest


def _check(run: Path, manifest: Manifest, images: ImageSet, recipe: Recipe, options: TrainOptions) -> None:
    there = manifest["settings"]
    found = {**stored_recipe(manifest).as_dict(), **{key: there[key] for key in ("seed", "images", "precision")}}
    asked = {**recipe.as_dict(), "seed": options.seed, "images": images.name}
    if options.precision != "auto":
        asked["precision"] = options.precision
    for key, value in asked.items():
        if key not in _MAY_CHANGE and found[key] != value:
            raise EvalkitError(f"{run}: made with {key} = {found[key]}, asked for {value}; give another --name")
    if manifest["made_from"]["images_sha256"] != images.sha256:
        raise EvalkitError(f"{run}: was trained on other images of the name {images.name}; give another --name")


def _write(run: Path, settings: dict, made_from: dict) -> None:
    writer = ArtifactWriter(run, settings, made_from)
    writer.finish(new_manifest(RUN_KIND, settings=settings, made_from=made_from))


def describe_start(checkpoint: Path) -> dict[str, Any]:
    """What a run's manifest says of the checkpoint it started from, and of what that one started from, if anything.

    Raises:
        ArtifactError: the checkpoint is cut short or was changed.
    """
    manifest = read_checkpoint(checkpoint)
    before = {"start": manifest["made_from"]["start"]} if "start" in manifest["made_from"] else {}
    return before | {
        "run": run_of(checkpoint).name,
        "d_updates": manifest["settings"]["d_updates"],
        "recipe": manifest["settings"]["recipe"],
        "images_sha256": manifest["made_from"]["images_sha256"],
        "sha256": {name: entry["sha256"] for name, entry in manifest["files"].items()},
    }


def updates_before(manifest: Manifest) -> int:
    """D updates that went into the weights before the run of this manifest (or of these weights) began."""
    start = manifest["made_from"].get("start", {})
    return start.get("d_updates", 0) + (updates_before({"made_from": start}) if start else 0)


def check_start(run: Path, manifest: Manifest, asked: dict[str, Any] | None, *, begun: bool) -> None:
    """Raises EvalkitError if a run was started otherwise than asked; one that has begun need not be told again."""
    found = manifest["made_from"].get("start")
    if found == asked or (asked is None and begun):
        return
    raise EvalkitError(f"{run}: started from {_named(found)}, asked for {_named(asked)}; give another --name")


def _named(start: dict[str, Any] | None) -> str:
    return f"{start['run']}@{start['d_updates']} (--start)" if start else "fresh weights (no --start)"


def init_from_checkpoint(state: TrainingState, checkpoint: Path) -> None:
    """Puts the weights and moments of `checkpoint` into a new state; its counts stay zero.

    A moving average that the checkpoint lacks begins at its network's weights.

    Raises:
        ArtifactError: names or shapes are not those of the new recipe's networks.
    """
    for name, network in state.networks().items():
        path = checkpoint / f"{name}.safetensors"
        load_weights(network, path if path.is_file() else checkpoint / f"{name.removesuffix('_average')}.safetensors")
    restore_optimizers(state, checkpoint)
