"""evalkit latent sample and walk."""

from typing import TYPE_CHECKING

import click

from evalkit.cli.latent_options import Opened, latent_command, seed_option, sheet_option, z_options

if TYPE_CHECKING:
    from evalkit.latent.finding import Finding


@click.command("sample")
@click.option("--count", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Samples.")
@click.option("--columns", type=click.IntRange(min=1), default=10, show_default=True, help="Samples in a line.")
@click.option(
    "--by-score/--as-drawn", default=True, show_default=True, help="Number from D's most to its least real, or not."
)
@click.option(
    "--truncate",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Draw every entry of z from the part of its law within +-TRUNCATE; 0: from all of it.",
)
@seed_option("z")
@latent_command
def sample_command(
    opened: Opened,
    count: int,
    columns: int,
    by_score: bool,
    truncate: float,
    seed: int,
) -> "Finding":
    """Draw random samples: a grid, and a contact sheet whose numbers the other commands take.

    \b
    Example:
      evalkit latent sample
      evalkit latent sample --run imagenet32@800 --count 400 --columns 20
    """
    from evalkit.latent.sample import sample

    return sample(opened.gan, count=count, columns=columns, seed=seed, by_score=by_score, truncate=truncate)


@click.command("walk")
@z_options(count=9, least=2)
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Steps from a z to the next.")
@click.option(
    "--path",
    type=click.Choice(["straight", "spherical"]),
    default="straight",
    show_default=True,
    help="A line, or an arc whose angle grows evenly.",
)
@click.option("--loop", is_flag=True, help="Go back to the first z, and write the walk as a looped GIF, too.")
@seed_option("random z, and of the samples that steps are compared with")
@sheet_option
@latent_command
def walk_command(
    opened: Opened,
    text: str | None,
    count: int,
    steps: int,
    path: str,
    loop: bool,
    seed: int,
) -> "Finding":
    """Walk from z to z, and measure how even the way is in pixels and in D's features.

    \b
    Example:
      evalkit latent walk
      evalkit latent walk --z 3,17,40 --path spherical --loop
    """
    from evalkit.latent.walk import walk

    z = opened.z_or_random(text, count=count, seed=seed)
    return walk(opened.gan, z, steps=steps, path=path, loop=loop, seed=seed)  # type: ignore[arg-type]
