"""evalkit report."""

from pathlib import Path

import click

from evalkit.workspace import Workspace


@click.command("report")
@click.option(
    "--results",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Results to report [default: the workspace's results.csv].",
)
@click.option(
    "--out",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write: .csv, .tex, .md or .html; repeat it for several files "
    "[default: report.csv, .tex, .md and .html in the workspace].",
)
@click.pass_obj
def report_command(workspace: Workspace, results: Path | None, out: tuple[Path, ...]) -> None:
    """Print measured results beside the published ones, and write them as CSV, LaTeX, Markdown and one HTML page.

    The page holds plots, sample grids and run cards, and loads nothing from elsewhere. The Markdown's images are
    files beside it. The LaTeX tables are for a document that uses booktabs.

    \b
    Example:
      evalkit report
      evalkit report --out table1.tex --out page.html
    """
    from evalkit import report_text, write_report

    click.echo(report_text(write_report(results, out or None, home=workspace)))
