"""One update of each network: the arithmetic of DCGAN training and nothing else.

Losses (Radford et al. 2016; the release): D minimises BCE(D(real), 1) + BCE(D(fake), 0), G minimises BCE(D(fake), 1),
both on logits. Real and fake pictures pass D separately, so each is normalised by its own batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.recipes import Recipe


def make_optimiser(network: Generator | Discriminator, recipe: Recipe) -> Adam:
    """Adam with L2 coupled: l2 x parameter joins the gradient before Adam's moments [release]."""
    return Adam(
        network.parameters(),
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.adam_eps,
        weight_decay=recipe.l2,
        fused=True,
    )


def discriminator_step(
    generator: Generator,
    discriminator: Discriminator,
    optimiser: Optimizer,
    real: Tensor,
    z: Tensor,
    *,
    classes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One update of D on pictures `real` (N, C, H, W) and on G's from `z` (N, Z).

    Returns:
        The loss before the update, and the mean probability D gave to real and to fake; scalars, on the device.
    """
    with torch.no_grad():
        fake = generator(z, classes)
    real_logits = discriminator(real, classes).float()
    fake_logits = discriminator(fake, classes).float()
    loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach(), real_logits.detach().sigmoid().mean(), fake_logits.detach().sigmoid().mean()


def generator_step(
    generator: Generator,
    discriminator: Discriminator,
    optimiser: Optimizer,
    z: Tensor,
    *,
    classes: Tensor | None = None,
) -> Tensor:
    """One update of G from `z` (N, Z); D's weights get no gradient. Returns the loss before the update, a scalar."""
    discriminator.requires_grad_(False)
    try:
        loss = F.softplus(-discriminator(generator(z, classes), classes).float()).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    finally:
        discriminator.requires_grad_(True)
    return loss.detach()
