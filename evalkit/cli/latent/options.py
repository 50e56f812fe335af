"""What the commands of `evalkit latent` share: which GAN, which z, where the finding goes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import Command, device_option, say
from evalkit.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.latent.experiment import ExperimentResult
    from evalkit.latent.model import FrozenGAN

Z_HELP = "Numbers on the contact sheet (3,17,40-42), or a .npy, .json or .csv file of z"


@dataclass(frozen=True)
class Opened:
    """The GAN that a command looks into, where it was found, and the contact sheet that --sheet names."""

    gan: FrozenGAN
    workspace: Workspace
    sheet: Path | None

    def place(self, verb: str) -> Path:
        """Where a command's finding goes unless told otherwise."""
        return self.workspace.path_of("finding", f"{self.gan.name.replace(':', '-')}--{verb}")

    def z(self, text: str) -> Tensor:
        """The z that a text names: numbers on a contact sheet, or a file."""
        from evalkit.latent.vectors import read_vectors

        return read_vectors(text, z_dim=self.gan.recipe.z_dim, sheet=self.sheet or self.place("sample"))

    def z_or_random(self, text: str | None, *, count: int, seed: int) -> Tensor:
        """The z that a text names, or `count` random ones where there is no text."""
        return self.z(text) if text else self.gan.draw(count, seed=seed)


def latent_command(body: Callable[..., ExperimentResult]) -> Command:
    """--run, --class, --device and --out: opens the GAN for `body`, saves the finding that it returns.

    `body` takes an Opened, then its own options.
    """

    @gan_options
    @click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder to write [default: latent/RUN@UPDATES--COMMAND in the workspace].",
    )
    @click.pass_obj
    @functools.wraps(body)
    def command(
        workspace: Workspace,
        run: str,
        label: int | None,
        device: str,
        out: Path | None,
        sheet: Path | None = None,
        **options: Any,
    ) -> None:
        from evalkit.latent.experiment import save

        found = Opened(named_gan(workspace, run, label, device), workspace, sheet)
        finding = body(found, **options)
        place = save(finding, found.gan, out or found.place(finding.command))
        for name, value in finding.figures.items():
            say(f"{name}: {value:.4g}")
        click.echo(place)

    return command


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


def named_gan(workspace: Workspace, run: str, label: int | None, device: str) -> FrozenGAN:
    """The GAN that the options name; says which it took."""
    from evalkit.latent.model import open_gan

    gan = open_gan(run, workspace, label=label, device=device)
    say(f"run: {gan.name}, {gan.made_from['weights']}")
    return gan


def z_options(*, count: int, least: int = 1) -> Callable[[Command], Command]:
    """--z (the parameter `text`) and --count of random z without it, by default `count`, at least `least`."""

    def decorated(command: Command) -> Command:
        random = click.IntRange(min=least)
        command = click.option("--count", type=random, default=count, show_default=True, help="Random z, without --z.")(
            command
        )
        return click.option("--z", "text", metavar="Z", help=f"{Z_HELP} [default: random ones].")(command)

    return decorated


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
