"""evalkit extract."""

from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import device_option, download_option, precision_option, settings_options
from evalkit.features.options import Augmentation, ExtractOptions, LayerSelection
from evalkit.workspace import Workspace

if TYPE_CHECKING:
    from evalkit.features.encoder_setup import LayerEntry


@click.command("extract")
@click.option(
    "--dataset", default="cifar10", show_default=True, help="Name of a data set, or name or path of an image set."
)
@click.option(
    "--encoder",
    default="latest",
    show_default=True,
    help="A run (latest: the last one), a checkpoint, or another kind's PREFIX:NAME or path, as the README lists them.",
)
@click.option("--list-layers", is_flag=True, help="List the encoder's layers, their shapes and lengths, and stop.")
@click.option("--layers", metavar="A,B", default="", help="Layers [default: the paper's, or what the encoder returns].")
@settings_options(LayerSelection)
@settings_options(Augmentation)
@settings_options(ExtractOptions)
@device_option
@precision_option
@download_option
@click.pass_obj
def extract_command(
    workspace: Workspace,
    dataset: str,
    encoder: str,
    list_layers: bool,
    layers: str,
    hflip: bool,
    shift: int,
    batch_norm: Any,
    dtype: Any,
    device: str,
    precision: str,
    download: bool,
    **pooling: Any,
) -> None:
    """Write the features of every image of a data set: the maps of layers max-pooled to 4 x 4, concatenated.

    NumPy opens the features (features.npy in the printed folder). An interrupted extraction resumes. Under torchrun
    each process takes a share of the images. FILE.py:FACTORY runs that file with your rights.

    \b
    Example:
      evalkit extract --dataset cifar10
      evalkit extract --dataset svhn --encoder random:imagenet32
      evalkit extract --encoder pretrained:imagenet32-tiny --batch-norm source --hflip --shift 2
      evalkit extract --encoder torchvision:resnet18 --list-layers
      evalkit extract --encoder mine.py:network --layers block2,block3 --pool-size 2
    """
    import evalkit

    selection = LayerSelection(tuple(filter(None, layers.split(","))), **pooling)
    if list_layers:
        print_layers(evalkit.list_layers(encoder, dataset, home=workspace, layers=selection, download=download))
        return
    features = evalkit.extract(
        dataset,
        encoder,
        home=workspace,
        layers=selection,
        augmentation=Augmentation(hflip, shift),
        batch_norm=batch_norm,
        dtype=dtype,
        device=device,
        precision=precision,
        download=download,
    )
    count, length = features.features.shape
    click.echo(f"{count:,} x {length:,} features of {features.dataset} by {features.encoder}")


def print_layers(entries: "list[LayerEntry]") -> None:
    """Prints a table of layers: selected or not, name, output shape, its axes, number of features; then their sum.

    The axes are channels, height and width of maps, tokens and channels of a transformer, or the length of a vector.
    """
    width = max(len(entry.layer.name) for entry in entries)
    for layer, shape, selected in entries:
        sides = " x ".join(str(side) for side in shape)
        axes = ("D", "T C", "H W C" if layer.channels_last else "C H W")[len(shape) - 1]
        click.echo(f"{'*' if selected else ' '} {layer.name:<{width}}  {sides:>16}  {axes:<5}  {layer.length:>9,}")
    total = sum(entry.layer.length for entry in entries if entry.selected)
    click.echo(f"* selected: {total:,} features per image")
