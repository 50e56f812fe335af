"""Experiments on the latent space: random samples, walks between z, sums of z, and turns.

From a `FrozenGAN` and some z to an `ExperimentResult`. Radford et al. 2016, sections 6.1 (walks, figure 4), 6.3.2
(vector arithmetic, figure 7) and 6.3.3 (turns).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.gan.monitor import image_grid
from evalkit.latent.experiment import (
    ExperimentResult,
    RenderedImage,
    Row,
    captioned_rows,
    contact_sheet,
    enlarge,
    gif,
    png,
)
from evalkit.latent.model import FrozenDiscriminator, FrozenGAN, as_z
from evalkit.latent.settings import ArithmeticSettings, Path, SampleSettings, TurnSettings, WalkSettings

_PAIRS = 64  # pairs of random samples, whose distance is compared with the steps'
_NEIGHBORS = 8  # [paper, figure 7]


def sample_gan(gan: FrozenGAN, settings: SampleSettings = SampleSettings()) -> ExperimentResult:
    """Random samples as a grid and as a numbered contact sheet, with z and D's score of each.

    Sorted by D's score they are as in the release's loader; `truncate` > 0 samples each entry of z from the part of its
    distribution within -truncate to truncate.

    Raises:
        EvalkitError: a bound at which nothing is left of the distribution, or nothing is cut off.
    """
    count, seed, truncate = settings.count, settings.seed, settings.truncate
    z = sample_truncated_z(gan, count, truncate=truncate, seed=seed) if truncate else gan.sample_z(count, seed=seed)
    images = gan.images(z)
    scores = FrozenDiscriminator(gan).scores(images)
    order = np.argsort(-scores, kind="stable") if settings.by_score else np.arange(count)
    images, scores = images[order], scores[order]
    how = "the most real first, by D" if settings.by_score else "in random order"
    how += f", |z| <= {truncate:g}" if truncate else ""
    grid = enlarge(image_grid(images, -(-count // settings.columns)), side=0)
    return ExperimentResult(
        "sample",
        {"count": count, "seed": seed, "by_score": settings.by_score, "truncate": truncate},
        {
            "sheet.png": RenderedImage(
                f"samples by number, {how}", png(contact_sheet(images, columns=settings.columns))
            ),
            "grid.png": RenderedImage(f"{count} samples, {how}", png(grid)),
        },
        measurements={"score_mean": float(scores.mean()), "score_std": float(scores.std())},
        tables={"samples": pd.DataFrame({"number": np.arange(count), "drawn": order, "score": scores})},
        arrays={"z": z.cpu().numpy()[order]},
    )


def sample_truncated_z(gan: FrozenGAN, count: int, *, truncate: float, seed: int) -> Tensor:
    """z (count, z_dim) from the recipe's distribution, given that every entry lies within -truncate to truncate.

    Raises:
        EvalkitError: a bound at which nothing is left, or nothing is cut off.
    """
    if gan.recipe.z_distribution == "uniform":
        if not 0 < truncate <= 1:
            raise EvalkitError(
                f"truncate {truncate:g}: this generator's z lie in -1 to 1, expected more than 0 up to 1"
            )
        return gan.sample_z(count, seed=seed) * truncate
    if truncate <= 0:
        raise EvalkitError(f"truncate {truncate:g}: expected more than 0, such as 1, in standard deviations")
    z = torch.empty(count, gan.recipe.z_dim)
    random = torch.Generator().manual_seed(seed)
    return torch.nn.init.trunc_normal_(z, a=-truncate, b=truncate, generator=random).to(gan.device)


def latent_walk(gan: FrozenGAN, z: Tensor | np.ndarray, settings: WalkSettings = WalkSettings()) -> ExperimentResult:
    """The images on the path through `z` (n, z_dim), n >= 2, and the distances of steps and of random samples.

    The paper shows the paths between 9 random z. Pixel distance: root mean square difference, relative to 1; feature
    distance: Euclidean, of D's features.

    Raises:
        EvalkitError: fewer than two z.
    """
    z = as_z(gan, z)
    if len(z) < 2:
        raise EvalkitError(f"a walk needs at least two z, found {len(z)}; give more numbers or a larger --count")
    steps = settings.steps
    corners = torch.cat([z, z[:1]]) if settings.loop else z
    path = interpolate_path(corners, steps=steps, path=settings.path)
    images, random = gan.images(path), gan.images(gan.sample_z(2 * _PAIRS, seed=settings.seed))
    discriminator = FrozenDiscriminator(gan)
    table = pd.DataFrame({"step": np.arange(1, len(path)), "leg": np.arange(len(path) - 1) // steps})
    pairs = image_distances(discriminator, random[:_PAIRS], random[_PAIRS:])
    table = table.assign(**image_distances(discriminator, images[:-1], images[1:]))
    legs = [Row(f"{k} to {(k + 1) % len(z)}", images[k * steps : (k + 1) * steps + 1]) for k in range(len(corners) - 1)]
    title = f"a {settings.path} walk through {len(z)} z"
    shown = {"walk.png": RenderedImage(f"{title}, one leg per line", png(captioned_rows(legs)))}
    if settings.loop:
        shown["walk.gif"] = RenderedImage(f"{title} and back", gif(images[:-1]))
    return ExperimentResult(
        "walk",
        {"steps": steps, "path": settings.path, "loop": settings.loop, "seed": settings.seed, "pairs": _PAIRS},
        shown,
        measurements=_smoothness(table, pairs),
        tables={"steps": table},
        arrays={"z": corners.cpu().numpy()},
    )


def interpolate(a: Tensor, b: Tensor, t: float, *, path: Path = "straight") -> Tensor:
    """The z at `t` (0: exactly a; 1: exactly b) on the straight line, or on the arc whose angle grows evenly.

    The arc is undefined between opposite z and unnecessary between parallel ones; both get the line.
    """
    if path == "straight":
        return torch.lerp(a, b, t)
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.arccos(cosine.clamp(-1, 1).double())
    if torch.sin(angle) < 1e-4:
        return torch.lerp(a, b, t)
    weights = torch.sin(torch.stack([(1 - t) * angle, t * angle])) / torch.sin(angle)
    return weights[0].to(a.dtype) * a + weights[1].to(a.dtype) * b


def interpolate_path(z: Tensor, *, steps: int, path: Path = "straight") -> Tensor:
    """z ((n - 1) x steps + 1, Z): `steps` even steps from each z to the next, each z itself exactly once."""
    legs = [interpolate(a, b, i / steps, path=path) for a, b in zip(z, z[1:], strict=False) for i in range(steps)]
    return torch.stack([*legs, z[-1]])


def image_distances(discriminator: FrozenDiscriminator, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """The distance of each image of `first` to the image of `second` with the same index, in pixels and in features."""
    pixels = (first.astype(np.float32) - second) / 255
    features = discriminator.features(first) - discriminator.features(second)
    return {
        "pixel_distance": np.sqrt((pixels**2).mean((1, 2, 3))),
        "feature_distance": np.sqrt((features**2).sum(1)),
    }


def _smoothness(steps: pd.DataFrame, pairs: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over steps and over random pairs; the largest step is near the mean on an even path."""
    measurements: dict[str, float] = {}
    for name, random in pairs.items():
        step = steps[name]
        measurements |= {
            f"{name}_of_a_step": float(step.mean()),
            f"{name}_of_the_largest_step": float(step.max()),
            f"{name}_of_random_samples": float(random.mean()),
            f"{name}_of_a_step_relative": float(step.mean() / random.mean()),
        }
    return measurements


