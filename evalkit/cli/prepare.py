"""evalkit prepare."""

from typing import Any

import click

from evalkit.cli.options import settings_options
from evalkit.images.options import PrepareOptions
from evalkit.workspace import Workspace


@click.command("prepare")
@click.argument("source")
@click.option("--name", help="Name of the image set [default: that of the source].")
@settings_options(PrepareOptions)
@click.pass_obj
def prepare_command(workspace: Workspace, source: str, name: str | None, **options: Any) -> None:
    """Make an image set of SOURCE: shorter side to --size, center crop, uint8.

    SOURCE is a folder with one folder per class, a flat folder, Parquet files (a file, a folder, a glob), a tar of
    folders or of tars, WebDataset shards, the batches of downsampled ImageNet, an .npz, an LSUN LMDB (extra [lsun]), a
    list of paths, the name of a data set (`evalkit datasets` lists them), or the files of a named data set where they
    are (cifar-10-batches-py, MNIST, stl10_binary, train_32x32.mat). An interrupted prepare resumes where it stopped.

    \b
    Example:
      evalkit prepare /data/ILSVRC2012/train --name imagenet
      evalkit prepare '/data/tiny/train-*.parquet' --name tiny-imagenet
      evalkit prepare photographs --crop faces --size 64
      evalkit prepare cifar10
    """
    from evalkit import prepare

    images = prepare(source, home=workspace, name=name, options=PrepareOptions(**options))
    click.echo(images.directory)
