"""evalkit latent forget."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evalkit.cli.latent.options import Opened, latent_command, seed_option, sheet_option, z_options

if TYPE_CHECKING:
    from evalkit.latent.experiment import ExperimentResult


@click.command("forget")
@click.option(
    "--boxes",
    type=click.Path(dir_okay=False, path_type=Path),
    help='Boxes as JSON, [{"sample": 3, "box": [left, top, right, bottom]}, ...], in pixels [default: proposed by D].',
)
@z_options(count=150)
@click.option("--layer", help="Layer of G whose maps are dropped: first, deconv1 up [default: the second highest].")
@click.option(
    "--propose-layer", help="Layer of D that proposes boxes [default: the last that is at least 8 cells wide]."
)
@click.option("--propose-feature", type=int, help="Map of that layer [default: the one with the rarest responses].")
@click.option("--propose-count", type=click.IntRange(min=1), default=52, show_default=True, help="Boxes to propose.")
@seed_option("random z, of the cells outside boxes and of the maps dropped for comparison")
@sheet_option
@latent_command
def forget_command(
    opened: Opened,
    boxes: Path | None,
    text: str | None,
    count: int,
    layer: str | None,
    propose_layer: str | None,
    propose_feature: int | None,
    propose_count: int,
    seed: int,
) -> "ExperimentResult":
    """Make G forget what is in boxes: drop the maps that a logistic regression finds to speak for them.

    Without --boxes, D proposes them. To draw them by hand, edit the boxes.json in the printed folder by the numbered
    samples.png beside it and give it back with the same --seed.

    \b
    Example:
      evalkit latent forget
      evalkit latent forget --boxes boxes.json
    """
    from evalkit.latent.forget import forget, propose_boxes, read_boxes
    from evalkit.latent.model import FrozenDiscriminator

    z = opened.z_or_random(text, count=count, seed=seed)
    by = None
    if boxes:
        chosen = read_boxes(boxes, samples=len(z), size=opened.gan.recipe.size)
    else:
        images = opened.gan.images(z.to(opened.gan.device))
        chosen, by = propose_boxes(
            FrozenDiscriminator(opened.gan), images, layer=propose_layer, feature=propose_feature, count=propose_count
        )
    return forget(opened.gan, z, chosen, layer=layer, seed=seed, proposed_by=by)