@dataclass(frozen=True)
class Concept:
    """Some z of images with a common look (three in the paper); their mean is added (sign 1) or subtracted (-1)."""

    z: Tensor
    sign: int = 1


def latent_arithmetic(
    gan: FrozenGAN, concepts: Sequence[Concept], settings: ArithmeticSettings = ArithmeticSettings()
) -> ExperimentResult:
    """The image of the signed sum of the concepts' mean z, with eight neighbors, and the same sum of pixels.

    The paper's example: smiling woman - neutral woman + neutral man. The result is the middle of nine images.

    Raises:
        EvalkitError: fewer than two concepts: there is nothing to add.
    """
    if len(concepts) < 2:
        raise EvalkitError(f"arithmetic needs at least two concepts, found {len(concepts)}; give --plus and --minus")
    concepts = [Concept(as_z(gan, concept.z), concept.sign) for concept in concepts]
    means, result = torch.stack([concept.z.mean(0) for concept in concepts]), signed_sum(concepts)
    nine = neighbors(result, noise=settings.noise, seed=settings.seed)
    groups = [gan.images(concept.z) for concept in concepts]
    signs, sizes = ([concept.sign for concept in concepts], [len(concept.z) for concept in concepts])
    return ExperimentResult(
        "arithmetic",
        {"signs": signs, "sizes": sizes, "noise": settings.noise, "seed": settings.seed},
        {
            "arithmetic.png": RenderedImage(
                "vector arithmetic, and the same sum of pixels",
                png(captioned_rows(_arithmetic_rows(signs, groups, gan.images(means), gan.images(nine)))),
            )
        },
        measurements={
            "length_of_result": float(result.norm()),
            "mean_length_of_concepts": float(means.norm(dim=1).mean()),
        },
        arrays={"z": nine.cpu().numpy(), "concepts": torch.cat([concept.z for concept in concepts]).cpu().numpy()},
    )


