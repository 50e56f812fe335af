"""evalkit verify."""

from collections import Counter
from pathlib import Path

import click

from evalkit.cli.options import device_option
from evalkit.workspace import Workspace


@click.command("verify")
@click.argument("results", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--refit", is_flag=True, help="Fit again at the chosen C where the features are at hand; takes its time.")
@click.option("--only", default="", metavar="TEXT", help="Only rows whose data set, protocol or method contains TEXT.")
@device_option
@click.pass_obj
def verify_command(workspace: Workspace, results: Path | None, refit: bool, only: str, device: str) -> None:
    """Re-compute what can be re-computed of measured figures, and say of each row whether it holds.

    The figure is computed from the predictions beside the run card; features, weights and images that are in the
    workspace are hashed, and split and label draws made again. RESULTS is the workspace's results.csv by default.
    Exit status 1 if any row differs.

    \b
    Example:
      evalkit verify benchmarks/results/cifar10.csv
      evalkit verify --refit --only pixels
    """
    from evalkit.evaluation.verify import verify
    from evalkit.probes.classifiers import SolverOptions
    from evalkit.runtime import resolve_device

    path = results or workspace.results
    if not path.exists():
        raise click.ClickException(f"{path}: no figures measured yet; run `evalkit svm`")
    options = SolverOptions(str(resolve_device(device))) if refit else None
    outcomes: Counter[str] = Counter()
    for verdict in verify(path, workspace, refit=options, row_filter=only):
        click.echo(str(verdict))
        outcomes[verdict.outcome] += 1
    click.echo(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "no rows")
    if outcomes["differs"]:
        raise click.ClickException(f"{path}: {outcomes['differs']} of {outcomes.total()} rows differ")
