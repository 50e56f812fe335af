"""evalkit latent nearest and filters."""

from typing import TYPE_CHECKING

import click

from evalkit.cli.latent.options import Opened, latent_command, seed_option, sheet_option, z_options

if TYPE_CHECKING:
    from evalkit.latent.experiment import ExperimentResult

_IMAGES_HELP = "Image set by name or path [default: the one in the workspace that the run was trained on]."


def _numbers(ctx: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """A text like 0-5,9 as numbers."""
    from evalkit.latent.vectors import numbers_in

    return numbers_in(text)


@click.command("nearest")
@z_options(count=64)
@click.option("--images", help=_IMAGES_HELP)
@click.option(
    "--held-out",
    help="Image set of images of the same kind that the run was not trained on [default: the `test` split of the "
    "training images' set, else training images, each to the others].",
)
@click.option(
    "--held-out-count", type=click.IntRange(min=2), default=128, show_default=True, help="Held-out images, at random."
)
@click.option(
    "--num-images",
    type=click.IntRange(min=0),
    default=100_000,
    show_default=True,
    help="Training images compared in pixels, at random; 0: all.",
)
@click.option(
    "--feature-images",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Of these, compared in features, at random, beside each image's four nearest in pixels; 0: all.",
)
@seed_option("random z and of all that is chosen at random")
@sheet_option
@latent_command
def nearest_command(
    opened: Opened,
    text: str | None,
    count: int,
    images: str | None,
    held_out: str | None,
    held_out_count: int,
    num_images: int,
    feature_images: int,
    seed: int,
) -> "ExperimentResult":
    """Find the training images nearest to samples: memorised or not, beside held-out real images.

    A share of samples nearer than the 5th percentile of held-out images far above 5 %, in pixels and in features,
    speaks for memorising.

    \b
    Example:
      evalkit latent nearest
      evalkit latent nearest --z 3,17,40 --held-out cifar10 --feature-images 0
    """
    from evalkit.images import find_images
    from evalkit.latent.model import trained_on
    from evalkit.latent.nearest import comparison, nearest

    other = find_images(opened.workspace, held_out) if held_out else None
    training = trained_on(opened.gan, opened.workspace, images)
    against = comparison(training, held_out=other, count=held_out_count, num_images=num_images, seed=seed)
    z = opened.z_or_random(text, count=count, seed=seed)
    return nearest(opened.gan, z, against, feature_images=feature_images, seed=seed)


@click.command("filters")
@click.option("--layer", help="Conv layer of D: conv1 up [default: the last].")
@click.option("--features", default="0-5", show_default=True, callback=_numbers, help="Maps of the layer, as 0-5,9.")
@click.option("--top", type=click.IntRange(min=1), default=6, show_default=True, help="Images for each feature.")
@click.option("--images", help=_IMAGES_HELP)
@click.option(
    "--num-images", type=click.IntRange(min=2), default=512, show_default=True, help="Images searched, at random."
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=64, show_default=True, help="Of the gradient ascent on the input."
)
@seed_option("the images, the random weights and the ascent's start")
@latent_command
def filters_command(
    opened: Opened,
    layer: str | None,
    features: list[int],
    top: int,
    images: str | None,
    num_images: int,
    steps: int,
    seed: int,
) -> "ExperimentResult":
    """Show what drives features of D: guided backpropagation and inputs made by gradient ascent, beside random weights.

    \b
    Example:
      evalkit latent filters
      evalkit latent filters --layer conv4 --features 0-9,40
    """
    from evalkit.latent.filters import filters
    from evalkit.latent.model import trained_on
    from evalkit.latent.nearest import training_rows

    training = trained_on(opened.gan, opened.workspace, images)
    searched = training.images[training_rows(training, num_images, seed=seed)]
    return filters(opened.gan, searched, layer=layer, features=features, top=top, steps=steps, seed=seed)