def _arithmetic_rows(
    signs: Sequence[int], groups: Sequence[np.ndarray], mean_images: np.ndarray, nine_images: np.ndarray
) -> list[Row]:
    rows = [
        Row(f"{'+-'[sign < 0]} these, then the image of their mean z", np.concatenate([group, mean[None]]))
        for sign, group, mean in zip(signs, groups, mean_images, strict=True)
    ]
    titles = ("the sum of z, in the middle of its neighbors", "", "")
    rows += [Row(title, nine_images[3 * i :][:3]) for i, title in enumerate(titles)]
    return [*rows, Row("control: the same sum of pixels", pixel_sum(groups, signs)[None])]


def signed_sum(concepts: Sequence[Concept]) -> Tensor:
    """The sum of the concepts' mean z with their signs, (Z,)."""
    return torch.stack([concept.sign * concept.z.mean(0) for concept in concepts]).sum(0)


def neighbors(z: Tensor, *, noise: float, seed: int) -> Tensor:
    """Nine z (9, Z): `z` itself in the middle, eight with uniform noise from -noise to noise around it."""
    random = torch.Generator().manual_seed(seed)
    offsets = torch.empty(_NEIGHBORS, len(z)).uniform_(-noise, noise, generator=random).to(z)
    return torch.cat([z + offsets[:4], z[None], z + offsets[4:]])


def pixel_sum(groups: Sequence[np.ndarray], signs: Sequence[int]) -> np.ndarray:
    """The signed sum of the groups' mean images, uint8 (H, W, C), clipped to 0 to 255."""
    total = sum(sign * group.mean(0) for sign, group in zip(signs, groups, strict=True))
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)


def latent_turn(
    gan: FrozenGAN,
    start: Tensor | np.ndarray,
    end: Tensor | np.ndarray,
    onto: Tensor | np.ndarray,
    settings: TurnSettings = TurnSettings(),
) -> ExperimentResult:
    """Moves the z `onto` (n, z_dim) along the turn vector: the mean of `end` minus the mean of `start`.

    `start` and `end` differ in one way: the paper averages four faces looking left and four looking right. Every row
    goes evenly from -reach to reach times the vector; with an odd number of steps its own z is in the middle.
    """
    start, end, onto = (as_z(gan, z) for z in (start, end, onto))
    steps, reach, vector = settings.steps, settings.reach, end.mean(0) - start.mean(0)
    shares = torch.linspace(-reach, reach, steps, device=gan.device)
    moved = onto[:, None] + shares[:, None] * vector
    images = gan.images(moved.flatten(0, 1)).reshape(len(onto), steps, gan.recipe.size, gan.recipe.size, -1)
    rows = [Row("from these", gan.images(start)), Row("to these", gan.images(end))]
    rows += [Row(f"{-reach:g} to {reach:g} turns" if i == 0 else "", line) for i, line in enumerate(images)]
    return ExperimentResult(
        "turn",
        {"steps": steps, "reach": reach},
        {"turn.png": RenderedImage("samples moved along a turn vector", png(captioned_rows(rows)))},
        measurements={"length_of_vector": float(vector.norm())},
        arrays={
            "z": moved.flatten(0, 1).cpu().numpy(),
            "vector": vector.cpu().numpy(),
            "start": start.cpu().numpy(),
            "end": end.cpu().numpy(),
        },
    )
