"""The folder of a run: its manifest, its checkpoints, and the checkpoint of another run that it may start from.

RUN/manifest.json                       recipe, seed, precision, images
RUN/checkpoints/d-00000800/             the state after 800 D updates, whole or absent
RUN/metrics.csv, RUN/samples/*.png      what the run logged
RUN/best/                               the checkpoint that a probe measured as the best, where there was a probe

A new run may start from the weights and moments of another run's checkpoint under a recipe of its own. Its counts begin
at zero; the manifests of the run and of its checkpoints record what it started from, and what that one started from.
"""

import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from evalkit.artifacts import MANIFEST, ArtifactWriter, Manifest, new_manifest, read_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.files import discard, remove_discarded
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

_MAY_CHANGE = ("d_updates",)  # a run can be made longer


# -- checkpoints of a run


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, fewest D updates first."""
    return sorted(path for path in run.glob("checkpoints/d-*") if _is_checkpoint(path))


def _is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, not what is left of one that was removed or damaged."""
    return re.fullmatch(r"d-\d{8,12}", path.name) is not None and (path / MANIFEST).is_file()


def d_updates_of(checkpoint: Path) -> int:
    """The D updates in the name of a run's checkpoint."""
    return int(checkpoint.name.removeprefix("d-"))


def latest_checkpoint(run: Path) -> Path:
    """The checkpoint of a run with the most D updates.

    Raises:
        ArtifactError: the run has no checkpoint yet.
    """
    paths = checkpoints(run)
    if not paths:
        raise ArtifactError(f"{run}: no checkpoint yet; resume the training with `evalkit train-gan`")
    return paths[-1]


def best_checkpoint(run: Path) -> Path:
    """Where the checkpoint that a probe measured as the best is kept."""
    return run / "best"


def find_checkpoint(name: str, workspace: Workspace) -> Path:
    """A checkpoint by its path, by the path or name of its run (the last one), or as NAME@UPDATES.

    NAME@best is the one that a probe measured as the best; "latest" is the last one of the workspace's latest run.

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
    by_updates = {str(d_updates_of(path)): path for path in checkpoints(run)}
    if best_checkpoint(run).is_dir():
        by_updates["best"] = best_checkpoint(run)
    if updates not in by_updates:
        available = ", ".join(by_updates) or "none"
        raise ArtifactError(f"{run}: no checkpoint after {updates} D updates; it has {available}")
    return by_updates[updates]


def run_of(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def checkpoint_before(run: Path, d_updates: int) -> Path:
    """The last checkpoint of a run with at most that many D updates, else its first.

    Raises:
        ArtifactError: the run has no checkpoint.
    """
    latest_checkpoint(run)
    paths = checkpoints(run)
    before = [path for path in paths if d_updates_of(path) <= d_updates]
    return before[-1] if before else paths[0]


def prune_checkpoints(run: Path, *, keep: int, milestones: int) -> None:
    """Deletes all but the last `keep` checkpoints and those at multiples of `milestones` D updates (0: none)."""
    remove_discarded(run / "checkpoints")
    for path in checkpoints(run)[:-keep]:
        if not milestones or d_updates_of(path) % milestones:
            discard(path)


def remove_checkpoints_after(run: Path, checkpoint: Path) -> None:
    """Deletes the checkpoints of a run that have more D updates than `checkpoint`."""
    for path in checkpoints(run):
        if path.name > checkpoint.name:
            discard(path)


# -- the manifest of a run


@dataclass(frozen=True)
class RunSettings:
    """The `settings` of a run's manifest; `device`, `processes` and `sync_batch_norm` are those that it began with."""

    recipe: Recipe
    seed: int
    images: str
    precision: str
    device: str = ""
    processes: int = 1
    sync_batch_norm: bool = False

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "RunSettings":
        """The settings of a manifest; a run of a version that did not record the processes had one."""
        known = {each.name for each in fields(cls)}
        stored = {key: value for key, value in manifest["settings"].items() if key in known}
        return cls(**{**stored, "recipe": stored_recipe(manifest)})

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {**asdict(self), "recipe": self.recipe.as_dict()}


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
    """The manifest of a run: written for a new run, else compared with what is asked for.

    Raises:
        EvalkitError: the run was made with another recipe, seed, precision, start or other images.
    """
    _check_manifest_exists(run)
    start_asked = describe_start(start) if start else None
    if ranks.writes and not (run / MANIFEST).exists():
        settings = RunSettings(
            recipe=recipe,
            seed=options.seed,
            images=images.name,
            precision=resolve_precision(options.precision, device),
            device=describe_device(device),
            processes=ranks.count,
            sync_batch_norm=options.sync_batch_norm and ranks.count > 1,
        ).as_dict()
        made_from = {"images_sha256": images.sha256} | ({"start": start_asked} if start_asked else {})
        ArtifactWriter(run, settings, made_from).finish(new_manifest(RUN_KIND, settings=settings, made_from=made_from))
    ranks.wait()
    manifest = read_manifest(run, RUN_KIND)
    _check_settings(run, manifest, images, recipe, options)
    check_start(run, manifest, start_asked, has_begun=bool(checkpoints(run)))
    return manifest


