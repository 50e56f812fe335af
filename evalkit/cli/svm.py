"""evalkit svm."""

from pathlib import Path
from typing import Any

import click

from evalkit.cli.options import (
    chosen_protocol,
    device_option,
    features_option,
    label_subsets_option,
    protocol_options,
    result_line,
)
from evalkit.workspace import Workspace


@click.command("svm")
@features_option
@protocol_options
@label_subsets_option
@click.option(
    "--layers", default="", help="One of the encoder's layers, conv3, or several, conv1..conv4 [default: all]."
)
@click.option(
    "--scaling",
    type=click.Choice(["standardise", "whiten"]),
    help="Scale the features by statistics of the training rows [default: as they are, like the paper].",
)
@click.option(
    "--memory", metavar="SIZE", help="Memory budget of the solver, like 4GB [default: what the features need]."
)
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
    """Fit one-vs-rest L2-SVMs on features and print the test result; C is selected on validation, never on test.

    \b
    Example:
      evalkit svm
      evalkit svm --protocol cifar10:400
    """
    from evalkit import evaluate

    evaluation = evaluate(
        features,
        chosen_protocol(**protocol),
        home=workspace,
        layers=layers,
        scaling=scaling,
        label_subsets=label_subsets,
        device=device,
        memory=memory,
    )
    click.echo(result_line(evaluation.result))
