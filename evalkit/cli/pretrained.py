"""evalkit pretrained: list, fetch, import, card."""

from pathlib import Path

import click

from evalkit.cli.options import say
from evalkit.workspace import Workspace


@click.group("pretrained")
def pretrained_command() -> None:
    """Weights to use as `--encoder pretrained:NAME`: the paper's released ones, the project's own, your files.

    \b
    Example:
      evalkit pretrained list
      evalkit pretrained fetch dcgan-imagenet32
      evalkit extract --encoder pretrained:dcgan-imagenet32
    """


@pretrained_command.command("list")
@click.pass_obj
def list_command(workspace: Workspace) -> None:
    """List weights: size, licence, source, and whether they are here.

    \b
    Example:
      evalkit pretrained list
    """
    from evalkit.pretrained.registry import listed

    for weights in listed(workspace):
        where = weights.path or f"not here: evalkit pretrained fetch {weights.name}"
        click.echo(f"{weights.name}: {weights.about}; {weights.bytes / 1e6:.1f} MB, {where}")
        click.echo(f"  licence {weights.licence}, source {weights.source}")


@pretrained_command.command("fetch")
@click.argument("name")
@click.option("--mirror", metavar="URL", help="Base address of a copy of the release's repository [default: GitHub].")
@click.pass_obj
def fetch_command(workspace: Workspace, name: str, mirror: str | None) -> None:
    """Download the released weights NAME, verify every file, convert to safetensors and write a card.

    An interrupted download goes on where it was.

    \b
    Example:
      evalkit pretrained fetch dcgan-imagenet32
    """
    from evalkit.pretrained.registry import fetch

    click.echo(fetch(name, workspace, mirror=mirror, say=say))


@pretrained_command.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="Name of the weights [default: the release's, or the file's].")
@click.option("--partial", is_flag=True, help="Take what is whole of an incomplete release: D's first layers.")
@click.option("--layers", metavar="conv1,conv2,…", help="Take exactly these conv layers of a release's discriminator.")
@click.option("--source", help="For the card: where the weights are from.")
@click.option("--licence", help="For the card: their licence.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write [default: in the workspace]."
)
@click.option("--note", "notes", multiple=True, help="For the card: a limit to know of; several times for several.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the files written: float16 is half the size.",
)
@click.option(
    "--source-batch-norm",
    is_flag=True,
    help="Add batch-norm statistics of the images trained on: `extract --batch-norm source` needs no images then.",
)
@click.option("--replace", is_flag=True, help="Overwrite other weights of that name.")
@click.pass_obj
def import_command(
    workspace: Workspace,
    paths: tuple[Path, ...],
    name: str | None,
    partial: bool,
    layers: str | None,
    source: str | None,
    licence: str | None,
    out: Path | None,
    notes: tuple[str, ...],
    dtype: str,
    source_batch_norm: bool,
    replace: bool,
) -> None:
    """Take weights from files: a folder of the release's .npy files, a run or checkpoint, or a torch DCGAN.

    A torch DCGAN is one or two state dicts (netD.pth, netG.pth) of pytorch/examples' network.

    \b
    Example:
      evalkit pretrained import dcgan_code/models/imagenet_gan_pretrain_128f_relu_lrelu_7l_3x3_256z
      evalkit pretrained import netD_epoch_24.pth netG_epoch_24.pth --name bedrooms
    """
    from evalkit.pretrained.import_weights import import_weights

    path = import_weights(
        paths,
        workspace,
        name=name,
        out=out,
        partial=partial,
        layers=layers.split(",") if layers else None,
        source=source,
        licence=licence,
        notes=notes,
        dtype=dtype,
        source_batch_norm=source_batch_norm,
        replace=replace,
    )
    click.echo(path)


@pretrained_command.command("card")
@click.argument("name")
@click.option(
    "--results",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Figures [default: the workspace's results.csv].",
)
@click.pass_obj
def card_command(workspace: Workspace, name: str, results: Path | None) -> None:
    """Write the card of the weights NAME again, with the figures measured with them.

    \b
    Example:
      evalkit pretrained card mine --results results.csv
    """
    from evalkit.pretrained.registry import find_pretrained
    from evalkit.pretrained.store import renew_card

    path = find_pretrained(name, workspace, download=False)
    click.echo(f"{path / 'card.md'}: {renew_card(path, results or workspace.results)} figures")
