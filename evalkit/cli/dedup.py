"""evalkit dedup."""

from typing import Any

import click

from evalkit.cli.options import device_option, settings_options
from evalkit.images.options import DedupOptions
from evalkit.workspace import Workspace


@click.command("dedup")
@click.argument("images")
@click.option("--against", help="Another image set: drop what it also holds, e.g. the test images of a benchmark.")
@click.option("--name", help="Name of the view [default: IMAGES-dedup, or IMAGES-without-AGAINST].")
@settings_options(DedupOptions)
@device_option
@click.pass_obj
def dedup_command(
    workspace: Workspace, images: str, against: str | None, name: str | None, device: str, **options: Any
) -> None:
    """Find duplicates in the image set IMAGES and make a view without them: an index, no copy.

    The first image of a group of duplicates stays. With --against, the images that the other set also holds are
    dropped instead. The printed folder has groups.csv and largest.png. The paper's own procedure is
    --distance 0 --no-confirm.

    \b
    Example:
      evalkit dedup tiny-imagenet
      evalkit dedup imagenet --against cifar10 --mode perceptual
    """
    from evalkit import dedup

    view = dedup(images, against=against, home=workspace, name=name, options=DedupOptions(**options), device=device)
    click.echo(view.directory)
