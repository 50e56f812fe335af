"""evalkit latent sample, walk, arithmetic, turn and invert: experiments on the latent space."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.latent.options import Z_HELP, Opened, latent_command, sheet_option, z_options
from evalkit.cli.options import settings_options
from evalkit.latent.settings import ArithmeticSettings, InvertSettings, SampleSettings, TurnSettings, WalkSettings

if TYPE_CHECKING:
    from evalkit.latent import ExperimentResult


@click.command("sample")
@settings_options(SampleSettings)
@latent_command
def sample_command(opened: Opened, **options: Any) -> "ExperimentResult":
    """Generate random samples: a grid, and a contact sheet whose numbers the other commands take.

    \b
    Example:
      evalkit latent sample
      evalkit latent sample --run imagenet32@800 --count 400 --columns 20
    """
    from evalkit import sample_gan

    return sample_gan(opened.gan, SampleSettings(**options))


@click.command("walk")
@z_options(count=9, minimum=2)
@settings_options(WalkSettings)
@sheet_option
@latent_command
def walk_command(opened: Opened, text: str | None, count: int, **options: Any) -> "ExperimentResult":
    """Walk from z to z, and measure how even the path is in pixels and in D's features.

    \b
    Example:
      evalkit latent walk
      evalkit latent walk --z 3,17,40 --path spherical --loop
    """
    from evalkit import latent_walk

    settings = WalkSettings(**options)
    return latent_walk(opened.gan, opened.z_or_random(text, count=count, seed=settings.seed), settings)


@click.command("arithmetic")
@click.option("--plus", multiple=True, metavar="Z", help=f"A concept to add: {Z_HELP}. Can be repeated.")
@click.option("--minus", multiple=True, metavar="Z", help=f"A concept to subtract: {Z_HELP}. Can be repeated.")
@settings_options(ArithmeticSettings)
@sheet_option
@latent_command
def arithmetic_command(
    opened: Opened, plus: tuple[str, ...], minus: tuple[str, ...], **options: Any
) -> "ExperimentResult":
    """Add and subtract concepts, each the mean of some z (three in the paper), beside the same sum of pixels.

    \b
    Example:
      evalkit latent arithmetic --plus 3,17,40 --minus 1,5,9 --plus 2,30,31
      evalkit latent arithmetic --plus smiling-woman.npy --minus woman.npy --plus man.npy
    """
    from evalkit import latent_arithmetic
    from evalkit.latent import Concept

    in_order = [(text, 1) for text in plus[:1]] + [(text, -1) for text in minus] + [(text, 1) for text in plus[1:]]
    concepts = [Concept(opened.z(text), sign) for text, sign in in_order]
    return latent_arithmetic(opened.gan, concepts, ArithmeticSettings(**options))


@click.command("turn")
@click.option("--start", required=True, metavar="Z", help=f"Samples of one kind, such as looking left: {Z_HELP}.")
@click.option("--end", required=True, metavar="Z", help=f"Samples of the other kind, such as looking right: {Z_HELP}.")
@click.option("--onto", metavar="Z", help=f"Samples to turn: {Z_HELP} [default: random ones].")
@click.option(
    "--count", type=click.IntRange(min=1), default=6, show_default=True, help="Number of random z, without --onto."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of random z.")
@settings_options(TurnSettings)
@sheet_option
@latent_command
def turn_command(
    opened: Opened, start: str, end: str, onto: str | None, count: int, seed: int, **options: Any
) -> "ExperimentResult":
    """Move samples along a turn vector: the mean z of some samples minus that of others.

    \b
    Example:
      evalkit latent turn --start 1,8,20,33 --end 2,9,14,61
    """
    from evalkit import latent_turn

    samples = opened.z_or_random(onto, count=count, seed=seed)
    return latent_turn(opened.gan, opened.z(start), opened.z(end), samples, TurnSettings(**options))


@click.command("invert")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@settings_options(InvertSettings)
@latent_command
def invert_command(opened: Opened, images: tuple[Path, ...], **options: Any) -> "ExperimentResult":
    """Find the z whose image is nearest to each of IMAGES, with the error that remains.

    The other commands take these z (z.npy in the printed folder).

    \b
    Example:
      evalkit latent invert cat.jpg dog.jpg
    """
    from evalkit import invert_images

    return invert_images(opened.gan, images, InvertSettings(**options))
