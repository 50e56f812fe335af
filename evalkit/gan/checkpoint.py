"""Checkpoints: both networks and both optimisers as safetensors with a manifest, written atomically.

RUN/manifest.json                       recipe, seed, precision, pictures
RUN/checkpoints/d-00000800/             the state after 800 D updates, whole or absent
RUN/metrics.csv, RUN/samples/*.png      what the run logged
RUN/best/                               the checkpoint that a probe found best, where one watched
"""

import copy
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from evalkit.artifacts import MANIFEST, Manifest, finish, new_manifest, read_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.gan.networks import Discriminator, Generator, build_networks
from evalkit.gan.recipe import Recipe, override
from evalkit.gan.recipes import recipe_named
from evalkit.gan.steps import make_optimiser
from evalkit.workspace import Workspace

KIND = "checkpoint"
RUN_KIND = "run"


@dataclass
class TrainingState:
    """All that changes while training.

    Attributes:
        average: the moving average of the generator, where the recipe has one.
        minibatches: gone through, of either network.
        rewinds: how often the run stepped back to an earlier checkpoint.
    """

    recipe: Recipe
    generator: Generator
    discriminator: Discriminator
    g_optimiser: Optimizer
    d_optimiser: Optimizer
    average: Generator | None = None
    minibatches: int = 0
    rewinds: int = 0

    @property
    def d_updates(self) -> int:
        """Updates of D so far: every second minibatch under `alternate` (G goes first), each under `both`."""
        return self.minibatches // 2 if self.recipe.schedule == "alternate" else self.minibatches

    @property
    def sampler(self) -> Generator:
        """The generator whose samples are shown."""
        return self.average or self.generator

    def networks(self) -> dict[str, nn.Module]:
        """By the names of their files."""
        average = {"generator_average": self.average} if self.average else {}
        return {"generator": self.generator, "discriminator": self.discriminator, **average}

    @property
    def g_updates(self) -> int:
        """Updates of G so far."""
        return self.minibatches - self.d_updates if self.recipe.schedule == "alternate" else self.minibatches


def new_state(recipe: Recipe, *, seed: int, device: torch.device) -> TrainingState:
    """Freshly initialised networks and optimisers on `device`, weights in channels-last order."""
    generator, discriminator = build_networks(recipe, seed=seed)
    for network in (generator, discriminator):
        # safetensors wants one order in the file; in memory channels_last is the fast one
        network.to(device).to(memory_format=torch.channels_last)
    optimisers = make_optimiser(generator, recipe), make_optimiser(discriminator, recipe)
    average = copy.deepcopy(generator) if recipe.g_ema else None
    return TrainingState(recipe, generator, discriminator, *optimisers, average)


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
    settings = {"recipe": state.recipe.as_dict(), **counts}
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
    """Puts the checkpoint's weights, moments and counts into `state`.

    Raises:
        ArtifactError: the checkpoint is cut short or was changed.
    """
    manifest = read_checkpoint(checkpoint)
    for name, network in state.networks().items():
        load_weights(network, checkpoint / f"{name}.safetensors")
    tensors = _load_tensors(checkpoint / "optimisers.safetensors")
    for name, optimiser in (("generator", state.g_optimiser), ("discriminator", state.d_optimiser)):
        _restore_optimiser(optimiser, {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(name)})
    state.minibatches = manifest["settings"]["minibatches"]
    state.rewinds = manifest["settings"].get("rewinds", 0)


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


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ArtifactError(f"{path}: no safetensors file ({error})") from None


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a safetensors file into `network`.

    Raises:
        ArtifactError: no such file, or names or shapes that differ from the network's; the message names them.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected weights as safetensors")
    put_weights(network, _load_tensors(path), str(path))


def put_weights(network: nn.Module, found: dict[str, Tensor], path: str) -> None:
    """Puts tensors by name into `network`; the message of a misfit begins with `path`.

    Raises:
        ArtifactError: names or shapes that differ from the network's; the message names them.
    """
    expected = network.state_dict()
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape]
    if missing or surplus or wrong:
        parts = (("missing", missing), ("surplus", surplus), ("of another shape", sorted(wrong)))
        listed = "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in parts if names)
        raise ArtifactError(f"{path}: these are not the weights of this network ({listed})")
    network.load_state_dict(found)


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


def stored_recipe(manifest: Manifest) -> Recipe:
    """The recipe that a run's or checkpoint's manifest holds."""
    values = dict(manifest["settings"]["recipe"])
    try:
        return override(recipe_named("imagenet32"), values)
    except EvalkitError as error:
        raise ArtifactError(f"the stored recipe does not fit this evalkit: {error}") from None


def remove_old(run: Path, *, keep: int, milestones: int) -> None:
    """Deletes all but the last `keep` checkpoints and those at multiples of `milestones` D updates (0: none)."""
    for path in checkpoints(run)[:-keep]:
        updates = json.loads((path / "manifest.json").read_text())["settings"]["d_updates"]
        if not milestones or updates % milestones:
            shutil.rmtree(path)


def remove_after(run: Path, checkpoint: Path) -> None:
    """Deletes a run's checkpoints of more D updates than `checkpoint`."""
    for path in checkpoints(run):
        if path.name > checkpoint.name:
            shutil.rmtree(path)


def checkpoint_before(run: Path, d_updates: int) -> Path:
    """A run's last checkpoint of at most that many D updates, else its first.

    Raises:
        ArtifactError: it has none.
    """
    latest_checkpoint(run)
    found = checkpoints(run)
    good = [path for path in found if int(path.name.removeprefix("d-")) <= d_updates]
    return good[-1] if good else found[0]


def rewind(state: TrainingState, checkpoint: Path) -> None:
    """Restores the checkpoint and counts the step back: order and z are drawn anew from here on."""
    rewinds = state.rewinds
    restore(state, checkpoint)
    state.rewinds = max(rewinds, state.rewinds) + 1
