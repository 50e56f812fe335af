"""Checkpoints: both networks and both optimisers as safetensors with a manifest, written atomically."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from evalkit.artifacts import Manifest, finish, new_manifest, read_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.gan.history import Stretch, continued
from evalkit.gan.recipe import Recipe, override
from evalkit.gan.recipes import recipe_named
from evalkit.gan.state import TrainingState
from evalkit.gan.weights import load_tensors, load_weights

KIND = "checkpoint"
RUN_KIND = "run"


def save_checkpoint(run: Path, state: TrainingState, *, made_from: dict[str, Any]) -> Path:
    """Writes the state as `RUN/checkpoints/d-NNNNNNNN` and returns that path."""
    target = run / "checkpoints" / f"d-{state.d_updates:08d}"
    building = target.with_name(target.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for name, network in state.networks().items():
        save_file(_plain(network.state_dict()), building / f"{name}.safetensors")
    save_file(_plain(_optimiser_tensors(state)), building / "optimisers.safetensors")
    counts = {"minibatches": state.minibatches, "d_updates": state.d_updates, "rewinds": state.rewinds}
    history = [stretch.as_dict() for stretch in state.history]
    settings = {"recipe": state.recipe.as_dict(), **counts, "history": history}
    finish(building, target, new_manifest(KIND, settings=settings, made_from=made_from))
    return target


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _optimiser_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Adam's moments and step counts as one flat dictionary: "discriminator.3.exp_avg" and so on."""
    found: dict[str, Tensor] = {}
    for name, optimiser in (("generator", state.g_optimiser), ("discriminator", state.d_optimiser)):
        for index, values in optimiser.state_dict()["state"].items():
            found |= {f"{name}.{index}.{key}": value for key, value in values.items()}
    return found


def restore(state: TrainingState, checkpoint: Path) -> None:
    """Puts the checkpoint's weights, moments, counts and history into `state`.

    Raises:
        ArtifactError: the checkpoint is cut short or was changed.
    """
    manifest = read_checkpoint(checkpoint)
    for name, network in state.networks().items():
        load_weights(network, checkpoint / f"{name}.safetensors")
    restore_optimisers(state, checkpoint)
    state.minibatches = manifest["settings"]["minibatches"]
    state.rewinds = manifest["settings"].get("rewinds", 0)
    state.history = tuple(Stretch(**stretch) for stretch in manifest["settings"].get("history", ()))


def restore_optimisers(state: TrainingState, checkpoint: Path) -> None:
    """Puts the checkpoint's moments and step counts into both optimisers."""
    tensors = load_tensors(checkpoint / "optimisers.safetensors")
    for name, optimiser in (("generator", state.g_optimiser), ("discriminator", state.d_optimiser)):
        _restore_optimiser(optimiser, {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(name)})


def _restore_optimiser(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    parameters = optimiser.param_groups[0]["params"]
    for key, value in tensors.items():
        index, field = key.split(".")
        if field != "step":  # a moment lies in memory as its parameter does
            value = torch.empty_like(parameters[int(index)]).copy_(value)
        states.setdefault(int(index), {})[field] = value
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})


def read_checkpoint(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint whose files hash to what it says.

    Raises:
        ArtifactError: missing, cut short or changed.
    """
    try:
        return read_manifest(checkpoint, KIND, check_hashes=True)
    except ArtifactError as error:
        raise ArtifactError(f"{error}, or delete {checkpoint} to go on from the one before") from None


def weights_file(manifest: Manifest, network: str) -> str:
    """The file of a checkpoint's "generator" or "discriminator": its moving average's, where training kept one."""
    average = f"{network}_average.safetensors"
    return average if average in manifest["files"] else f"{network}.safetensors"


def rewind(state: TrainingState, checkpoint: Path) -> None:
    """Restores the checkpoint and counts the step back: order and z are drawn anew from here on."""
    rewinds, history = state.rewinds, state.history
    restore(state, checkpoint)
    state.rewinds = max(rewinds, state.rewinds) + 1
    if history:
        state.history = continued(state.history, replace(history[-1], from_d_updates=state.d_updates))


def stored_recipe(manifest: Manifest) -> Recipe:
    """The recipe that a run's or checkpoint's manifest holds."""
    values = dict(manifest["settings"]["recipe"])
    try:
        return override(recipe_named("imagenet32"), values)
    except EvalkitError as error:
        raise ArtifactError(f"the stored recipe does not fit this evalkit: {error}") from None
