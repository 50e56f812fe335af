"""A trained GAN as a fixed function: what a z draws depends on that z alone. From a run to the experiments.

differs from the paper: its release normalises every batch by its own statistics, so that a sample depends on its
neighbours. Here each batch norm is frozen at the statistics of one reference batch, drawn from the z law with a fixed
seed; walks, sums and inversions are then functions of z.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.device import resolve_device
from evalkit.errors import EvalkitError
from evalkit.gan.networks import Discriminator, Generator, draw_z, to_pictures
from evalkit.gan.recipes import Recipe

# z of the reference batch: with another batch of 256, pixels of imagenet32@1077 move by 8 of 255 in the mean, with one
# of 128 by 12; a batch of 64 that normalises itself, as the release's, moves them by 16 (benchmarks/NOTES.md)
REFERENCE = 256
_REFERENCE_SEED = 20151119  # of the reference batch, the same for every run
CHUNK = 64  # pictures a pass


@dataclass(frozen=True)
class FrozenGAN:
    """A generator with frozen batch norm, and the discriminator.

    Attributes:
        name: as figures carry it, e.g. "imagenet32@800".
        generator: z (N, z_length) and one-hot classes or None -> pictures in its range; takes no gradients itself.
        discriminator: as loaded; `Critic` freezes a copy of it.
        label: the class that a conditional generator draws, None for others.
        made_from: path and hashes of the weights, for manifests; `images_sha256` is of the pictures trained on.
    """

    name: str
    recipe: Recipe
    generator: nn.Module
    discriminator: Discriminator
    label: int | None = None
    made_from: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return next(self.discriminator.parameters()).device

    def draw(self, count: int, *, seed: int) -> Tensor:
        """z (count, z_length) by the recipe's law, the same on every device."""
        return draw_z(count, self.recipe, torch.Generator().manual_seed(seed)).to(self.device)

    def decode(self, z: Tensor) -> Tensor:
        """z (N, z_length) -> float (N, C, size, size) in the generator's range, with gradients to z."""
        return self.generator(z, one_hot(self.label, len(z), self.recipe, self.device))

    def pictures(self, z: Tensor) -> np.ndarray:
        """z (N, z_length) -> uint8 (N, H, W, C)."""
        with torch.no_grad():
            return np.concatenate([to_pictures(self.decode(chunk), self.recipe) for chunk in z.split(CHUNK)])


def one_hot(label: int | None, count: int, recipe: Recipe, device: torch.device) -> Tensor | None:
    """`count` one-hot rows of the class `label`, or None where the recipe has no classes."""
    if label is None:
        return None
    return F.one_hot(torch.full((count,), label, device=device), recipe.classes)


def freeze_batch_norm(network: nn.Module, *inputs: Tensor | None) -> None:
    """Freezes every batch norm of `network` at the mean and biased variance it meets in one pass over `inputs`."""

    def keep(norm: nn.Module, arguments: tuple[Tensor], _: Tensor) -> None:
        axes = [axis for axis in range(arguments[0].ndim) if axis != 1]
        norm.running_var, norm.running_mean = torch.var_mean(arguments[0].float(), axes, correction=0)

    norms = [module for module in network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    hooks = [norm.register_forward_hook(keep) for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    network.eval()
    network.requires_grad_(False)


def frozen(
    name: str,
    generator: Generator,
    discriminator: Discriminator,
    *,
    label: int | None = None,
    device: str = "cpu",
    made_from: dict[str, Any] | None = None,
) -> FrozenGAN:
    """A GAN whose generator is a copy frozen at the statistics of the reference batch.

    Raises:
        EvalkitError: a class that the recipe does not have.
    """
    where, recipe = resolve_device(device), generator.recipe
    label = _checked_label(label, recipe)
    gan = FrozenGAN(name, recipe, deepcopy(generator).to(where), discriminator.to(where), label, made_from or {})
    z = gan.draw(REFERENCE, seed=_REFERENCE_SEED)
    freeze_batch_norm(gan.generator, z, one_hot(label, REFERENCE, recipe, where))
    return gan


def reference_pictures(gan: FrozenGAN) -> np.ndarray:
    """What the reference batch draws: uint8 (REFERENCE, H, W, C)."""
    return gan.pictures(gan.draw(REFERENCE, seed=_REFERENCE_SEED))


def _checked_label(label: int | None, recipe: Recipe) -> int | None:
    if not recipe.classes:
        if label is not None:
            raise EvalkitError(f"recipe {recipe.name}: has no classes, found class {label}; leave --class out")
        return None
    if not 0 <= (label or 0) < recipe.classes:
        raise EvalkitError(f"recipe {recipe.name}: class {label}, expected 0 to {recipe.classes - 1}")
    return label or 0
