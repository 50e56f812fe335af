"""evalkit latent forget."""

from pathlib import Path

import click

from evalkit.cli.latent_options import (
    Z_HELP,
    gan_options,
    opened,
    out_option,
    picked_or_drawn,
    seed_option,
    sheet_option,
    write,
)
from evalkit.workspace import Workspace


@click.command("forget")
@click.option(
    "--boxes",
    type=click.Path(dir_okay=False, path_type=Path),
    help='Boxes as JSON, [{"sample": 3, "box": [left, top, right, bottom]}, ...], in pixels [default: proposed by D].',
)
@click.option("--z", "text", metavar="Z", help=f"{Z_HELP} [default: random ones].")
@click.option("--count", type=click.IntRange(min=1), default=150, show_default=True, help="Random z, without --z.")
@click.option("--layer", help="Layer of G whose maps are dropped: first, deconv1 up [default: the second highest].")
@click.option(
    "--propose-layer", help="Layer of D that proposes boxes [default: the last that is at least 8 cells wide]."
)
@click.option("--propose-feature", type=int, help="Map of that layer [default: the one with the rarest responses].")
@click.option("--propose-count", type=click.IntRange(min=1), default=52, show_default=True, help="Boxes to propose.")
@seed_option("random z, of the cells outside boxes and of the maps dropped for comparison")
@sheet_option
@gan_options
@out_option
@click.pass_obj
def forget_command(
    workspace: Workspace,
    boxes: Path | None,
    text: str | None,
    count: int,
    layer: str | None,
    propose_layer: str | None,
    propose_feature: int | None,
    propose_count: int,
    seed: int,
    sheet: Path | None,
    run: str,
    label: int | None,
    device: str,
    out: Path | None,
) -> None:
    """Make G forget what is in boxes: drop the maps that a logistic regression finds to speak for them.

    Without --boxes, D proposes them. To draw them by hand, edit the boxes.json in the printed folder by the numbered
    samples.png beside it and give it back with the same --seed.

    \b
    Example:
      evalkit latent forget
      evalkit latent forget --boxes boxes.json
    """
    from evalkit.latent.boxes import propose_boxes, read_boxes
    from evalkit.latent.critic import Critic
    from evalkit.latent.forget import forget

    gan = opened(workspace, run, label, device)
    z = picked_or_drawn(workspace, gan, text, sheet, count=count, seed=seed)
    by = None
    if boxes:
        chosen = read_boxes(boxes, samples=len(z), size=gan.recipe.size)
    else:
        pictures = gan.pictures(z.to(gan.device))
        chosen, by = propose_boxes(
            Critic(gan), pictures, layer=propose_layer, feature=propose_feature, count=propose_count
        )
    write(workspace, gan, forget(gan, z, chosen, layer=layer, seed=seed, proposed_by=by), out)
