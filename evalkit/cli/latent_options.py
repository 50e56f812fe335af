"""What the commands of `evalkit latent` share: which GAN, which z, where the finding goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import device_option, say
from evalkit.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.latent.finding import Finding
    from evalkit.latent.gan import FrozenGAN

Command = Callable[..., Any]
Z_HELP = "Numbers on the contact sheet (3,17,40-42), or a .npy, .json or .csv file of z"


def gan_options(command: Command) -> Command:
    """--run, --class, --device"""
    command = device_option(command)
    command = click.option("--class", "label", type=int, help="Class that a conditional generator draws [default: 0].")(
        command
    )
    return click.option(
        "--run",
        default="latest",
        show_default=True,
        help="Run or checkpoint: name, NAME@UPDATES or path, or pretrained:NAME; latest: the latest run.",
    )(command)


def out_option(command: Command) -> Command:
    """--out"""
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder to write [default: latent/RUN@UPDATES--COMMAND in the workspace].",
    )(command)


def sheet_option(command: Command) -> Command:
    """--sheet"""
    return click.option(
        "--sheet",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder with the contact sheet that numbers refer to [default: what `latent sample` wrote for the run].",
    )(command)


def seed_option(what: str) -> Callable[[Command], Command]:
    """--seed, which decides `what`"""
    return click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help=f"Of {what}.")


def opened(workspace: Workspace, run: str, label: int | None, device: str) -> FrozenGAN:
    """The GAN that the options name; says which it took."""
    from evalkit.latent.opening import open_gan

    gan = open_gan(run, workspace, label=label, device=device)
    say(f"run: {gan.name}, {gan.made_from['weights']}")
    return gan


def picked(workspace: Workspace, gan: FrozenGAN, text: str, sheet: Path | None) -> Tensor:
    """The z that a text names: numbers on a contact sheet, or a file."""
    from evalkit.latent.vectors import read_vectors

    place = sheet or _place(workspace, gan, "sample")
    return read_vectors(text, z_length=gan.recipe.z_length, sheet=place)


def _place(workspace: Workspace, gan: FrozenGAN, verb: str) -> Path:
    return workspace.place("finding", f"{gan.name.replace(':', '-')}--{verb}")


def picked_or_drawn(
    workspace: Workspace, gan: FrozenGAN, text: str | None, sheet: Path | None, *, count: int, seed: int
) -> Tensor:
    """The z that a text names, or `count` random ones where there is no text."""
    return picked(workspace, gan, text, sheet) if text else gan.draw(count, seed=seed)


def write(workspace: Workspace, gan: FrozenGAN, finding: Finding, out: Path | None) -> None:
    """Saves a finding, and prints its figures and its folder."""
    from evalkit.latent.finding import save

    place = save(finding, gan, out or _place(workspace, gan, finding.verb))
    for name, value in finding.figures.items():
        say(f"{name}: {value:.4g}")
    click.echo(place)
