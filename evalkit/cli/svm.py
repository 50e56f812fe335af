"""evalkit svm."""

import click

from evalkit.cli.options import device_option, say, status_line
from evalkit.protocols.settings import GRIDS, Protocol
from evalkit.workspace import Workspace


@click.command("svm")
@click.option("--features", help="Feature set by name or path [default: the latest].")
@click.option(
    "--labels-per-class", type=click.IntRange(min=1), help="Draw this many labels a class [default: use all labels]."
)
@click.option("--repeats", type=click.IntRange(min=1), help="Tested draws [default: 100, or 10 if a draw is large].")
@click.option("--select-draws", type=click.IntRange(min=1), help="Draws that choose C [default: 10, or 3].")
@click.option(
    "--validation",
    type=click.IntRange(min=1),
    default=Protocol.validation,
    show_default=True,
    help="Training rows set aside to choose C; at most a fifth.",
)
@click.option(
    "--grid",
    type=click.Choice(GRIDS),
    default=Protocol.grid,
    show_default=True,
    help="C values: the release's seven, or those and on beyond an end that is best.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=Protocol.seed, show_default=True, help="Of validation rows and draws."
)
@click.option("--memory", metavar="SIZE", help="Budget of the solver, like 4GB [default: what the features need].")
@device_option
@click.pass_obj
def svm_command(
    workspace: Workspace,
    features: str | None,
    labels_per_class: int | None,
    repeats: int | None,
    select_draws: int | None,
    validation: int,
    grid: str,
    seed: int,
    memory: str | None,
    device: str,
) -> None:
    """Fit one-vs-rest L2-SVMs on features and print the test figure; C is chosen on validation, never on test.

    \b
    Example:
      evalkit svm
      evalkit svm --labels-per-class 400
    """
    from evalkit.pipeline import fit_svm

    protocol = Protocol(labels_per_class, grid, validation, select_draws, repeats, seed)
    with status_line() as show:
        figure = fit_svm(
            workspace, protocol, features=features, device=device, memory=memory, say=say, show=show
        ).figure
    name = figure.metric.removesuffix("_percent")
    spread = f"{figure.spread:.2f} ({figure.spread_kind}, n = {figure.n}, C = {figure.C:g})"
    click.echo(
        f"{figure.dataset}, {figure.encoder}, labels a class: {figure.protocol}: "
        f"test {name} {figure.value:.2f} % ± {spread}"
    )
