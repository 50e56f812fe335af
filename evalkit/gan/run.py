"""A run's manifest: written when training starts, checked when it goes on."""

import shutil
from pathlib import Path

import torch

from evalkit.artifacts import finish, new_manifest, read_manifest
from evalkit.device import describe_device, resolve_precision
from evalkit.distributed import Ranks
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import RUN_KIND, stored_recipe
from evalkit.gan.options import TrainOptions
from evalkit.gan.recipe import Recipe
from evalkit.images.imageset import ImageSet

_MAY_CHANGE = ("d_updates",)  # a run can be made longer


def open_run(
    images: ImageSet, run: Path, recipe: Recipe, options: TrainOptions, *, device: torch.device, ranks: Ranks
) -> str:
    """Writes the manifest of a new run, or checks an existing one against what is asked; returns the precision.

    Raises:
        EvalkitError: the run was made with another recipe, seed, precision or other pictures.
    """
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
        _write(run, settings, {"images_sha256": images.sha256})
    ranks.wait()
    manifest = read_manifest(run, RUN_KIND)
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
    return there["precision"]


def _write(run: Path, settings: dict, made_from: dict) -> None:
    building = run.with_name(run.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    finish(building, run, new_manifest(RUN_KIND, settings=settings, made_from=made_from))
