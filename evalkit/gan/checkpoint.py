"""Checkpoints: the state of a training, written atomically as safetensors files with a manifest, and read again.

The trainer saves them and resumes from them (run_dir.py says where they lie); encoders and `evalkit latent` load the
networks from them.
"""

import copy
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from evalkit.artifacts import MANIFEST, PROGRESS, ArtifactWriter, Manifest, new_manifest, read_manifest
from evalkit.errors import ArtifactError, EvalkitError, reading
from evalkit.files import own_folder, set_aside
from evalkit.gan.networks import Discriminator, Generator, build_networks
from evalkit.gan.recipes import Recipe, load_recipe
from evalkit.gan.steps import make_optimizer

KIND = "checkpoint"
RUN_KIND = "run"
OPTIMIZERS = "optimizers.safetensors"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSegment:
    """How a run was trained from one D update on: what decides the weights besides recipe, seed and images.

    Attributes:
        from_d_updates: D updates done before it.
        processes: how many shared each minibatch; each normalized its share by itself ...
        sync_batch_norm: ... unless batch norm used statistics over all of them.
        precision: arithmetic of the convolutions, float32 or bfloat16.
    """

    from_d_updates: int
    processes: int
    sync_batch_norm: bool
    precision: str

    def as_dict(self) -> dict[str, Any]:
        """The segment as JSON values."""
        return asdict(self)


@dataclass
class TrainingState:
    """Everything that changes while training.

    Attributes:
        g_average, d_average: the networks' moving averages, where the recipe has them.
        minibatches: number of minibatches done, for either network.
        rewinds: how often the run went back to an earlier checkpoint.
        history: how the run was trained so far; empty for a checkpoint of a version that did not record it.
    """

    recipe: Recipe
    generator: Generator
    discriminator: Discriminator
    g_optimizer: Optimizer
    d_optimizer: Optimizer
    g_average: Generator | None = None
    d_average: Discriminator | None = None
    minibatches: int = 0
    rewinds: int = 0
    history: tuple[TrainingSegment, ...] = ()

    @property
    def d_updates(self) -> int:
        """Updates of D so far: on every second minibatch under `alternate` (G goes first), on each under `both`."""
        return self.minibatches // 2 if self.recipe.schedule == "alternate" else self.minibatches

    @property
    def g_updates(self) -> int:
        """Updates of G so far."""
        return self.minibatches - self.d_updates if self.recipe.schedule == "alternate" else self.minibatches

    @property
    def sampler(self) -> Generator:
        """The generator that draws the samples: G's moving average where there is one, else G."""
        return self.g_average or self.generator

    def networks(self) -> dict[str, nn.Module]:
        """All networks by the names of their files."""
        averages = {"generator_average": self.g_average, "discriminator_average": self.d_average}
        kept = {name: network for name, network in averages.items() if network}
        return {"generator": self.generator, "discriminator": self.discriminator, **kept}

    def optimizers(self) -> dict[str, Optimizer]:
        """Both optimizers by the name of their network."""
        return {"generator": self.g_optimizer, "discriminator": self.d_optimizer}


@dataclass(frozen=True)
class CheckpointSettings:
    """The `settings` of a checkpoint's manifest."""

    recipe: Recipe
    minibatches: int
    d_updates: int
    rewinds: int = 0
    history: tuple[TrainingSegment, ...] = ()

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "CheckpointSettings":
        """The settings of a manifest; versions that did not record `rewinds` and `history` had none."""
        stored = manifest["settings"]
        history = tuple(TrainingSegment(**segment) for segment in stored.get("history", ()))
        counts = {key: stored[key] for key in ("minibatches", "d_updates", "rewinds") if key in stored}
        return cls(recipe=stored_recipe(manifest), history=history, **counts)

    @classmethod
    def of(cls, state: TrainingState) -> "CheckpointSettings":
        """The settings that a checkpoint of `state` has."""
        return cls(state.recipe, state.minibatches, state.d_updates, state.rewinds, state.history)

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        counts = {"minibatches": self.minibatches, "d_updates": self.d_updates, "rewinds": self.rewinds}
        return {
            "recipe": self.recipe.as_dict(),
            **counts,
            "history": [segment.as_dict() for segment in self.history],
        }


def new_state(recipe: Recipe, *, seed: int, device: torch.device) -> TrainingState:
    """Freshly initialized networks and optimizers on `device`, weights in channels-last order."""
    generator, discriminator = build_networks(recipe, seed=seed)
    for network in (generator, discriminator):
        # the files are contiguous, as safetensors requires; in memory channels_last is the fast order
        network.to(device).to(memory_format=torch.channels_last)
    optimizers = make_optimizer(generator, recipe), make_optimizer(discriminator, recipe)
    g_average = copy.deepcopy(generator) if recipe.g_ema else None
    d_average = copy.deepcopy(discriminator) if recipe.d_ema else None
    return TrainingState(recipe, generator, discriminator, *optimizers, g_average, d_average)


