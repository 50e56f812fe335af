"""evalkit features: info, export, import, concat."""

from pathlib import Path
from typing import Any

import click

from evalkit.workspace import Workspace

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("features")
def features_command() -> None:
    """Describe, export, import and concatenate feature sets.

    \b
    Example:
      evalkit features info cifar10--pixels
      evalkit features import X.npy y.npy --test X_test.npy y_test.npy --dataset cifar10 --encoder clip
    """


@features_command.command("info")
@click.argument("features", required=False)
@click.pass_obj
def info_command(workspace: Workspace, features: str | None) -> None:
    """Describe FEATURES (a name or path) [default: the latest]: shape, splits, hashes, mean and std per layer.

    \b
    Example:
      evalkit features info
    """
    from evalkit import describe_features

    click.echo(describe_features(features, home=workspace))


@features_command.command("export")
@click.argument("features")
@click.argument("out", type=_FILE)
@click.option("--split", help="Write the rows of this split only.")
@click.option("--large", is_flag=True, help="Write LIBSVM text of more than 2 GB.")
@click.pass_obj
def export_command(workspace: Workspace, features: str, out: Path, split: str | None, large: bool) -> None:
    """Write FEATURES (a name or path) to OUT: .npz, .parquet, .libsvm, .safetensors or .pt.

    \b
    Example:
      evalkit features export cifar10--pixels pixels.parquet
      evalkit features export cifar10--pixels train.libsvm --split train
    """
    from evalkit import export_features

    click.echo(export_features(features, out, home=workspace, split=split, large=large))


@features_command.command("import")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--test", nargs=2, type=_FILE, help="X and labels of the test split; FILES are the training split.")
@click.option(
    "--splits", type=_FILE, help="The name of a split per row (.npy or text), or ranges of rows per split (.json)."
)
@click.option("--dataset", help="Name of the data set, as results show it [default: the first file's name].")
@click.option("--encoder", default="imported", show_default=True, help="Name of the encoder, as results show it.")
@click.option("--name", help="Name of the feature set [default: DATASET--ENCODER].")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    help="Type on disk [default: float16 stays, other types become float32].",
)
@click.option("--replace", is_flag=True, help="Overwrite other features of that name.")
@click.pass_obj
def import_command(
    workspace: Workspace,
    files: tuple[Path, ...],
    test: tuple[Path, Path] | None,
    splits: Path | None,
    dataset: str | None,
    encoder: str,
    name: str | None,
    dtype: Any,
    replace: bool,
) -> None:
    """Make a feature set of arrays made elsewhere: X.npy (N, D) with labels y.npy, or one file with both.

    One file is an .npz, .pt or .safetensors with features and labels (or X and y) and the name of a split per row
    (split), or with X_train, y_train, X_test, y_test. Labels are whole numbers or names; y may be a text file with one
    line per row.

    \b
    Example:
      evalkit features import X.npy y.npy --test X_test.npy y_test.npy --dataset cifar10 --encoder clip
      evalkit features import embeddings.npz --splits splits.txt
    """
    from evalkit import import_features

    imported = import_features(
        files,
        home=workspace,
        test=test,
        splits=splits,
        dataset=dataset,
        encoder=encoder,
        name=name,
        dtype=dtype,
        replace=replace,
    )
    click.echo(imported.path)


@features_command.command("concat")
@click.argument("features", nargs=-1, required=True)
@click.option("--name", help="Name of the feature set [default: DATASET--ENCODER+ENCODER].")
@click.option("--replace", is_flag=True, help="Overwrite other features of that name.")
@click.pass_obj
def concat_command(workspace: Workspace, features: tuple[str, ...], name: str | None, replace: bool) -> None:
    """Put the columns of several feature sets (names or paths) of the same images side by side.

    \b
    Example:
      evalkit features concat cifar10--imagenet32@800 cifar10--pixels
    """
    from evalkit import concat_features

    click.echo(concat_features(features, home=workspace, name=name, replace=replace).path)
