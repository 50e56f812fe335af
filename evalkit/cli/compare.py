"""evalkit compare and evalkit curve: whether two results differ, and how a result grows with the number of labels."""

import logging
from pathlib import Path
from typing import Any

import click

from evalkit.cli.options import chosen_protocol, device_option, features_option, protocol_options, result_line
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option(
    "--results",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table whose run cards A and B are [default: the workspace's results.csv].",
)
@click.pass_obj
def compare_command(workspace: Workspace, a: str, b: str, results: Path | None) -> None:
    """Test whether the results A and B differ, each named by its run card (the last column of results.csv).

    Results over label subsets are paired by Student's t-test, which needs the same subsets (--label-subsets); single
    fits on the same test images by McNemar's exact test.

    \b
    Example:
      evalkit compare 3f0c 91ab
    """
    from evalkit import compare

    comparison = compare(a, b, home=workspace, results=results)
    for letter, name in zip("AB", comparison.names, strict=True):
        click.echo(f"{letter}: {name}")
    interval = f"{comparison.interval_type} {comparison.low:+.2f} to {comparison.high:+.2f}"
    click.echo(
        f"accuracy A - B: {comparison.difference:+.2f} points ({interval}); "
        f"{comparison.test}: p = {comparison.p_value:.3g}, {comparison.pairs:,} pairs"
    )


@click.command("curve")
@features_option
@protocol_options
@click.option(
    "--labels", metavar="K,K,...", help="Labels per class [default: 1,2,5,10,... as far as they go, and all]."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Path of CSV and PNG without suffix [default: in HOME/curves]."
)
@device_option
@click.pass_obj
def curve_command(
    workspace: Workspace, features: str | None, labels: str | None, out: Path | None, device: str, **protocol: Any
) -> None:
    """Measure an L2-SVM with 1, 2, 5 ... and all labels per class; write the curve as CSV and PNG.

    Points that were measured before are not measured again.

    \b
    Example:
      evalkit curve --protocol cifar10 --num-test-subsets 5
    """
    from evalkit import label_curve

    counts = {key: protocol.pop(key) for key in ("num_test_subsets", "num_selection_subsets")}
    curve = label_curve(
        features, chosen_protocol(**protocol), home=workspace, labels=labels, out=out, device=device, **counts
    )
    for result in curve.results:
        click.echo(result_line(result))
    logger.info("written: %s, %s", curve.csv, curve.png)
