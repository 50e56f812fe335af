"""evalkit latent sample and walk.

evalkit latent arithmetic, turn, invert.
"""

from typing import TYPE_CHECKING

import click

from evalkit.cli.latent.options import Opened, latent_command, seed_option, sheet_option, z_options

if TYPE_CHECKING:
    from evalkit.latent.experiment import ExperimentResult
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.latent.options import Z_HELP

if TYPE_CHECKING:
    from evalkit.latent.experiment import ExperimentResult


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
) -> "ExperimentResult":
    """Draw random samples: a grid, and a contact sheet whose numbers the other commands take.

    \b
    Example:
      evalkit latent sample
      evalkit latent sample --run imagenet32@800 --count 400 --columns 20
    """
    from evalkit.latent.samples import sample

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
) -> "ExperimentResult":
    """Walk from z to z, and measure how even the way is in pixels and in D's features.

    \b
    Example:
      evalkit latent walk
      evalkit latent walk --z 3,17,40 --path spherical --loop
    """
    from evalkit.latent.samples import walk

    z = opened.z_or_random(text, count=count, seed=seed)
    return walk(opened.gan, z, steps=steps, path=path, loop=loop, seed=seed)  # type: ignore[arg-type]


@click.command("arithmetic")
@click.option("--plus", multiple=True, metavar="Z", help=f"A concept to add: {Z_HELP}. May be given again.")
@click.option("--minus", multiple=True, metavar="Z", help=f"A concept to take away: {Z_HELP}. May be given again.")
@click.option(
    "--noise",
    type=click.FloatRange(min=0),
    default=0.25,
    show_default=True,
    help="The eight neighbours are within +-NOISE of the result.",
)
@seed_option("the neighbours")
@sheet_option
@latent_command
def arithmetic_command(
    opened: Opened,
    plus: tuple[str, ...],
    minus: tuple[str, ...],
    noise: float,
    seed: int,
) -> "ExperimentResult":
    """Add and take away concepts, each the mean of some z (three in the paper); beside it the same sum of pixels.

    \b
    Example:
      evalkit latent arithmetic --plus 3,17,40 --minus 1,5,9 --plus 2,30,31
      evalkit latent arithmetic --plus smiling-woman.npy --minus woman.npy --plus man.npy
    """
    from evalkit.latent.samples import Concept, arithmetic

    concepts = [
        Concept(opened.z(text), sign) for texts, sign in ((plus[:1], 1), (minus, -1), (plus[1:], 1)) for text in texts
    ]
    return arithmetic(opened.gan, concepts, noise=noise, seed=seed)


@click.command("turn")
@click.option("--start", required=True, metavar="Z", help=f"Samples of one kind, such as looking left: {Z_HELP}.")
@click.option("--end", required=True, metavar="Z", help=f"Samples of the other kind, such as looking right: {Z_HELP}.")
@click.option("--onto", metavar="Z", help=f"Samples to turn: {Z_HELP} [default: random ones].")
@click.option("--count", type=click.IntRange(min=1), default=6, show_default=True, help="Random z, without --onto.")
@click.option("--steps", type=click.IntRange(min=2), default=9, show_default=True, help="Images of each sample.")
@click.option(
    "--reach", type=float, default=1.0, show_default=True, help="Turn vectors from the middle to an end of the row."
)
@seed_option("random z")
@sheet_option
@latent_command
def turn_command(
    opened: Opened,
    start: str,
    end: str,
    onto: str | None,
    count: int,
    steps: int,
    reach: float,
    seed: int,
) -> "ExperimentResult":
    """Move samples along a turn vector: the mean z of some samples minus that of others.

    \b
    Example:
      evalkit latent turn --start 1,8,20,33 --end 2,9,14,61
    """
    from evalkit.latent.samples import turn

    kinds = [opened.z(text) for text in (start, end)]
    samples = opened.z_or_random(onto, count=count, seed=seed)
    return turn(opened.gan, kinds[0], kinds[1], onto=samples, steps=steps, reach=reach)


@click.command("invert")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(min=1), default=150, show_default=True, help="Steps of Adam.")
@click.option(
    "--restarts", type=click.IntRange(1, 128), default=4, show_default=True, help="Starts an image; the best counts."
)
@seed_option("the z to start from")
@latent_command
def invert_command(
    opened: Opened,
    images: tuple[Path, ...],
    steps: int,
    restarts: int,
    seed: int,
) -> "ExperimentResult":
    """Find the z that draws each of IMAGES best, with the error left.

    The z found (z.npy in the printed folder) can be used in the other commands.

    \b
    Example:
      evalkit latent invert cat.jpg dog.jpg
    """
    import numpy as np

    from evalkit.latent.invert import invert, read_image

    targets = np.stack([read_image(path, opened.gan.recipe) for path in images])
    return invert(opened.gan, targets, steps=steps, restarts=restarts, seed=seed)
