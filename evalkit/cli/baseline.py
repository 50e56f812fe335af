"""evalkit baseline and evalkit ablate: the results that a representation has to beat, and what each layer adds."""

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
    settings_options,
)
from evalkit.evaluation.protocol import BASELINES, BaselineOptions
from evalkit.workspace import Workspace


@click.command("baseline")
@click.argument("name", type=click.Choice(list(BASELINES)))
@protocol_options
@label_subsets_option
@click.option("--dataset", default="cifar10", show_default=True, help="Data set, unless --protocol names one.")
@settings_options(BaselineOptions)
@device_option
@click.pass_obj
def baseline_command(
    workspace: Workspace, name: str, dataset: str, label_subsets: Path | None, device: str, **options: Any
) -> None:
    """Measure a baseline under a protocol; the features that it needs are made first.

    pixels, whitened (PCA), random (weights), kmeans (Coates and Ng): an L2-SVM on these features. knn, logistic: other
    classifiers. cnn: the same network trained on the labels alone, the best of the trials of a random search. The same
    command resumes an interrupted one. No well-kept library has a transductive SVM: its rows are published ones.

    \b
    Example:
      evalkit baseline kmeans --protocol cifar10
      evalkit baseline knn --protocol cifar10:400 --features cifar10--imagenet32@150000
    """
    from evalkit import baseline

    own = BaselineOptions(**{key: options.pop(key) for key in BaselineOptions.__dataclass_fields__})
    protocol = chosen_protocol(**options)
    evaluation = baseline(
        name,
        protocol.dataset or dataset,
        protocol,
        home=workspace,
        options=own,
        label_subsets=label_subsets,
        device=device,
    )
    click.echo(result_line(evaluation.result))


@click.command("ablate")
@features_option
@protocol_options
@label_subsets_option
@click.option("--cumulative", is_flag=True, help="Measure the layers up to each one instead of each one alone.")
@device_option
@click.pass_obj
def ablate_command(
    workspace: Workspace,
    features: str | None,
    label_subsets: Path | None,
    cumulative: bool,
    device: str,
    **protocol: Any,
) -> None:
    """Measure an L2-SVM on each layer of the features alone. Layers that were measured before are left out.

    \b
    Example:
      evalkit ablate --protocol cifar10:400
    """
    from evalkit import ablate

    chosen = chosen_protocol(**protocol)
    options: dict[str, Any] = {"cumulative": cumulative, "label_subsets": label_subsets, "device": device}
    for evaluation in ablate(features, chosen, home=workspace, **options):
        click.echo(result_line(evaluation.result))
