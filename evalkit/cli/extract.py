"""evalkit extract."""

import click

from evalkit.cli.options import device_option, download_option, precision_option, say
from evalkit.workspace import Workspace


@click.command("extract")
@click.option("--dataset", default="cifar10", show_default=True, help="Named data set, image set or path to one.")
@click.option(
    "--encoder",
    default="latest",
    show_default=True,
    help="Run or checkpoint (name or path), random:RECIPE, or pixels; latest: the latest run.",
)
@click.option(
    "--batch-norm",
    type=click.Choice(["target", "source", "running"]),
    default="target",
    show_default=True,
    help="Statistics: of the data set's training pictures (the paper's), of the GAN's, or the GAN's running ones.",
)
@click.option(
    "--dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True, help="Type on disk."
)
@device_option
@precision_option
@download_option
@click.pass_obj
def extract_command(
    workspace: Workspace,
    dataset: str,
    encoder: str,
    batch_norm: str,
    dtype: str,
    device: str,
    precision: str,
    download: bool,
) -> None:
    """Write the features of every picture of a data set: conv layers max-pooled to 4 x 4, concatenated.

    The features open with numpy (features.npy in the printed folder). An interrupted extraction goes on where it was.

    \b
    Example:
      evalkit extract --dataset cifar10
      evalkit extract --dataset svhn --encoder random:imagenet32
    """
    from evalkit.pipeline import extract_features

    features = extract_features(
        workspace,
        dataset,
        encoder,
        batch_norm=batch_norm,  # type: ignore[arg-type]
        dtype=dtype,
        device=device,
        precision=precision,
        download=download,
        say=say,
    )
    for layer in features.layers:
        say(f"{layer.name}: {layer.maps} maps, columns {layer.offset} to {layer.offset + layer.length - 1}")
    count, length = features.features.shape
    click.echo(f"{count:,} x {length:,} features of {features.dataset} by {features.encoder}")
