"""evalkit latent sample and walk."""

from pathlib import Path

import click

from evalkit.cli.latent_options import (
    Z_HELP,
    gan_options,
    opened,
    out_option,
    picked_or_drawn,
    seed_option,
    sheet_option,
    write,
)
from evalkit.workspace import Workspace


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
@gan_options
@out_option
@click.pass_obj
def sample_command(
    workspace: Workspace,
    count: int,
    columns: int,
    by_score: bool,
    truncate: float,
    seed: int,
    run: str,
    label: int | None,
    device: str,
    out: Path | None,
) -> None:
    """Draw random samples: a grid, and a contact sheet whose numbers the other commands take.

    \b
    Example:
      evalkit latent sample
      evalkit latent sample --run imagenet32@800 --count 400 --columns 20
    """
    from evalkit.latent.sample import sample

    gan = opened(workspace, run, label, device)
    found = sample(gan, count=count, columns=columns, seed=seed, by_score=by_score, truncate=truncate)
    write(workspace, gan, found, out)


@click.command("walk")
@click.option("--z", "text", metavar="Z", help=f"{Z_HELP} [default: random ones].")
@click.option("--count", type=click.IntRange(min=2), default=9, show_default=True, help="Random z, without --z.")
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
@gan_options
@out_option
@click.pass_obj
def walk_command(
    workspace: Workspace,
    text: str | None,
    count: int,
    steps: int,
    path: str,
    loop: bool,
    seed: int,
    sheet: Path | None,
    run: str,
    label: int | None,
    device: str,
    out: Path | None,
) -> None:
    """Walk from z to z, and measure how even the way is in pixels and in D's features.

    \b
    Example:
      evalkit latent walk
      evalkit latent walk --z 3,17,40 --path spherical --loop
    """
    from evalkit.latent.walk import walk

    gan = opened(workspace, run, label, device)
    z = picked_or_drawn(workspace, gan, text, sheet, count=count, seed=seed)
    found = walk(gan, z, steps=steps, path=path, loop=loop, seed=seed)  # type: ignore[arg-type]
    write(workspace, gan, found, out)
