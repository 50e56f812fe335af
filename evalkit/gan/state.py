"""All that changes while training: both networks, both optimisers, counts."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from evalkit.gan.history import Stretch
from evalkit.gan.networks import Discriminator, Generator, build_networks
from evalkit.gan.recipe import Recipe
from evalkit.gan.steps import make_optimiser


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
    g_optimiser: Optimizer
    d_optimiser: Optimizer
    g_average: Generator | None = None
    d_average: Discriminator | None = None
    minibatches: int = 0
    rewinds: int = 0
    history: tuple[Stretch, ...] = ()

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


def new_state(recipe: Recipe, *, seed: int, device: torch.device) -> TrainingState:
    """Freshly initialised networks and optimisers on `device`, weights in channels-last order."""
    generator, discriminator = build_networks(recipe, seed=seed)
    for network in (generator, discriminator):
        # safetensors wants one order in the file; in memory channels_last is the fast one
        network.to(device).to(memory_format=torch.channels_last)
    optimisers = make_optimiser(generator, recipe), make_optimiser(discriminator, recipe)
    g_average = copy.deepcopy(generator) if recipe.g_ema else None
    d_average = copy.deepcopy(discriminator) if recipe.d_ema else None
    return TrainingState(recipe, generator, discriminator, *optimisers, g_average, d_average)
