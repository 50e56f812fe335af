"""evalkit nn-error."""

import click

from evalkit.cli.options import device_option
from evalkit.workspace import Workspace


@click.command("nn-error")
@click.option("--encoder", default="latest", show_default=True, help="Run or checkpoint of a conditional recipe.")
@click.option("--dataset", default="mnist", show_default=True, help="Data set whose test images are classified.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=50_000,
    show_default=True,
    help="Total number of samples, the same for each class.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the samples.")
@device_option
@click.pass_obj
def nn_error_command(workspace: Workspace, encoder: str, dataset: str, samples: int, seed: int, device: str) -> None:
    """Print the test error of a 1-NN classifier fitted on a conditional generator's samples: the paper's MNIST table.

    The same command resumes an interrupted one.

    \b
    Example:
      evalkit nn-error --encoder mnist --samples 10000000
    """
    from evalkit import nn_error

    result = nn_error(encoder, dataset, home=workspace, samples=samples, seed=seed, device=device)
    click.echo(
        f"{result.dataset}, {result.encoder}, {result.protocol}: test error {result.value:.2f} % "
        f"± {result.uncertainty:.2f} ({result.uncertainty_type})"
    )
