"""evalkit extract."""

from typing import Any

import click

from evalkit.cli.options import device_option, download_option, precision_option, say
from evalkit.workspace import Workspace


@click.command("extract")
@click.option("--dataset", default="cifar10", show_default=True, help="Named data set, image set or path to one.")
@click.option(
    "--encoder",
    default="latest",
    show_default=True,
    help="Run (latest: the last one), checkpoint, or another kind's PREFIX:NAME or path, as the README lists them.",
)
@click.option("--list-layers", is_flag=True, help="Show the encoder's layers, their shapes and lengths, and stop.")
@click.option("--layers", metavar="A,B", help="Layers to take [default: the paper's, or what the encoder returns].")
@click.option(
    "--pool-size", type=click.IntRange(min=1), default=4, show_default=True, help="Cells a side of pooled maps."
)
@click.option(
    "--pool",
    type=click.Choice(["max", "average", "none"]),
    default="max",
    show_default=True,
    help="How maps are pooled to the grid; none: they stay whole.",
)
@click.option(
    "--tokens",
    type=click.Choice(["mean", "class"]),
    default="mean",
    show_default=True,
    help="Of a transformer layer's tokens: their mean, or the first, the class token.",
)
@click.option(
    "--layout",
    type=click.Choice(["auto", "channels-first", "channels-last"]),
    default="auto",
    show_default=True,
    help="Of maps in the network; auto: of each layer, the axes that grow with the image are height and width.",
)
@click.option(
    "--batch-norm",
    type=click.Choice(["target", "source", "running", "batch"]),
    help="Statistics: of the data set's training images, of the images trained on, of the training itself, or of "
    "each batch [default: target, the paper's, for runs and random:RECIPE, else running].",
)
@click.option("--hflip", is_flag=True, help="Mean of the features of each image and of its mirror image.")
@click.option(
    "--shift",
    type=click.IntRange(min=0),
    default=0,
    metavar="PIXELS",
    help="Mean of the features of each image and of four copies shifted along both axes (five times the work).",
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
    list_layers: bool,
    layers: str | None,
    pool_size: int,
    pool: Any,
    tokens: Any,
    layout: Any,
    batch_norm: Any,
    hflip: bool,
    shift: int,
    dtype: str,
    device: str,
    precision: str,
    download: bool,
) -> None:
    """Write the features of every image of a data set: layers' maps max-pooled to 4 x 4, concatenated.

    The features open with numpy (features.npy in the printed folder). An interrupted extraction goes on where it was.
    Under torchrun each process takes a share of the images. FILE.py:FACTORY runs that file with your rights.

    \b
    Example:
      evalkit extract --dataset cifar10
      evalkit extract --dataset svhn --encoder random:imagenet32
      evalkit extract --encoder pretrained:imagenet32-tiny --batch-norm source --mirror --shift 2
      evalkit extract --encoder torchvision:resnet18 --list-layers
      evalkit extract --encoder mine.py:network --layers block2,block3 --pool-size 2
    """
    from evalkit.features.augmentation import Augmentation
    from evalkit.features.extract import encoder_layers, extract_features
    from evalkit.features.pooling import LayerSelection

    taps = LayerSelection(tuple(filter(None, (layers or "").split(","))), pool_size, pool, tokens, layout)
    if list_layers:
        show_layers(encoder_layers(workspace, dataset, encoder, taps, download=download, say=say))
        return
    arithmetic = {"dtype": dtype, "device": device, "precision": precision}
    features = extract_features(
        workspace,
        dataset,
        encoder,
        layer_selection=taps,
        batch_norm=batch_norm,
        augmentation=Augmentation(hflip, shift),
        **arithmetic,
        download=download,
        say=say,
    )
    for layer in features.layers:
        say(f"{layer.name}: {layer.channels} maps, columns {layer.offset} to {layer.offset + layer.length - 1}")
    count, length = features.features.shape
    click.echo(f"{count:,} x {length:,} features of {features.dataset} by {features.encoder}")


def show_layers(found: list[tuple[Any, tuple[int, ...], bool]]) -> None:
    """A table of layers: taken or not, name, output shape, its axes, length at the grid; the sum of those taken.

    Axes are channels, height and width of maps, tokens and channels of a transformer, or the numbers of a vector.
    """
    width = max(len(layer.name) for layer, _, _ in found)
    for layer, shape, taken in found:
        shown = " x ".join(str(side) for side in shape)
        axes = ("D", "T C", "H W C" if layer.channels_last else "C H W")[len(shape) - 1]
        click.echo(f"{'*' if taken else ' '} {layer.name:<{width}}  {shown:>16}  {axes:<5}  {layer.length:>9,}")
    total = sum(layer.length for layer, _, taken in found if taken)
    click.echo(f"* taken: {total:,} features an image")
