"""evalkit latent: the group of commands that look inside a trained GAN."""

import click

from evalkit.cli.latent.explore import explore_command
from evalkit.cli.latent.filters import filters_command, forget_command, nearest_command
from evalkit.cli.latent.samples import arithmetic_command, invert_command, sample_command, turn_command, walk_command


@click.group("latent")
def latent_group() -> None:
    """Look inside a trained GAN: its latent space and its filters.

    Every command takes any run or checkpoint (--run), by default the latest, and writes a folder with PNG images
    (GIF for looped walks), the z shown, the settings and the measurements. `sample` numbers its samples on a contact
    sheet; the other commands take z by these numbers, or from .npy, .json and .csv files.

    \b
    Example:
      evalkit latent sample
      evalkit latent walk --z 3,17,40 --loop
      evalkit latent arithmetic --plus 3,17,40 --minus 1,5,9 --plus 2,30,31
    """


for _command in (
    sample_command,
    walk_command,
    arithmetic_command,
    turn_command,
    invert_command,
    nearest_command,
    filters_command,
    forget_command,
    explore_command,
):
    latent_group.add_command(_command)
