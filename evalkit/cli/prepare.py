"""evalkit prepare."""

from pathlib import Path

import click

from evalkit.cli.options import download_option, say
from evalkit.workspace import Workspace


@click.command("prepare")
@click.argument("source")
@click.option("--name", help="Name of the image set [default: the source's].")
@click.option("--size", type=click.IntRange(min=8), default=None, help="Side of the square images [default: 32].")
@click.option(
    "--filter",
    "filter_",
    type=click.Choice(["antialias", "bilinear-noaa"]),
    default="antialias",
    show_default=True,
    help="How to shrink; bilinear-noaa samples as the paper's release does.",
)
@click.option(
    "--decode",
    type=click.Choice(["scaled", "exact"]),
    help="scaled decodes large JPEGs at a fraction of their size [default: scaled where the filter allows].",
)
@click.option(
    "--crop",
    type=click.Choice(["centre", "faces"]),
    default="centre",
    show_default=True,
    help="One centre crop an image, or one a face that OpenCV's detector finds (extra [faces]).",
)
@click.option("--face-score", type=float, default=3.0, show_default=True, help="Least score of a face.")
@click.option("--face-margin", type=float, default=0.0, show_default=True, help="Added to each side, as a share of it.")
@click.option("--face-smallest", type=int, default=32, show_default=True, help="Least side of a face in pixels.")
@click.option("--workers", type=click.IntRange(min=1), help="Decoding processes [default: one a core].")
@click.option("--strict", is_flag=True, help="Stop at the first image that cannot be read instead of skipping it.")
@click.option(
    "--source",
    "source_kind",
    type=click.Choice(["parquet", "webdataset", "tar", "downsampled-imagenet", "npz", "lsun", "list", "folder"]),
    help="The source's form [default: recognised from the path].",
)
@click.option("--replace", is_flag=True, help="Overwrite an image set made from something else.")
@download_option
@click.pass_obj
def prepare_command(
    workspace: Workspace,
    source: str,
    name: str | None,
    size: int | None,
    filter_: str,
    decode: str | None,
    crop: str,
    face_score: float,
    face_margin: float,
    face_smallest: int,
    workers: int | None,
    strict: bool,
    source_kind: str | None,
    replace: bool,
    download: bool,
) -> None:
    """Make an image set of SOURCE: shorter side to --size, centre crop, uint8.

    SOURCE is a folder a class, a flat folder, Parquet files (a file, a folder, a glob), a tar of folders or of tars,
    WebDataset shards, downsampled ImageNet's batches, an .npz, an LSUN LMDB (extra [lsun]), a list of paths, the name
    of a data set (`evalkit datasets` lists them), or its files where they are (cifar-10-batches-py, MNIST,
    stl10_binary, train_32x32.mat). An interrupted prepare goes on where it was.

    \b
    Example:
      evalkit prepare /data/ILSVRC2012/train --name imagenet
      evalkit prepare '/data/tiny/train-*.parquet' --name tiny-imagenet
      evalkit prepare photographs --crop faces --size 64
      evalkit prepare cifar10
    """
    from evalkit.images import Faces, dataset_names, known_files, prepare, prepare_named, summary

    named = source in dataset_names() and not Path(source).exists()
    found = (source, workspace.downloads) if named else known_files(source)
    if found:
        if crop == "faces" or decode or source_kind:
            raise click.UsageError(
                f"{source} is the named data set {found[0]}; --crop, --decode and --source are for your own files"
            )
        dataset, folder = found
        place = workspace.path_of("image set", name or dataset)
        fetch = download and named
        images = prepare_named(
            dataset, place, downloads=folder, download=fetch, size=size, filter=filter_, replace=replace, progress=True
        )
    else:
        cropped = Faces(face_score, face_margin, face_smallest) if crop == "faces" else None
        images = prepare(
            source, workspace, name=name, size=size or 32, filter=filter_, decode=decode, faces=cropped,
            workers=workers, strict=strict, source_kind=source_kind, replace=replace, progress=True,
        )  # fmt: skip
        place = workspace.path_of("image set", images.name)
    for line in summary(images):
        say(line)
    workspace.mark_latest(place)
    click.echo(place)
