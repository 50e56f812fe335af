"""Where a new run may start: at the weights and moments of another run's checkpoint, under a recipe of its own.

Counts begin at zero; the manifests of the run and of its checkpoints say what it started from, and what that did.
"""

from pathlib import Path
from typing import Any

from evalkit.artifacts import Manifest
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import read_checkpoint, restore_optimisers
from evalkit.gan.layout import run_of
from evalkit.gan.state import TrainingState
from evalkit.gan.weights import load_weights


def origin(checkpoint: Path) -> dict[str, Any]:
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


def check_origin(run: Path, manifest: Manifest, asked: dict[str, Any] | None, *, begun: bool) -> None:
    """Raises EvalkitError if a run was started otherwise than asked; one that has begun need not be told again."""
    found = manifest["made_from"].get("start")
    if found == asked or (asked is None and begun):
        return
    raise EvalkitError(f"{run}: started from {_named(found)}, asked for {_named(asked)}; give another --name")


def _named(start: dict[str, Any] | None) -> str:
    return f"{start['run']}@{start['d_updates']} (--start)" if start else "fresh weights (no --start)"


def begin(state: TrainingState, checkpoint: Path) -> None:
    """Puts the weights and moments of `checkpoint` into a new state; its counts stay zero.

    A moving average that the checkpoint lacks begins at its network's weights.

    Raises:
        ArtifactError: names or shapes are not those of the new recipe's networks.
    """
    for name, network in state.networks().items():
        path = checkpoint / f"{name}.safetensors"
        load_weights(network, path if path.is_file() else checkpoint / f"{name.removesuffix('_average')}.safetensors")
    restore_optimisers(state, checkpoint)
