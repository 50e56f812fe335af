"""From a run or checkpoint of ours to weights to hand on: both networks, without the optimisers' state."""

from pathlib import Path
from typing import Any

from evalkit.artifacts import MANIFEST, Manifest, read_manifest
from evalkit.gan.checkpoint import RUN_KIND, read_checkpoint, stored_recipe, weights_file
from evalkit.gan.layout import latest_checkpoint
from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.recipes import RECIPES, Recipe
from evalkit.gan.start import updates_before
from evalkit.gan.weights import load_weights
from evalkit.images import images_with_hash
from evalkit.pretrained.evidence import Stage, evidence, hours, stages
from evalkit.pretrained.store import Pretrained
from evalkit.workspace import Workspace


def read_trained(path: Path, workspace: Workspace, *, source: str, licence: str) -> Pretrained:
    """The weights of a checkpoint, or of a run's latest; of each network its moving average, where there is one.

    The workspace tells how many pictures they were trained on, if it has them.

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
    way = stages(folder, manifest) if folder else []
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
    logged = evidence(way) if way else {}
    return Pretrained(recipe, discriminator.state_dict(), generator.state_dict(), settings, made_from, logged)


def _run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in; None where it lies alone."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and (run / MANIFEST).is_file() else None


def _facts(run: Path, manifest: Manifest, way: list[Stage], workspace: Workspace) -> dict[str, Any]:
    """How the run came to this checkpoint: lines of the card, and what reports say of the training."""
    begun = read_manifest(run, RUN_KIND)
    sha256 = begun["made_from"]["images_sha256"]
    images = images_with_hash(workspace, sha256)
    size = {} if images is None else {"pictures": len(images), "classes": len(images.class_names)}
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


def is_trained(path: Path) -> bool:
    """Whether a folder is a run or a checkpoint."""
    known = (path / "checkpoints").is_dir() or (path / "optimisers.safetensors").is_file()
    return known and (path / MANIFEST).is_file()