def save_checkpoint(run: Path, state: TrainingState, *, made_from: dict[str, Any]) -> Path:
    """Writes the state as `RUN/checkpoints/d-NNNNNNNN` and returns that path."""
    target = own_folder(run / "checkpoints") / f"d-{state.d_updates:08d}"
    _clear(target)
    settings = CheckpointSettings.of(state).as_dict()
    writer = ArtifactWriter(target, settings, made_from)
    for name, network in state.networks().items():
        save_file(_plain(network.state_dict()), writer.path / f"{name}.safetensors")
    save_file(_plain(_optimizer_tensors(state)), writer.path / OPTIMIZERS)
    writer.finish(new_manifest(KIND, settings=settings, made_from=made_from))
    return target


def _clear(target: Path) -> None:
    """Moves aside what is left of a damaged checkpoint, or an unfinished one, so that the training can go on."""
    for path, mark in ((target, MANIFEST), (target.with_name(target.name + ".partial"), PROGRESS)):
        if os.path.lexists(path) and not (path / mark).is_file():
            logger.warning("%s: not a checkpoint; moved aside as %s", path, set_aside(path).name)


def restore(state: TrainingState, checkpoint: Path) -> None:
    """Loads the checkpoint's weights, moments, counts and history into `state`.

    Raises:
        ArtifactError: the checkpoint is truncated or was changed.
    """
    settings = CheckpointSettings.from_manifest(read_checkpoint(checkpoint))
    for name, network in state.networks().items():
        load_weights(network, checkpoint / f"{name}.safetensors")
    restore_optimizers(state, checkpoint)
    state.minibatches, state.rewinds, state.history = settings.minibatches, settings.rewinds, settings.history


def rewind(state: TrainingState, checkpoint: Path) -> None:
    """Restores the checkpoint and counts the rewind: order and z are different from here on."""
    rewinds, history = state.rewinds, state.history
    restore(state, checkpoint)
    state.rewinds = max(rewinds, state.rewinds) + 1
    if history:
        state.history = extend_history(state.history, replace(history[-1], from_d_updates=state.d_updates))


def extend_history(history: Sequence[TrainingSegment], now: TrainingSegment) -> tuple[TrainingSegment, ...]:
    """The history of a training that is resumed as `now` says: with a new segment only if something differs."""
    before = tuple(segment for segment in history if segment.from_d_updates < now.from_d_updates)
    same = before and replace(before[-1], from_d_updates=now.from_d_updates) == now
    return before if same else (*before, now)


def restore_optimizers(state: TrainingState, checkpoint: Path) -> None:
    """Loads the checkpoint's moments and step counts into both optimizers.

    Raises:
        ArtifactError: they are not those of these networks.
    """
    path = checkpoint / OPTIMIZERS
    tensors = load_tensors(path)
    for name, optimizer in state.optimizers().items():
        with reading(path, "the moments of these networks"):
            own = {key.removeprefix(f"{name}."): each for key, each in tensors.items() if key.startswith(f"{name}.")}
            _restore_optimizer(optimizer, own)


def read_checkpoint(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint, whose files are hashed and compared with it.

    Raises:
        ArtifactError: the checkpoint is missing, truncated or was changed.
    """
    try:
        return read_manifest(checkpoint, KIND, check_hashes=True)
    except ArtifactError as error:
        raise ArtifactError(f"{error}, or delete {checkpoint} to resume from the previous one") from None


def weights_file(manifest: Manifest, network: str) -> str:
    """The file with the weights of a checkpoint's "generator" or "discriminator": the moving average if it has one."""
    average = f"{network}_average.safetensors"
    return average if average in manifest["files"] else f"{network}.safetensors"


def stored_recipe(manifest: Manifest) -> Recipe:
    """The recipe in the manifest of a run or checkpoint."""
    try:
        return load_recipe("imagenet32", manifest["settings"]["recipe"])
    except EvalkitError as error:
        raise ArtifactError(f"the stored recipe does not fit this version of evalkit: {error}") from None


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a safetensors file into `network`.

    Raises:
        ArtifactError: no such file, or names or shapes that differ from the network's; the message names them.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected weights as safetensors")
    load_state_dict_checked(network, load_tensors(path), str(path))


def load_state_dict_checked(network: nn.Module, tensors: dict[str, Tensor], path: str) -> None:
    """Loads tensors by name into `network`; error messages begin with `path`.

    Raises:
        ArtifactError: names or shapes that differ from the network's; the message names them.
    """
    expected = network.state_dict()
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    wrong = [name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape]
    if missing or unexpected or wrong:
        parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(wrong)))
        listed = "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in parts if names)
        raise ArtifactError(f"{path}: these are not the weights of this network ({listed})")
    network.load_state_dict(tensors)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ArtifactError: not a safetensors file.
    """
    with reading(path, "a safetensors file"):
        return load_file(path)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _optimizer_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Adam's moments and step counts as one flat dictionary: "discriminator.3.exp_avg" and so on."""
    return {
        f"{name}.{index}.{key}": value
        for name, optimizer in state.optimizers().items()
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    parameters = optimizer.param_groups[0]["params"]
    for key, value in tensors.items():
        index, field = key.split(".")
        if field != "step":  # a moment has the memory format of its parameter
            value = torch.empty_like(parameters[int(index)]).copy_(value)
        states.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
