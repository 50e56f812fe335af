"""sample: pictures of random z on a numbered contact sheet, from which other experiments take their z by number."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.gan.monitor import picture_grid
from evalkit.latent.critic import Critic
from evalkit.latent.finding import Finding, Picture
from evalkit.latent.gan import FrozenGAN
from evalkit.latent.pictures import enlarged, png, sheet


def sample(
    gan: FrozenGAN, *, count: int = 100, columns: int = 10, seed: int = 0, by_score: bool = True, truncate: float = 0.0
) -> Finding:
    """`count` samples as a grid and as a numbered contact sheet, with z and D's score of each.

    Args:
        by_score: numbered from D's most to its least real; else in the order drawn. The release's loader sorts, too.
        truncate: > 0: each entry of z is drawn from the part of its law within -truncate to truncate.
    """
    z = truncated(gan, count, truncate=truncate, seed=seed) if truncate else gan.draw(count, seed=seed)
    pictures = gan.pictures(z)
    scores = Critic(gan).scores(pictures)
    order = np.argsort(-scores, kind="stable") if by_score else np.arange(count)
    pictures, scores = pictures[order], scores[order]
    how = ("the most real first, by D" if by_score else "as drawn") + (f", |z| <= {truncate:g}" if truncate else "")
    grid = enlarged(picture_grid(pictures, -(-count // columns)), side=0)
    return Finding(
        "sample",
        {"count": count, "seed": seed, "by_score": by_score, "truncate": truncate},
        {
            "sheet.png": Picture(f"samples by number, {how}", png(sheet(pictures, columns=columns))),
            "grid.png": Picture(f"{count} samples, {how}", png(grid)),
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
    if gan.recipe.z_law == "uniform":
        if not 0 < truncate <= 1:
            raise EvalkitError(
                f"truncate {truncate:g}: this generator's z lie in -1 to 1, expected more than 0 up to 1"
            )
        return gan.draw(count, seed=seed) * truncate
    if truncate <= 0:
        raise EvalkitError(f"truncate {truncate:g}: expected more than 0, such as 1, in standard deviations")
    z = torch.empty(count, gan.recipe.z_length)
    random = torch.Generator().manual_seed(seed)
    return torch.nn.init.trunc_normal_(z, a=-truncate, b=truncate, generator=random).to(gan.device)
