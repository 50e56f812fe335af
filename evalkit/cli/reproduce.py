"""evalkit reproduce."""

import click

from evalkit.cli.options import device_option, download_option, result_line, say
from evalkit.evaluation.protocol import REPRODUCTIONS
from evalkit.workspace import Workspace


@click.command("reproduce")
@click.argument("name", type=click.Choice(list(REPRODUCTIONS)))
@click.option("--data", metavar="SOURCE", help="The data set's images, as `prepare` takes them [default: download].")
@click.option("--images", help="Train on this image set [default: the recipe's, else the latest prepared].")
@click.option("--encoder", help="Trained run or checkpoint [default: the shipped weights, else one trained now].")
@click.option("--train", is_flag=True, help="Train, even if there are shipped weights; so does --images.")
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Random weights and pixels too.")
@device_option
@download_option
@click.pass_obj
def reproduce_command(
    workspace: Workspace,
    name: str,
    data: str | None,
    images: str | None,
    encoder: str | None,
    train: bool,
    baselines: bool,
    device: str,
    download: bool,
) -> None:
    """Measure everything that is missing for a table of the paper, and print the table: features of the trained
    network, of the same network with random weights, and raw pixels.

    \b
    Example:
      evalkit reproduce digits
      evalkit reproduce cifar10 --data /data/cifar10
    """
    from evalkit import report_text, reproduce

    table = reproduce(
        name,
        home=workspace,
        data=data,
        images=images,
        encoder=encoder,
        train=train,
        baselines=baselines,
        device=device,
        download=download,
        on_result=lambda result: say(result_line(result)),
    )
    click.echo(report_text(table))
