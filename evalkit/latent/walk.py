"""walk: pictures along a path between z, and how even the way is (Radford et al. 2016, section 6.1, figure 4)."""

from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.latent.critic import Critic
from evalkit.latent.finding import Finding, Picture
from evalkit.latent.gan import FrozenGAN
from evalkit.latent.pictures import Row, captioned, gif, png

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
) -> Finding:
    """The pictures on the way through `z` (n, Z), n >= 2, and the distance between steps and between random samples.

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
    pictures, random = gan.pictures(way), gan.pictures(gan.draw(2 * _PAIRS, seed=seed))
    critic = Critic(gan)
    table = pd.DataFrame({"step": np.arange(1, len(way)), "leg": np.arange(len(way) - 1) // steps})
    pairs = distances(critic, random[:_PAIRS], random[_PAIRS:])
    table = table.assign(**distances(critic, pictures[:-1], pictures[1:]))
    legs = [
        Row(f"{k} to {(k + 1) % len(z)}", pictures[k * steps : (k + 1) * steps + 1]) for k in range(len(corners) - 1)
    ]
    shown = {"walk.png": Picture(f"a {path} walk through {len(z)} z, a leg a line", png(captioned(legs)))}
    if loop:
        shown["walk.gif"] = Picture(f"a {path} walk through {len(z)} z and back", gif(pictures[:-1]))
    return Finding(
        "walk",
        {"steps": steps, "path": path, "loop": loop, "seed": seed, "pairs": _PAIRS},
        shown,
        figures=_smoothness(table, pairs),
        tables={"steps": table},
        arrays={"z": corners.cpu().numpy()},
    )


def distances(critic: Critic, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """The distance of each picture of `first` to the one at its place in `second`, in pixels and in features."""
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
