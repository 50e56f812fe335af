"""From a run or checkpoint of ours to weights to hand on: both networks, without the optimisers' state."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from evalkit.artifacts import MANIFEST, Manifest, read_manifest
from evalkit.gan.checkpoint import RUN_KIND, read_checkpoint, stored_recipe
from evalkit.gan.layout import latest_checkpoint
from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.weights import load_weights
from evalkit.pretrained.store import Pretrained


def read_trained(path: Path, *, source: str, licence: str) -> Pretrained:
    """The weights of a checkpoint, or of a run's latest; of the generator its moving average, where there is one.

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
    averaged = "generator_average.safetensors" in manifest["files"]
    load_weights(generator, checkpoint / f"generator{'_average' if averaged else ''}.safetensors")
    load_weights(discriminator, checkpoint / "discriminator.safetensors")
    updates = manifest["settings"]["d_updates"]
    settings = {
        "about": f"recipe {recipe.name} after {updates:,} D updates",
        "source": source,
        "licence": licence,
        "notes": ["the generator is the moving average over training"] if averaged else [],
        "complete": True,
        "training_known": True,
        "run": _how_it_was_made(checkpoint, manifest),
    }
    made_from = manifest["made_from"] | {
        "d_updates": updates,
        "sha256": {name: entry["sha256"] for name, entry in manifest["files"].items()},
    }
    return Pretrained(recipe, discriminator.state_dict(), generator.state_dict(), settings, made_from)


def _how_it_was_made(checkpoint: Path, manifest: Manifest) -> dict[str, Any]:
    """What the checkpoint's run says of its making, as lines of the card; nothing where the checkpoint lies alone."""
    run = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not (run / MANIFEST).is_file():
        return {}
    begun = read_manifest(run, RUN_KIND)
    settings, updates = begun["settings"], manifest["settings"]["d_updates"]
    metrics = pd.read_csv(run / "metrics.csv") if (run / "metrics.csv").is_file() else pd.DataFrame()
    seconds = metrics.loc[metrics["d_updates"] <= updates, "seconds"].max() if len(metrics) else float("nan")
    return {
        "data": f"{settings['images']}, without labels (sha256 {begun['made_from']['images_sha256']})",
        "seed": settings["seed"],
        "hardware": f"{settings['device']} (when it began), convolutions in {settings['precision']}",
        "hours": "unknown" if math.isnan(seconds) else f"{seconds / 3600:.1f}",
        "commit": f"{begun['commit'] or 'unknown'} when it began, {manifest['commit'] or 'unknown'} at the end",
        "versions": " ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
    }


def is_trained(path: Path) -> bool:
    """Whether a folder is a run or a checkpoint."""
    known = (path / "checkpoints").is_dir() or (path / "optimisers.safetensors").is_file()
    return known and (path / MANIFEST).is_file()
