"""evalkit report."""

from pathlib import Path

import click

from evalkit.cli.options import say
from evalkit.workspace import Workspace


@click.command("report")
@click.option(
    "--results",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Figures to report [default: the workspace's results.csv].",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="CSV [default: report.csv in the workspace]."
)
@click.pass_obj
def report_command(workspace: Workspace, results: Path | None, out: Path | None) -> None:
    """Print measured figures beside the published ones, and write them as CSV.

    \b
    Example:
      evalkit report --out table1.csv
    """
    from evalkit.artifacts import write_atomically
    from evalkit.report.tables import as_csv, as_text, compare
    from evalkit.results import read_results

    path = results or workspace.results
    if not path.exists():
        raise click.ClickException(f"{path}: no figures measured yet; run `evalkit svm`")
    table = compare(read_results(path))
    click.echo(as_text(table))
    target = out or workspace.home / "report.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, as_csv(table))
    say(f"written: {target}")
