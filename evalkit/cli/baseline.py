"""evalkit baseline and evalkit ablate: the figures that a representation has to beat, and what each layer adds."""

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
from evalkit.evaluation.protocol import BASELINES
from evalkit.workspace import Workspace


@click.command("baseline")
@click.argument("name", type=click.Choice(list(BASELINES)))
@protocol_options
@label_subsets_option
@click.option("--dataset", default="cifar10", show_default=True, help="Data set, where no --protocol names one.")
@click.option("--features", help="Fit knn or logistic on this feature set [default: pixels].")
@click.option("--recipe", default="imagenet32", show_default=True, help="Network of random and cnn.")
@click.option("--centroids", type=click.IntRange(min=1), default=1600, show_default=True, help="Of kmeans.")
@click.option("--patches", type=click.IntRange(min=1), default=400_000, show_default=True, help="For kmeans to learn.")
@click.option("--trials", type=click.IntRange(min=1), default=64, show_default=True, help="Networks that cnn tries.")
@click.option("--updates", type=click.IntRange(min=1), default=2000, show_default=True, help="Of each network of cnn.")
@click.option("--minutes", type=float, default=float("inf"), help="Begin no network after so long [default: never].")
@device_option
@click.pass_obj
def baseline_command(workspace: Workspace, name: str, dataset: str, label_subsets: Path | None, **options: Any) -> None:
    """Measure a baseline under a protocol; features that it needs are made first.

    pixels, whitened (PCA), random (weights), kmeans (Coates and Ng): L2-SVM on these features. knn, logistic: other
    classifiers. cnn: the same network trained on the labels alone, the best of so many trials of a random search.
    Interrupted, each goes on where it was. No well-kept library has a transductive SVM: its rows are published ones.

    \b
    Example:
      evalkit baseline kmeans --protocol cifar10
      evalkit baseline knn --protocol cifar10:400 --features cifar10--imagenet32@150000
    """
    from evalkit.evaluation.baselines import run_baseline
    from evalkit.evaluation.protocol import BaselineOptions

    own = {key: options.pop(key) for key in tuple(options) if key in BaselineOptions.__dataclass_fields__}
    named, protocol = chosen_protocol(**options)
    chosen: dict[str, Any] = {"options": BaselineOptions(**own), "label_subsets": label_subsets, "say": say}
    with status_line() as show:
        measured = run_baseline(workspace, name, named or dataset, protocol, **chosen, show=show)
    click.echo(result_line(measured.result))


@click.command("ablate")
@click.option("--features", help="Feature set by name or path [default: the latest, of the protocol's data set].")
@protocol_options
@label_subsets_option
@click.option("--cumulative", is_flag=True, help="The layers up to each one, instead of each one alone.")
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
    """Measure an L2-SVM on each layer of the features alone. Layers measured before are not measured again.

    \b
    Example:
      evalkit ablate --protocol cifar10:400
    """
    from evalkit.evaluation.measure import ablate

    dataset, chosen = chosen_protocol(**protocol)
    options: dict[str, Any] = {"label_subsets": label_subsets, "cumulative": cumulative, "device": device, "say": say}
    with status_line() as show:
        for measured in ablate(workspace, chosen, features=features, dataset=dataset, show=show, **options):
            click.echo(result_line(measured.result))
