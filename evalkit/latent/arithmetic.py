"""arithmetic and turn: sums of z that mean something (Radford et al. 2016, sections 6.3.2 and 6.3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.latent.finding import Finding, Picture
from evalkit.latent.gan import FrozenGAN
from evalkit.latent.pictures import Row, captioned, png

_NEIGHBOURS = 8  # [paper, figure 7]
NOISE = 0.25  # U(-0.25, 0.25) is added for the neighbours [paper, figure 7]


@dataclass(frozen=True)
class Concept:
    """Some z that share a look (three in the paper), which enters the sum as their mean, added or taken away."""

    z: Tensor
    sign: int = 1


def arithmetic(gan: FrozenGAN, concepts: Sequence[Concept], *, noise: float = NOISE, seed: int = 0) -> Finding:
    """The picture of the signed sum of the concepts' mean z, with eight neighbours, and the same sum of pixels.

    The paper's example: smiling woman - neutral woman + neutral man. The result is the middle of nine.

    Raises:
        EvalkitError: fewer than two concepts: there is nothing to add.
    """
    if len(concepts) < 2:
        raise EvalkitError(f"arithmetic takes two concepts or more, found {len(concepts)}; give --plus and --minus")
    means = torch.stack([concept.z.mean(0) for concept in concepts]).to(gan.device)
    result = signed_sum(concepts).to(gan.device)
    nine = neighbours(result, noise=noise, seed=seed)
    mean_pictures, nine_pictures = gan.pictures(means), gan.pictures(nine)
    groups = [gan.pictures(concept.z.to(gan.device)) for concept in concepts]
    rows = [
        Row(f"{'+-'[concept.sign < 0]} these, then the picture of their mean z", np.concatenate([group, mean[None]]))
        for concept, group, mean in zip(concepts, groups, mean_pictures, strict=True)
    ]
    control = pixel_sum(groups, [concept.sign for concept in concepts])
    titles = ("the sum of z, in the middle of its neighbours", "", "")
    rows += [Row(title, nine_pictures[3 * i :][:3]) for i, title in enumerate(titles)]
    rows += [Row("control: the same sum of pixels", control[None])]
    return Finding(
        "arithmetic",
        {
            "signs": [concept.sign for concept in concepts],
            "sizes": [len(concept.z) for concept in concepts],
            "noise": noise,
            "seed": seed,
        },
        {"arithmetic.png": Picture("vector arithmetic, and the same sum of pixels", png(captioned(rows)))},
        figures={"length_of_result": float(result.norm()), "mean_length_of_concepts": float(means.norm(dim=1).mean())},
        arrays={"z": nine.cpu().numpy(), "concepts": torch.cat([concept.z for concept in concepts]).cpu().numpy()},
    )


def signed_sum(concepts: Sequence[Concept]) -> Tensor:
    """The sum of the concepts' mean z with their signs, (Z,)."""
    return torch.stack([concept.sign * concept.z.mean(0) for concept in concepts]).sum(0)


def neighbours(z: Tensor, *, noise: float, seed: int) -> Tensor:
    """Nine z (9, Z): `z` itself in the middle, eight with uniform noise from -noise to noise around it."""
    random = torch.Generator().manual_seed(seed)
    offsets = torch.empty(_NEIGHBOURS, len(z)).uniform_(-noise, noise, generator=random).to(z)
    return torch.cat([z + offsets[:4], z[None], z + offsets[4:]])


def pixel_sum(groups: Sequence[np.ndarray], signs: Sequence[int]) -> np.ndarray:
    """The signed sum of the groups' mean pictures, uint8 (H, W, C); what leaves 0 to 255 is cut off."""
    total = sum(sign * group.mean(0) for sign, group in zip(signs, groups, strict=True))
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)


def turn(gan: FrozenGAN, start: Tensor, end: Tensor, *, onto: Tensor, steps: int = 9, reach: float = 1.0) -> Finding:
    """Moves the z `onto` (n, Z) along the turn vector: mean of `end` minus mean of `start`, z that differ in one way.

    The paper averages four faces looking left and four looking right. Every row goes evenly from -reach to reach
    times the vector; with an odd number of steps its z itself is in the middle.
    """
    vector = (end.mean(0) - start.mean(0)).to(gan.device)
    shares = torch.linspace(-reach, reach, steps, device=gan.device)
    moved = onto.to(gan.device)[:, None] + shares[:, None] * vector
    pictures = gan.pictures(moved.flatten(0, 1)).reshape(len(onto), steps, gan.recipe.size, gan.recipe.size, -1)
    rows = [Row("from these", gan.pictures(start.to(gan.device))), Row("to these", gan.pictures(end.to(gan.device)))]
    rows += [Row(f"{-reach:g} to {reach:g} turns" if i == 0 else "", line) for i, line in enumerate(pictures)]
    return Finding(
        "turn",
        {"steps": steps, "reach": reach},
        {"turn.png": Picture("samples moved along a turn vector", png(captioned(rows)))},
        figures={"length_of_vector": float(vector.norm())},
        arrays={
            "z": moved.flatten(0, 1).cpu().numpy(),
            "vector": vector.cpu().numpy(),
            "start": start.cpu().numpy(),
            "end": end.cpu().numpy(),
        },
    )
