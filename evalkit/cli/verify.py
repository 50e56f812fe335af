"""evalkit verify."""

from collections import Counter
from pathlib import Path

import click

from evalkit.cli.options import device_option
from evalkit.workspace import Workspace


@click.command("verify")
@click.argument("results", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--refit", is_flag=True, help="Fit again at the selected C where the features are available; this takes its time."
)
@click.option("--only", default="", metavar="TEXT", help="Only rows whose data set, protocol or method contains TEXT.")
@device_option
@click.pass_obj
def verify_command(workspace: Workspace, results: Path | None, refit: bool, only: str, device: str) -> None:
    """Compute again what can be computed of the results, and say of each row whether it holds.

    The result is computed from the predictions beside the run card; features, weights and images in the workspace are
    hashed, split and label subsets are made again. RESULTS is the workspace's results.csv by default. The exit status
    is 1 if any row differs.

    \b
    Example:
      evalkit verify benchmarks/results/results.csv
      evalkit verify --refit --only pixels
    """
    from evalkit import verify

    outcomes: Counter[str] = Counter()
    for verdict in verify(results, home=workspace, refit=refit, only=only, device=device):
        click.echo(str(verdict))
        outcomes[verdict.outcome] += 1
    click.echo(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "no rows")
    if outcomes["differs"]:
        path = results or workspace.results
        raise click.ClickException(f"{path}: {outcomes['differs']} of {outcomes.total()} rows differ")
