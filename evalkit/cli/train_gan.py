"""evalkit train-gan."""

from typing import Literal

import click

from evalkit.cli.options import device_option, download_option, precision_option, say
from evalkit.gan.recipes import ON_COLLAPSE, RECIPES, TrainOptions, override, recipe_named
from evalkit.workspace import Workspace


def _pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE texts as a dictionary."""
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r}: expected KEY=VALUE, like lr=0.0001")
    return {key.strip(): text.strip() for key, text in (value.split("=", 1) for value in values)}


@click.command("train-gan")
@click.option("--recipe", default="imagenet32", show_default=True, help=f"{', '.join(RECIPES)}, or a .toml file.")
@click.option("--set", "values", multiple=True, callback=_pairs, metavar="KEY=VALUE", help="Override a recipe's value.")
@click.option("--images", help="Image set by name or path [default: the recipe's, else the latest prepared].")
@click.option("--name", help="Name of the run [default: the recipe's].")
@click.option("--updates", type=click.IntRange(min=1), help="D updates; short for --set d_updates=N.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=TrainOptions.seed, show_default=True, help="Of weights, order and z."
)
@click.option(
    "--start",
    metavar="CHECKPOINT",
    help="Begin with these weights instead of fresh ones: RUN, RUN@UPDATES or a path; the recipe may differ in all but "
    "shapes.",
)
@click.option(
    "--checkpoint-minutes",
    type=click.FloatRange(min=0),
    default=TrainOptions.checkpoint_minutes,
    show_default=True,
    help="Minutes between checkpoints: what a killed run loses at most.",
)
@click.option(
    "--checkpoint-updates",
    type=click.IntRange(min=0),
    default=TrainOptions.checkpoint_updates,
    show_default=True,
    help="D updates between checkpoints besides; 0: by time alone.",
)
@click.option(
    "--keep", type=click.IntRange(min=1), default=TrainOptions.keep, show_default=True, help="Checkpoints kept."
)
@click.option(
    "--milestones",
    type=click.IntRange(min=0),
    default=TrainOptions.milestones,
    show_default=True,
    help="Keep checkpoints at multiples of this many D updates for good; 0: none.",
)
@click.option(
    "--probe",
    metavar="DATASET:K",
    help="Fit a few-label SVM on the features every so often, like cifar10:400; keeps the best checkpoint as RUN/best.",
)
@click.option(
    "--probe-updates",
    type=click.IntRange(min=1),
    help="D updates between probes [default: a fiftieth of the training].",
)
@click.option(
    "--nnd",
    type=click.IntRange(min=0),
    default=TrainOptions.nnd_samples,
    show_default=True,
    help="Samples for the mean distance of real images to the nearest sample, each epoch; 0: not measured.",
)
@click.option("--tensorboard", is_flag=True, help="Log to RUN/events as well (pip install 'evalkit[tensorboard]').")
@click.option(
    "--on-collapse",
    type=click.Choice(ON_COLLAPSE),
    default=TrainOptions.on_collapse,
    show_default=True,
    help="When D saturates or samples collapse: stop, or step back and go on with other minibatches.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the networks; pays on a GPU.")
@click.option(
    "--sync-batch-norm", is_flag=True, help="Under torchrun: batch statistics over all processes, not over each share."
)
@device_option
@precision_option
@download_option
@click.pass_obj
def train_command(
    workspace: Workspace,
    recipe: str,
    values: dict[str, str],
    images: str | None,
    name: str | None,
    updates: int | None,
    seed: int,
    start: str | None,
    checkpoint_minutes: float,
    checkpoint_updates: int,
    keep: int,
    milestones: int,
    probe: str | None,
    probe_updates: int | None,
    nnd: int,
    tensorboard: bool,
    on_collapse: Literal["stop", "rewind"],
    compiled: bool,
    sync_batch_norm: bool,
    device: str,
    precision: str,
    download: bool,
) -> None:
    """Train a DCGAN; go on with an interrupted run of the same name.

    Writes checkpoints, metrics.csv and grids of samples to the workspace. Ctrl-C writes a checkpoint and stops;
    the same command resumes.

    \b
    Example:
      evalkit train-gan
      evalkit train-gan --recipe svhn --updates 20000 --set lr=0.0002 --name svhn-slow
      evalkit train-gan --start imagenet32@2000 --set batch_size=32 --name small-batches
      torchrun --nproc-per-node 8 -m evalkit train-gan --probe cifar10:400
    """
    from evalkit.reproduction import train_gan

    chosen = override(recipe_named(recipe), values | ({"d_updates": str(updates)} if updates else {}))
    options = TrainOptions(
        seed=seed,
        device=device,
        precision=precision,
        checkpoint_minutes=checkpoint_minutes,
        checkpoint_updates=checkpoint_updates,
        keep=keep,
        milestones=milestones,
        nnd_samples=nnd,
        tensorboard=tensorboard,
        on_collapse=on_collapse,
        compile=compiled,
        sync_batch_norm=sync_batch_norm,
    )
    checkpoint = train_gan(
        workspace,
        chosen,
        images=images,
        name=name,
        options=options,
        start=start,
        probe=probe,
        probe_updates=probe_updates,
        download=download,
        say=say,
    )
    click.echo(checkpoint)
