"""evalkit svm."""

from pathlib import Path
from typing import Any

import click

from evalkit.cli.options import (
    chosen_protocol,
    device_option,
    label_subsets_option,
    protocol_options,
    result_line,
    say,
    status_line,
)
from evalkit.workspace import Workspace


@click.command("svm")
@click.option("--features", help="Feature set by name or path [default: the latest, of the protocol's data set].")
@protocol_options
@label_subsets_option
@click.option(
    "--layers", default="", help="Use one of the encoder's layers, conv3, or some, conv1..conv4 [default: all]."
)
@click.option(
    "--scaling",
    type=click.Choice(["standardise", "whiten"]),
    help="Scale the features by statistics of the training rows [default: as they are, as the paper].",
)
@click.option("--memory", metavar="SIZE", help="Budget of the solver, like 4GB [default: what the features need].")
@device_option
@click.pass_obj
def svm_command(
    workspace: Workspace,
    features: str | None,
    label_subsets: Path | None,
    layers: str,
    scaling: str | None,
    memory: str | None,
    device: str,
    **protocol: Any,
) -> None:
    """Fit one-vs-rest L2-SVMs on features and print the test figure; C is chosen on validation, never on test.

    \b
    Example:
      evalkit svm
      evalkit svm --protocol cifar10:400
    """
    from evalkit.evaluation.measure import measure

    dataset, chosen = chosen_protocol(**protocol)
    options: dict[str, Any] = {
        "layers": layers,
        "scaling": scaling,
        "label_subsets": label_subsets,
        "device": device,
        "memory": memory,
    }
    with status_line() as show:
        measured = measure(workspace, chosen, features=features, dataset=dataset, say=say, show=show, **options)
    click.echo(result_line(measured.result))