def _check_manifest_exists(run: Path) -> None:
    """Raises ArtifactError for a folder with a training in it and nothing that says which."""
    if (run / MANIFEST).is_file() or not os.path.lexists(run) or (run.is_dir() and not any(run.iterdir())):
        return
    raise ArtifactError(
        f"{run}: no {MANIFEST} that can be read, and the folder is not empty; it is left as it is: give another --name "
        f"(and --start {run}/checkpoints/… to start from a checkpoint of it), or put the manifest back"
    )


def _check_settings(run: Path, manifest: Manifest, images: ImageSet, recipe: Recipe, options: TrainOptions) -> None:
    settings = RunSettings.from_manifest(manifest)
    stored = {**settings.recipe.as_dict(), "seed": settings.seed, "images": settings.images}
    asked = {**recipe.as_dict(), "seed": options.seed, "images": images.name}
    if options.precision != "auto":
        stored["precision"], asked["precision"] = settings.precision, options.precision
    for key, value in asked.items():
        if key not in _MAY_CHANGE and stored[key] != value:
            raise EvalkitError(f"{run}: made with {key} = {stored[key]}, asked for {value}; give another --name")
    if manifest["made_from"]["images_sha256"] != images.sha256:
        raise EvalkitError(f"{run}: trained on other images of the name {images.name}; give another --name")


# -- starting from a checkpoint of another run


def init_from_checkpoint(state: TrainingState, checkpoint: Path) -> None:
    """Loads the weights and moments of `checkpoint` into a new state, whose counts stay zero.

    A moving average that the checkpoint lacks begins at its network's weights.

    Raises:
        ArtifactError: names or shapes are not those of the new recipe's networks.
    """
    for name, network in state.networks().items():
        path = checkpoint / f"{name}.safetensors"
        load_weights(network, path if path.is_file() else checkpoint / f"{name.removesuffix('_average')}.safetensors")
    restore_optimizers(state, checkpoint)


def describe_start(checkpoint: Path) -> dict[str, Any]:
    """What a run's manifest records of the checkpoint it started from, and of what that one started from, if anything.

    Raises:
        ArtifactError: the checkpoint is truncated or was changed.
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
    """D updates behind the weights that the run of this manifest (or of these weights) started from."""
    start = manifest["made_from"].get("start", {})
    return start.get("d_updates", 0) + (updates_before({"made_from": start}) if start else 0)


def check_start(run: Path, manifest: Manifest, asked: dict[str, Any] | None, *, has_begun: bool) -> None:
    """Raises EvalkitError if a run was started otherwise than asked; one that has begun need not be told again."""
    stored = manifest["made_from"].get("start")
    if stored == asked or (asked is None and has_begun):
        return
    raise EvalkitError(
        f"{run}: started from {_start_name(stored)}, asked for {_start_name(asked)}; give another --name"
    )


def _start_name(start: dict[str, Any] | None) -> str:
    return f"{start['run']}@{start['d_updates']} (--start)" if start else "fresh weights (no --start)"
