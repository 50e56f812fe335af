"""sample: images of random z on a numbered contact sheet, from which other experiments take their z by number.

walk: images along a path between z, and how even the way is (Radford et al. 2016, section 6.1, figure 4).

arithmetic and turn: sums of z that mean something (Radford et al. 2016, sections 6.3.2 and 6.3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.gan.monitor import image_grid
from evalkit.latent.experiment import ExperimentResult, RenderedImage, Row, captioned, enlarged, gif, png, sheet
from evalkit.latent.model import FrozenDiscriminator, FrozenGAN


def sample(
    gan: FrozenGAN, *, count: int = 100, columns: int = 10, seed: int = 0, by_score: bool = True, truncate: float = 0.0
) -> ExperimentResult:
    """`count` samples as a grid and as a numbered contact sheet, with z and D's score of each.

    Args:
        by_score: numbered from D's most to its least real; else in the order drawn. The release's loader sorts, too.
        truncate: > 0: each entry of z is drawn from the part of its law within -truncate to truncate.
    """
    z = truncated(gan, count, truncate=truncate, seed=seed) if truncate else gan.draw(count, seed=seed)
    images = gan.images(z)
    scores = FrozenDiscriminator(gan).scores(images)
    order = np.argsort(-scores, kind="stable") if by_score else np.arange(count)
    images, scores = images[order], scores[order]
    how = ("the most real first, by D" if by_score else "as drawn") + (f", |z| <= {truncate:g}" if truncate else "")
    grid = enlarged(image_grid(images, -(-count // columns)), side=0)
    return ExperimentResult(
        "sample",
        {"count": count, "seed": seed, "by_score": by_score, "truncate": truncate},
        {
            "sheet.png": RenderedImage(f"samples by number, {how}", png(sheet(images, columns=columns))),
            "grid.png": RenderedImage(f"{count} samples, {how}", png(grid)),
        },
        figures={"score_mean": float(scores.mean()), "score_std": float(scores.std())},
        tables={"samples": pd.DataFrame({"number": np.arange(count), "drawn": order, "score": scores})},
        arrays={"z": z.cpu().numpy()[order]},
    )


def truncated(gan: FrozenGAN, count: int, *, truncate: float, seed: int) -> Tensor:
    """z (count, z_length) by the recipe's law given that every entry lies within -truncate to truncate.

    Raises:
        EvalkitError: a bound at which nothing is left, or nothing is cut off.
    """
    if gan.recipe.z_distribution == "uniform":
        if not 0 < truncate <= 1:
            raise EvalkitError(
                f"truncate {truncate:g}: this generator's z lie in -1 to 1, expected more than 0 up to 1"
            )
        return gan.draw(count, seed=seed) * truncate
    if truncate <= 0:
        raise EvalkitError(f"truncate {truncate:g}: expected more than 0, such as 1, in standard deviations")
    z = torch.empty(count, gan.recipe.z_dim)
    random = torch.Generator().manual_seed(seed)
    return torch.nn.init.trunc_normal_(z, a=-truncate, b=truncate, generator=random).to(gan.device)


Path = Literal["straight", "spherical"]
PATHS: tuple[Path, ...] = ("straight", "spherical")
_PAIRS = 64  # pairs of random samples whose distance stands beside the steps'


def between(a: Tensor, b: Tensor, t: float, *, path: Path = "straight") -> Tensor:
    """The z at `t` (0: a, exactly; 1: b, exactly) on the straight line, or on the arc whose angle grows evenly.

    The arc is undefined between opposite and needless between parallel z; the line stands for both.
    """
    if path == "straight":
        return torch.lerp(a, b, t)
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.arccos(cosine.clamp(-1, 1).double())
    if torch.sin(angle) < 1e-4:
        return torch.lerp(a, b, t)
    weights = torch.sin(torch.stack([(1 - t) * angle, t * angle])) / torch.sin(angle)
    return weights[0].to(a.dtype) * a + weights[1].to(a.dtype) * b


def path_through(z: Tensor, *, steps: int, path: Path = "straight") -> Tensor:
    """z ((n - 1) x steps + 1, Z): `steps` even steps from each z to the next, each z itself exactly once."""
    legs = [between(a, b, i / steps, path=path) for a, b in zip(z, z[1:], strict=False) for i in range(steps)]
    return torch.stack([*legs, z[-1]])


def walk(
    gan: FrozenGAN, z: Tensor, *, steps: int = 10, path: Path = "straight", loop: bool = False, seed: int = 0
) -> ExperimentResult:
    """The images on the way through `z` (n, Z), n >= 2, and the distance between steps and between random samples.

    The paper shows the ways among 9 random z. Pixel distance: root mean square difference, of 1; feature distance:
    Euclidean, of D's features.

    Args:
        loop: goes back to the first z, and adds the walk as a looped GIF.
        seed: of the random samples compared with.

    Raises:
        EvalkitError: fewer than two z.
    """
    if len(z) < 2:
        raise EvalkitError(f"a walk takes two z or more, found {len(z)}; give more numbers or a larger --count")
    corners = torch.cat([z, z[:1]]) if loop else z
    way = path_through(corners.to(gan.device), steps=steps, path=path)
    images, random = gan.images(way), gan.images(gan.draw(2 * _PAIRS, seed=seed))
    critic = FrozenDiscriminator(gan)
    table = pd.DataFrame({"step": np.arange(1, len(way)), "leg": np.arange(len(way) - 1) // steps})
    pairs = distances(critic, random[:_PAIRS], random[_PAIRS:])
    table = table.assign(**distances(critic, images[:-1], images[1:]))
    legs = [Row(f"{k} to {(k + 1) % len(z)}", images[k * steps : (k + 1) * steps + 1]) for k in range(len(corners) - 1)]
    shown = {"walk.png": RenderedImage(f"a {path} walk through {len(z)} z, a leg a line", png(captioned(legs)))}
    if loop:
        shown["walk.gif"] = RenderedImage(f"a {path} walk through {len(z)} z and back", gif(images[:-1]))
    return ExperimentResult(
        "walk",
        {"steps": steps, "path": path, "loop": loop, "seed": seed, "pairs": _PAIRS},
        shown,
        figures=_smoothness(table, pairs),
        tables={"steps": table},
        arrays={"z": corners.cpu().numpy()},
    )


def distances(critic: FrozenDiscriminator, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """The distance of each image of `first` to the one at its place in `second`, in pixels and in features."""
    pixels = (first.astype(np.float32) - second) / 255
    features = critic.features(first) - critic.features(second)
    return {
        "pixel_distance": np.sqrt((pixels**2).mean((1, 2, 3))),
        "feature_distance": np.sqrt((features**2).sum(1)),
    }


def _smoothness(steps: pd.DataFrame, pairs: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over steps and over random pairs; `largest` is the largest step: near the mean on an even way."""
    found: dict[str, float] = {}
    for name, random in pairs.items():
        step = steps[name]
        found |= {
            f"{name}_of_a_step": float(step.mean()),
            f"{name}_of_the_largest_step": float(step.max()),
            f"{name}_of_random_samples": float(random.mean()),
            f"{name}_of_a_step_relative": float(step.mean() / random.mean()),
        }
    return found


