"""evalkit compare and evalkit curve: whether two figures differ, and how a figure grows with the labels."""

from pathlib import Path
from typing import Any

import click

from evalkit.cli.options import chosen_protocol, device_option, protocol_options, result_line, say, status_line
from evalkit.workspace import Workspace


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option(
    "--results",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Figures whose cards A and B are [default: the workspace's results.csv].",
)
@click.pass_obj
def compare_command(workspace: Workspace, a: str, b: str, results: Path | None) -> None:
    """Test whether the figures A and B differ, each named by its run card (the last column of results.csv).

    Results over label subsets are paired by Student's t-test, which needs the same subsets (--label-subsets); single
    fits on the same test images by McNemar's exact test.

    \b
    Example:
      evalkit compare 3f0c 91ab
    """
    from evalkit.evaluation.measure import compare

    names, found = compare(results or workspace.results, a, b)
    for letter, name in zip("AB", names, strict=True):
        click.echo(f"{letter}: {name}")
    click.echo(
        f"accuracy A - B: {found.difference:+.2f} points ({found.interval} {found.low:+.2f} to {found.high:+.2f}); "
        f"{found.test}: p = {found.p_value:.3g}, {found.pairs:,} pairs"
    )


@click.command("curve")
@click.option("--features", help="Feature set by name or path [default: the latest, of the protocol's data set].")
@protocol_options
@click.option("--labels", metavar="K,K,...", help="Labels a class [default: 1,2,5,10,... as far as they go, and all].")
@click.option("--out", type=click.Path(path_type=Path), help="Name of CSV and PNG [default: in HOME/curves].")
@device_option
@click.pass_obj
def curve_command(
    workspace: Workspace, features: str | None, labels: str | None, out: Path | None, device: str, **protocol: Any
) -> None:
    """Measure an L2-SVM with 1, 2, 5 ... and all labels a class; write the curve as CSV and PNG.

    Points measured before are not measured again.

    \b
    Example:
      evalkit curve --protocol cifar10 --num-test-subsets 5
    """
    from evalkit.evaluation.label_curve import label_curve, parse_labels

    repeats = {key: protocol.pop(key) for key in ("num_test_subsets", "num_selection_subsets")}
    dataset, chosen = chosen_protocol(**protocol, num_test_subsets=None, num_selection_subsets=None)
    options: dict[str, Any] = {"features": features, "dataset": dataset, "labels": parse_labels(labels), **repeats}
    with status_line() as show:
        found = label_curve(workspace, chosen, **options, out=out, device=device, say=say, show=show)
    for figure in found.results:
        click.echo(result_line(figure))
    say(f"written: {found.csv}, {found.png}")
