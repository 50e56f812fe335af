"""evalkit nn-error."""

import click

from evalkit.cli.options import device_option, say
from evalkit.workspace import Workspace


@click.command("nn-error")
@click.option("--encoder", default="latest", show_default=True, help="Run or checkpoint of a conditional recipe.")
@click.option("--dataset", default="mnist", show_default=True, help="Whose test images are classified.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=50_000, show_default=True, help="Of all classes together."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the samples.")
@device_option
@click.pass_obj
def nn_error_command(workspace: Workspace, encoder: str, dataset: str, samples: int, seed: int, device: str) -> None:
    """Print the test error of a 1-NN classifier fitted on a conditional generator's samples: the paper's MNIST table.

    Interrupted, it goes on where it was.

    \b
    Example:
      evalkit nn-error --encoder mnist --samples 10000000
    """
    from evalkit.evaluation.nn_error import nn_error

    figure = nn_error(workspace, encoder, dataset=dataset, samples=samples, seed=seed, device=device, say=say)
    click.echo(
        f"{figure.dataset}, {figure.encoder}, {figure.protocol}: test error {figure.value:.2f} % "
        f"± {figure.uncertainty:.2f} ({figure.uncertainty_type})"
    )
