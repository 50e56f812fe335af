"""What the commands of `evalkit latent` share: which GAN, which z, where the result goes."""

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

    from evalkit.latent import ExperimentResult, FrozenGAN

Z_HELP = "Numbers on the contact sheet (3,17,40-42), or a .npy, .json or .csv file of z"


@dataclass(frozen=True)
class Opened:
    """The GAN that a command looks into, its workspace, and the contact sheet that --sheet names."""

    gan: FrozenGAN
    workspace: Workspace
    sheet: Path | None

    def default_folder(self, command: str) -> Path:
        """Where the result of a command goes by default."""
        return self.workspace.path_of("experiment", f"{self.gan.name.replace(':', '-')}--{command}")

    def z(self, text: str) -> Tensor:
        """The z that a text names: numbers on a contact sheet, or a file."""
        from evalkit.latent import read_z

        return read_z(text, z_dim=self.gan.recipe.z_dim, sheet=self.sheet or self.default_folder("sample"))

    def z_or_random(self, text: str | None, *, count: int, seed: int) -> Tensor:
        """The z that a text names, or `count` random ones without a text."""
        return self.z(text) if text else self.gan.sample_z(count, seed=seed)


def latent_command(body: Callable[..., ExperimentResult]) -> Command:
    """--run, --class, --device and --out: opens the GAN for `body`, saves the result that it returns.

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
        from evalkit import save_experiment

        opened = Opened(open_named_gan(workspace, run, label, device), workspace, sheet)
        result = body(opened, **options)
        folder = save_experiment(result, opened.gan, out or opened.default_folder(result.command))
        for name, value in result.measurements.items():
            say(f"{name}: {value:.4g}")
        click.echo(folder)

    return command


def gan_options(command: Command) -> Command:
    """--run, --class, --device"""
    command = device_option(command)
    command = click.option(
        "--class", "label", type=int, help="Class of the samples of a conditional generator [default: 0]."
    )(command)
    return click.option(
        "--run",
        default="latest",
        show_default=True,
        help="Run or checkpoint: name, NAME@UPDATES or path, or pretrained:NAME; latest: the latest run.",
    )(command)


def open_named_gan(workspace: Workspace, run: str, label: int | None, device: str) -> FrozenGAN:
    """The GAN that the options name; prints which one it is."""
    from evalkit import open_gan

    gan = open_gan(run, home=workspace, label=label, device=device)
    say(f"run: {gan.name}, {gan.made_from['weights']}")
    return gan


def z_options(*, count: int, minimum: int = 1) -> Callable[[Command], Command]:
    """--z (the parameter `text`) and --count of random z without it, by default `count`, at least `minimum`."""

    def decorated(command: Command) -> Command:
        random = click.IntRange(min=minimum)
        command = click.option(
            "--count", type=random, default=count, show_default=True, help="Number of random z, if no --z."
        )(command)
        return click.option("--z", "text", metavar="Z", help=f"{Z_HELP} [default: random ones].")(command)

    return decorated


def sheet_option(command: Command) -> Command:
    """--sheet"""
    return click.option(
        "--sheet",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder with the contact sheet that numbers refer to [default: that of `latent sample` for the run].",
    )(command)
