"""A run's manifest: written when training starts, checked when it goes on."""

import shutil
from pathlib import Path

import torch

from evalkit.artifacts import Manifest, finish, new_manifest, read_manifest
from evalkit.device import describe_device, resolve_precision
from evalkit.distributed import Ranks
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import RUN_KIND, stored_recipe
from evalkit.gan.layout import checkpoints
from evalkit.gan.options import TrainOptions
from evalkit.gan.recipe import Recipe
from evalkit.gan.start import check_origin, origin
from evalkit.images.imageset import ImageSet

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
        EvalkitError: the run was made with another recipe, seed, precision, start or other pictures.
    """
    started = origin(start) if start else None
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
    check_origin(run, manifest, started, begun=bool(checkpoints(run)))
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
        raise EvalkitError(f"{run}: was trained on other pictures of the name {images.name}; give another --name")


def _write(run: Path, settings: dict, made_from: dict) -> None:
    building = run.with_name(run.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    finish(building, run, new_manifest(RUN_KIND, settings=settings, made_from=made_from))
