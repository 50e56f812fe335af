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
    "--out",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write: .csv, .tex, .md or .html; several times for several "
    "[default: report.csv, .tex, .md and .html beside the figures in the workspace].",
)
@click.pass_obj
def report_command(workspace: Workspace, results: Path | None, out: tuple[Path, ...]) -> None:
    """Print measured figures beside the published ones, and write them as CSV, LaTeX, Markdown and one HTML page.

    The page holds plots, sample grids and run cards, and loads nothing from elsewhere. The Markdown's images are
    files beside it. The LaTeX tables are to be included by a document that uses booktabs.

    \b
    Example:
      evalkit report
      evalkit report --out table1.tex --out page.html
    """
    from evalkit.report.data import gather_report_data
    from evalkit.report.render import FORMATS, write_report
    from evalkit.report.tables import as_text

    path = results or workspace.results
    if not path.exists():
        raise click.ClickException(f"{path}: no figures measured yet; run `evalkit svm`")
    material = gather_report_data(path, workspace)
    click.echo(as_text(material.table))
    for line in material.missing:
        say(f"without a run card: {line}")
    for target in out or [workspace.home / f"report{suffix}" for suffix in FORMATS]:
        write_report(material, target)
        say(f"written: {target}")
