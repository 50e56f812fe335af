"""Checkpoints: both networks and both optimizers as safetensors with a manifest, written atomically.

All that changes while training: both networks, both optimizers, counts.

Weights from safetensors files into networks, with a message that names what does not fit.

By how many processes a run was trained, and how: what besides recipe, seed and images decides the weights.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from evalkit.artifacts import ArtifactWriter, Manifest, new_manifest, read_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.gan.networks import Discriminator, Generator, build_networks
from evalkit.gan.recipes import Recipe, override, recipe_named
from evalkit.gan.steps import make_optimizer

KIND = "checkpoint"
RUN_KIND = "run"


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    parameters = optimizer.param_groups[0]["params"]
    for key, value in tensors.items():
        index, field = key.split(".")
        if field != "step":  # a moment lies in memory as its parameter does
            value = torch.empty_like(parameters[int(index)]).copy_(value)
        states.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


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


def stored_recipe(manifest: Manifest) -> Recipe:
    """The recipe that a run's or checkpoint's manifest holds."""
    values = dict(manifest["settings"]["recipe"])
    try:
        return override(recipe_named("imagenet32"), values)
    except EvalkitError as error:
        raise ArtifactError(f"the stored recipe does not fit this evalkit: {error}") from None


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a safetensors file into `network`.

    Raises:
        ArtifactError: no such file, or names or shapes that differ from the network's; the message names them.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected weights as safetensors")
    load_state_dict_checked(network, load_tensors(path), str(path))


def load_state_dict_checked(network: nn.Module, found: dict[str, Tensor], path: str) -> None:
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


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ArtifactError: it is none.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ArtifactError(f"{path}: no safetensors file ({error})") from None


@dataclass(frozen=True)
class TrainingSegment:
    """A part of a training, up to the next stretch or the end.

    Attributes:
        from_d_updates: D updates before it.
        processes: that shared each minibatch; with more than one, each normalises its share by itself ...
        sync_batch_norm: ... unless statistics are over all of them.
        precision: float32 or bfloat16.
    """

    from_d_updates: int
    processes: int
    sync_batch_norm: bool
    precision: str

    def as_dict(self) -> dict[str, Any]:
        """The stretch as JSON values."""
        return asdict(self)


@dataclass
class TrainingState:
    """All that changes while training.

    Attributes:
        g_average, d_average: the networks' moving averages, where the recipe has them.
        minibatches: gone through, of either network.
        rewinds: how often the run stepped back to an earlier checkpoint.
        history: by how many processes it was trained so far; empty for a checkpoint from before that was stamped.
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
        """Updates of D so far: every second minibatch under `alternate` (G goes first), each under `both`."""
        return self.minibatches // 2 if self.recipe.schedule == "alternate" else self.minibatches

    @property
    def sampler(self) -> Generator:
        """The generator whose samples are shown."""
        return self.g_average or self.generator

    def networks(self) -> dict[str, nn.Module]:
        """By the names of their files."""
        averages = {"generator_average": self.g_average, "discriminator_average": self.d_average}
        kept = {name: network for name, network in averages.items() if network}
        return {"generator": self.generator, "discriminator": self.discriminator, **kept}

    @property
    def g_updates(self) -> int:
        """Updates of G so far."""
        return self.minibatches - self.d_updates if self.recipe.schedule == "alternate" else self.minibatches


def save_checkpoint(run: Path, state: TrainingState, *, made_from: dict[str, Any]) -> Path:
    """Writes the state as `RUN/checkpoints/d-NNNNNNNN` and returns that path."""
    target = run / "checkpoints" / f"d-{state.d_updates:08d}"
    counts = {"minibatches": state.minibatches, "d_updates": state.d_updates, "rewinds": state.rewinds}
    history = [stretch.as_dict() for stretch in state.history]
    settings = {"recipe": state.recipe.as_dict(), **counts, "history": history}
    writer = ArtifactWriter(target, settings, made_from)
    for name, network in state.networks().items():
        save_file(_plain(network.state_dict()), writer.path / f"{name}.safetensors")
    save_file(_plain(_optimizer_tensors(state)), writer.path / "optimizers.safetensors")
    writer.finish(new_manifest(KIND, settings=settings, made_from=made_from))
    return target


def _optimizer_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Adam's moments and step counts as one flat dictionary: "discriminator.3.exp_avg" and so on."""
    found: dict[str, Tensor] = {}
    for name, optimizer in (("generator", state.g_optimizer), ("discriminator", state.d_optimizer)):
        for index, values in optimizer.state_dict()["state"].items():
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
    restore_optimizers(state, checkpoint)
    state.minibatches = manifest["settings"]["minibatches"]
    state.rewinds = manifest["settings"].get("rewinds", 0)
    state.history = tuple(TrainingSegment(**stretch) for stretch in manifest["settings"].get("history", ()))


def restore_optimizers(state: TrainingState, checkpoint: Path) -> None:
    """Puts the checkpoint's moments and step counts into both optimizers."""
    tensors = load_tensors(checkpoint / "optimizers.safetensors")
    for name, optimizer in (("generator", state.g_optimizer), ("discriminator", state.d_optimizer)):
        _restore_optimizer(optimizer, {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(name)})


def rewind(state: TrainingState, checkpoint: Path) -> None:
    """Restores the checkpoint and counts the step back: order and z are drawn anew from here on."""
    rewinds, history = state.rewinds, state.history
    restore(state, checkpoint)
    state.rewinds = max(rewinds, state.rewinds) + 1
    if history:
        state.history = extend_history(state.history, replace(history[-1], from_d_updates=state.d_updates))


def new_state(recipe: Recipe, *, seed: int, device: torch.device) -> TrainingState:
    """Freshly initialised networks and optimizers on `device`, weights in channels-last order."""
    generator, discriminator = build_networks(recipe, seed=seed)
    for network in (generator, discriminator):
        # safetensors wants one order in the file; in memory channels_last is the fast one
        network.to(device).to(memory_format=torch.channels_last)
    optimizers = make_optimizer(generator, recipe), make_optimizer(discriminator, recipe)
    g_average = copy.deepcopy(generator) if recipe.g_ema else None
    d_average = copy.deepcopy(discriminator) if recipe.d_ema else None
    return TrainingState(recipe, generator, discriminator, *optimizers, g_average, d_average)


def extend_history(history: Sequence[TrainingSegment], now: TrainingSegment) -> tuple[TrainingSegment, ...]:
    """The history of a training that goes on as `now` says: a new stretch only where something differs."""
    before = tuple(stretch for stretch in history if stretch.from_d_updates < now.from_d_updates)
    same = before and before[-1].as_dict() | {"from_d_updates": now.from_d_updates} == now.as_dict()
    return before if same else (*before, now)
