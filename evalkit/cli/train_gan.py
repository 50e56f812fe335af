"""evalkit train-gan."""

from typing import Any

import click

from evalkit.cli.options import download_option, settings_options
from evalkit.gan.recipes import RECIPES, TrainOptions, load_recipe
from evalkit.workspace import Workspace


def _pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE texts as a dictionary."""
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r}: expected KEY=VALUE, like lr=0.0001")
    return {key.strip(): text.strip() for key, text in (value.split("=", 1) for value in values)}


def _dataset_and_labels(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """DATASET:K as its two parts."""
    if value is None:
        return None
    dataset, _, count = value.rpartition(":")
    if not dataset or not count.isdigit() or int(count) < 1:
        raise click.BadParameter(f"{value!r}: expected DATASET:K, K labels per class, like cifar10:400")
    return dataset, int(count)


@click.command("train-gan")
@click.option("--recipe", default="imagenet32", show_default=True, help=f"{', '.join(RECIPES)}, or a .toml file.")
@click.option("--set", "values", multiple=True, callback=_pairs, metavar="KEY=VALUE", help="Change a recipe setting.")
@click.option("--images", help="Image set by name or path [default: the recipe's, else the latest prepared].")
@click.option("--name", help="Name of the run [default: the recipe's].")
@click.option("--updates", type=click.IntRange(min=1), help="D updates; short for --set d_updates=N.")
@click.option(
    "--start",
    metavar="CHECKPOINT",
    help="Start from these weights instead of fresh ones: RUN, RUN@UPDATES or a path. The recipe may differ from that "
    "of the checkpoint in everything but shapes.",
)
@click.option(
    "--probe",
    metavar="DATASET:K",
    callback=_dataset_and_labels,
    help="Fit an SVM with K labels per class on the features from time to time, like cifar10:400; keeps the best "
    "checkpoint as RUN/best.",
)
@click.option(
    "--probe-updates",
    type=click.IntRange(min=1),
    help="D updates between probes [default: a fiftieth of the training].",
)
@settings_options(TrainOptions)
@download_option
@click.pass_obj
def train_command(
    workspace: Workspace,
    recipe: str,
    values: dict[str, str],
    images: str | None,
    name: str | None,
    updates: int | None,
    start: str | None,
    probe: tuple[str, int] | None,
    probe_updates: int | None,
    download: bool,
    **options: Any,
) -> None:
    """Train a DCGAN, or resume an interrupted run of the same name.

    Writes checkpoints, metrics.csv and grids of samples to the workspace. Ctrl-C writes a checkpoint and stops;
    the same command resumes.

    \b
    Example:
      evalkit train-gan
      evalkit train-gan --recipe svhn --updates 20000 --set lr=0.0002 --name svhn-slow
      evalkit train-gan --start imagenet32@2000 --set batch_size=32 --name small-batches
      torchrun --nproc-per-node 8 -m evalkit train-gan --probe cifar10:400
    """
    from evalkit import TrainingProbe, as_image_set, train_gan

    settings = TrainOptions(**options)
    watch = None
    if probe:
        dataset, count = probe
        benchmark = as_image_set(dataset, home=workspace, download=download)
        watch = TrainingProbe(benchmark, labels_per_class=count, device=settings.device)
    trained = train_gan(
        images,
        load_recipe(recipe, values | ({"d_updates": str(updates)} if updates else {})),
        home=workspace,
        name=name,
        options=settings,
        start=start,
        probe=watch,
        probe_updates=probe_updates,
        download=download,
    )
    click.echo(trained)
