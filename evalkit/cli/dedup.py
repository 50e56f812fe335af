"""evalkit dedup."""

import click

from evalkit.cli.options import device_option, say
from evalkit.workspace import Workspace


@click.command("dedup")
@click.argument("images")
@click.option(
    "--mode",
    type=click.Choice(["autoencoder", "exact", "perceptual"]),
    default="autoencoder",
    show_default=True,
    help="autoencoder: the paper's hash; exact: equal pixels; perceptual: a cosine hash, nothing to train.",
)
@click.option("--distance", type=click.IntRange(0, 16), help="Bits in which two hashes may differ [default: by mode].")
@click.option(
    "--confirm/--no-confirm",
    default=True,
    show_default=True,
    help="Compare the images, too, before two of like hashes count as one.",
)
@click.option("--against", help="Another image set: drop what it holds, e.g. a benchmark's test images.")
@click.option("--against-split", default="test", show_default=True, help="The split of --against that counts.")
@click.option("--name", help="Name of the view [default: IMAGES-dedup, or IMAGES-without-AGAINST].")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the autoencoder and of the pairs judged.")
@click.option("--replace", is_flag=True, help="Overwrite an image set of that name made otherwise.")
@device_option
@click.pass_obj
def dedup_command(
    workspace: Workspace,
    images: str,
    mode: str,
    distance: int | None,
    confirm: bool,
    against: str | None,
    against_split: str,
    name: str | None,
    seed: int,
    replace: bool,
    device: str,
) -> None:
    """Find duplicates in the image set IMAGES and make a view without them: an index, no copy.

    Of duplicates the first image stays. With --against, what the other set holds is dropped instead. The printed
    folder has groups.csv and largest.png. The paper's own procedure is --distance 0 --no-confirm.

    \b
    Example:
      evalkit dedup tiny-imagenet
      evalkit dedup imagenet --against cifar10 --mode perceptual
    """
    from evalkit.images.dedup import dedup, dedup_summary

    source = workspace.find("image set", images)
    other = workspace.find("image set", against) if against else None
    place = workspace.path_of("image set", name or source.name + (f"-without-{other.name}" if other else "-dedup"))
    view = dedup(
        source,
        place,
        mode=mode,
        distance=distance,
        confirm=confirm,
        against=other,
        against_split=against_split,
        seed=seed,
        device=device,
        replace=replace,
    )
    for line in dedup_summary(view):
        say(line)
    click.echo(place)