_NEIGHBOURS = 8  # [paper, figure 7]
NOISE = 0.25  # U(-0.25, 0.25) is added for the neighbours [paper, figure 7]


@dataclass(frozen=True)
class Concept:
    """Some z that share a look (three in the paper), which enters the sum as their mean, added or taken away."""

    z: Tensor
    sign: int = 1


def arithmetic(gan: FrozenGAN, concepts: Sequence[Concept], *, noise: float = NOISE, seed: int = 0) -> ExperimentResult:
    """The image of the signed sum of the concepts' mean z, with eight neighbours, and the same sum of pixels.

    The paper's example: smiling woman - neutral woman + neutral man. The result is the middle of nine.

    Raises:
        EvalkitError: fewer than two concepts: there is nothing to add.
    """
    if len(concepts) < 2:
        raise EvalkitError(f"arithmetic takes two concepts or more, found {len(concepts)}; give --plus and --minus")
    means = torch.stack([concept.z.mean(0) for concept in concepts]).to(gan.device)
    result = signed_sum(concepts).to(gan.device)
    nine = neighbours(result, noise=noise, seed=seed)
    mean_images, nine_images = gan.images(means), gan.images(nine)
    groups = [gan.images(concept.z.to(gan.device)) for concept in concepts]
    rows = [
        Row(f"{'+-'[concept.sign < 0]} these, then the image of their mean z", np.concatenate([group, mean[None]]))
        for concept, group, mean in zip(concepts, groups, mean_images, strict=True)
    ]
    control = pixel_sum(groups, [concept.sign for concept in concepts])
    titles = ("the sum of z, in the middle of its neighbours", "", "")
    rows += [Row(title, nine_images[3 * i :][:3]) for i, title in enumerate(titles)]
    rows += [Row("control: the same sum of pixels", control[None])]
    return ExperimentResult(
        "arithmetic",
        {
            "signs": [concept.sign for concept in concepts],
            "sizes": [len(concept.z) for concept in concepts],
            "noise": noise,
            "seed": seed,
        },
        {"arithmetic.png": RenderedImage("vector arithmetic, and the same sum of pixels", png(captioned(rows)))},
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
    """The signed sum of the groups' mean images, uint8 (H, W, C); what leaves 0 to 255 is cut off."""
    total = sum(sign * group.mean(0) for sign, group in zip(signs, groups, strict=True))
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)


def turn(
    gan: FrozenGAN, start: Tensor, end: Tensor, *, onto: Tensor, steps: int = 9, reach: float = 1.0
) -> ExperimentResult:
    """Moves the z `onto` (n, Z) along the turn vector: mean of `end` minus mean of `start`, z that differ in one way.

    The paper averages four faces looking left and four looking right. Every row goes evenly from -reach to reach
    times the vector; with an odd number of steps its z itself is in the middle.
    """
    vector = (end.mean(0) - start.mean(0)).to(gan.device)
    shares = torch.linspace(-reach, reach, steps, device=gan.device)
    moved = onto.to(gan.device)[:, None] + shares[:, None] * vector
    images = gan.images(moved.flatten(0, 1)).reshape(len(onto), steps, gan.recipe.size, gan.recipe.size, -1)
    rows = [Row("from these", gan.images(start.to(gan.device))), Row("to these", gan.images(end.to(gan.device)))]
    rows += [Row(f"{-reach:g} to {reach:g} turns" if i == 0 else "", line) for i, line in enumerate(images)]
    return ExperimentResult(
        "turn",
        {"steps": steps, "reach": reach},
        {"turn.png": RenderedImage("samples moved along a turn vector", png(captioned(rows)))},
        figures={"length_of_vector": float(vector.norm())},
        arrays={
            "z": moved.flatten(0, 1).cpu().numpy(),
            "vector": vector.cpu().numpy(),
            "start": start.cpu().numpy(),
            "end": end.cpu().numpy(),
        },
    )
