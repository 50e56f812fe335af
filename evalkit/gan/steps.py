"""One update of each network: the arithmetic of DCGAN training and nothing else. The trainer calls it per minibatch.

Losses (Radford et al. 2016; the release): D minimizes BCE(D(real), 1) + BCE(D(fake), 0), G minimizes BCE(D(fake), 1),
both on logits. Real and fake images pass through D separately, so each is normalized by its own batch. With several
processes each takes its share of the batch, and the gradients are averaged before the update.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.norms import SpectralNorm, power_iterate
from evalkit.gan.recipes import Recipe
from evalkit.runtime import ALONE, Ranks


def make_optimizer(network: Generator | Discriminator, recipe: Recipe) -> Adam:
    """Adam with coupled L2: l2 x parameter is added to the gradient before Adam's moments [release]."""
    return Adam(
        network.parameters(),
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.adam_eps,
        weight_decay=recipe.l2,
        fused=True,
    )


def discriminator_loss(real: Tensor, fake: Tensor, recipe: Recipe) -> Tensor:
    """The loss of D, from its logits (N,) on real and on fake images."""
    if recipe.loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, recipe: Recipe) -> Tensor:
    """The loss of G, from D's logits (N,) on its images."""
    return -fake.mean() if recipe.loss == "hinge" else F.softplus(-fake).mean()


def discriminator_step(
    generator: Generator,
    discriminator: Discriminator,
    optimizer: Optimizer,
    real: Tensor,
    z: Tensor,
    *,
    classes: Tensor | None = None,
    noise: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Tensor, Tensor]:
    """One update of D on images `real` (N, C, H, W) and on G's from `z` (N, Z), both with `noise` (2, N, C, H, W).

    Returns:
        The loss before the update, and the mean probability D gave to real and to fake images; scalars on the device.
    """
    with torch.no_grad():
        fake = generator(z, classes)
    if noise is not None:
        real, fake = real + noise[0], fake + noise[1]
    real_logits = discriminator(real, classes).float()
    fake_logits = discriminator(fake, classes).float()
    loss = discriminator_loss(real_logits, fake_logits, discriminator.recipe)
    _update(optimizer, loss, ranks)
    return loss.detach(), real_logits.detach().sigmoid().mean(), fake_logits.detach().sigmoid().mean()


def generator_step(
    generator: Generator,
    discriminator: Discriminator,
    optimizer: Optimizer,
    z: Tensor,
    *,
    classes: Tensor | None = None,
    noise: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """One update of G from `z` (N, Z), whose images D sees with `noise` (1, N, C, H, W); D's weights do not change.

    Returns:
        The loss before the update, a scalar.
    """
    discriminator.requires_grad_(False)
    try:
        fake = generator(z, classes)
        logits = discriminator(fake if noise is None else fake + noise[0], classes)
        loss = generator_loss(logits.float(), generator.recipe)
        _update(optimizer, loss, ranks)
    finally:
        discriminator.requires_grad_(True)
    return loss.detach()


def _update(optimizer: Optimizer, loss: Tensor, ranks: Ranks) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    ranks.average([parameter.grad for parameter in optimizer.param_groups[0]["params"]])
    optimizer.step()


@torch.no_grad()
def average_step(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Moves the averaged network's weights towards the network's: a <- decay a + (1 - decay) w.

    Running statistics are copied from the network; singular vectors are the average's own.
    """
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for ours, source in zip(average.modules(), network.modules(), strict=True):
        if not isinstance(ours, SpectralNorm):
            for buffer, value in zip(ours.buffers(recurse=False), source.buffers(recurse=False), strict=True):
                buffer.copy_(value)
    power_iterate(average)
