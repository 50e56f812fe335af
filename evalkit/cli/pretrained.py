"""evalkit pretrained: list, fetch, import, card."""

from pathlib import Path
from typing import Any

import click

from evalkit.cli.options import settings_options
from evalkit.pretrained import ImportOptions
from evalkit.workspace import Workspace


@click.group("pretrained")
def pretrained_command() -> None:
    """Weights for `--encoder pretrained:NAME`: the paper's released ones, the project's own, and your files.

    \b
    Example:
      evalkit pretrained list
      evalkit pretrained fetch dcgan-imagenet32
      evalkit extract --encoder pretrained:dcgan-imagenet32
    """


@pretrained_command.command("list")
@click.pass_obj
def list_command(workspace: Workspace) -> None:
    """List the weights with their size, licence and source, and where they are.

    \b
    Example:
      evalkit pretrained list
    """
    from evalkit import list_pretrained

    for weights in list_pretrained(home=workspace):
        where = weights.path or f"not here: evalkit pretrained fetch {weights.name}"
        click.echo(f"{weights.name}: {weights.about}; {weights.bytes / 1e6:.1f} MB, {where}")
        click.echo(f"  licence {weights.licence}, source {weights.source}")


@pretrained_command.command("fetch")
@click.argument("name")
@click.option("--mirror", metavar="URL", help="Base address of a copy of the release's repository [default: GitHub].")
@click.pass_obj
def fetch_command(workspace: Workspace, name: str, mirror: str | None) -> None:
    """Download the released weights NAME, verify every file, convert them to safetensors and write a card.

    An interrupted download is resumed.

    \b
    Example:
      evalkit pretrained fetch dcgan-imagenet32
    """
    from evalkit import fetch_pretrained

    click.echo(fetch_pretrained(name, home=workspace, mirror=mirror))


@pretrained_command.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="Name of the weights [default: the release's, the run's or the file's].")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write [default: in the workspace]."
)
@click.option("--note", "notes", multiple=True, help="For the card: a limit to know. Repeat the option for several.")
@settings_options(ImportOptions)
@click.pass_obj
def import_command(
    workspace: Workspace, paths: tuple[Path, ...], name: str | None, out: Path | None, **options: Any
) -> None:
    """Store weights from files: a folder of the release's .npy files, a run or checkpoint, or a torch DCGAN.

    A torch DCGAN is one or two state dicts (netD.pth, netG.pth) of pytorch/examples' network.

    \b
    Example:
      evalkit pretrained import dcgan_code/models/imagenet_gan_pretrain_128f_relu_lrelu_7l_3x3_256z
      evalkit pretrained import netD_epoch_24.pth netG_epoch_24.pth --name bedrooms
    """
    from evalkit import import_weights

    click.echo(import_weights(paths, home=workspace, name=name, out=out, options=ImportOptions(**options)))


@pretrained_command.command("card")
@click.argument("name")
@click.option(
    "--results",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of results [default: the workspace's results.csv].",
)
@click.pass_obj
def card_command(workspace: Workspace, name: str, results: Path | None) -> None:
    """Write the card of the weights NAME again, with the results that were measured with them.

    \b
    Example:
      evalkit pretrained card mine --results results.csv
    """
    from evalkit import write_card

    click.echo(write_card(name, home=workspace, results=results))
