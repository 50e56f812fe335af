"""evalkit latent nearest, filters and forget: experiments on what the networks have learned."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.latent.options import Opened, latent_command, sheet_option, z_options
from evalkit.cli.options import settings_options
from evalkit.latent.settings import FilterSettings, ForgetSettings, NearestSettings

if TYPE_CHECKING:
    from evalkit.latent import ExperimentResult

_images_option = click.option(
    "--images", help="Image set by name or path [default: the one in the workspace that the run was trained on]."
)


@click.command("nearest")
@z_options(count=64)
@_images_option
@click.option(
    "--held-out",
    help="Image set of the same kind of images that the run was not trained on [default: the `test` split of the "
    "training images' set, else training images, each compared with the others].",
)
@settings_options(NearestSettings)
@sheet_option
@latent_command
def nearest_command(
    opened: Opened, text: str | None, count: int, images: str | None, held_out: str | None, **options: Any
) -> "ExperimentResult":
    """Find the training images nearest to samples: memorized or not, beside held-out real images.

    A share of samples nearer than the 5th percentile of held-out images far above 5 %, in pixels and in features,
    is a sign of memorization.

    \b
    Example:
      evalkit latent nearest
      evalkit latent nearest --z 3,17,40 --held-out cifar10 --feature-images 0
    """
    from evalkit import nearest_training_images

    settings = NearestSettings(**options)
    z = opened.z_or_random(text, count=count, seed=settings.seed)
    return nearest_training_images(opened.gan, z, settings, images=images, held_out=held_out, home=opened.workspace)


def _numbers(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """A text like 0-5,9 as numbers."""
    from evalkit.latent import parse_numbers

    return tuple(parse_numbers(text))


@click.command("filters")
@_images_option
@click.option(
    "--features",
    default=f"{FilterSettings.features[0]}-{FilterSettings.features[-1]}",
    show_default=True,
    callback=_numbers,
    help="Feature maps of the layer, such as 0-5,9.",
)
@settings_options(FilterSettings)
@latent_command
def filters_command(opened: Opened, images: str | None, **options: Any) -> "ExperimentResult":
    """Show what drives features of D: guided backpropagation and inputs made by gradient ascent, beside random weights.

    \b
    Example:
      evalkit latent filters
      evalkit latent filters --layer conv4 --features 0-9,40
    """
    from evalkit import visualize_filters

    return visualize_filters(opened.gan, images, FilterSettings(**options), home=opened.workspace)


@click.command("forget")
@click.option(
    "--boxes",
    type=click.Path(dir_okay=False, path_type=Path),
    help='Boxes as JSON, [{"sample": 3, "box": [left, top, right, bottom]}, ...], in pixels [default: proposed by D].',
)
@z_options(count=150)
@settings_options(ForgetSettings)
@sheet_option
@latent_command
def forget_command(
    opened: Opened, boxes: Path | None, text: str | None, count: int, **options: Any
) -> "ExperimentResult":
    """Make G forget what is in boxes: drop the maps that, by a logistic regression, speak for them.

    Without --boxes, D proposes them. To draw them by hand, edit the boxes.json in the printed folder with the help of
    the numbered samples.png beside it, and pass it back with the same --seed.

    \b
    Example:
      evalkit latent forget
      evalkit latent forget --boxes boxes.json
    """
    from evalkit import forget_object

    settings = ForgetSettings(**options)
    z = opened.z_or_random(text, count=count, seed=settings.seed)
    return forget_object(opened.gan, z, boxes, settings)
