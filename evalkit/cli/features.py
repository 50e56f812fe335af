"""evalkit features: info, export, import, concat."""

from pathlib import Path

import click

from evalkit.cli.options import say
from evalkit.workspace import Workspace

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("features")
def features_command() -> None:
    """Look into feature sets, hand them to other tools, take in features made elsewhere, join sets.

    \b
    Example:
      evalkit features info cifar10--pixels
      evalkit features import X.npy y.npy --test X_test.npy y_test.npy --dataset cifar10 --encoder clip
    """


@features_command.command("info")
@click.argument("features", required=False)
@click.pass_obj
def info_command(workspace: Workspace, features: str | None) -> None:
    """Show what is in FEATURES (a name or path) [default: the latest]: shape, splits, hashes, mean and std a layer.

    \b
    Example:
      evalkit features info
    """
    from evalkit.features.exporting import summary
    from evalkit.features.featureset import KIND, load_features

    path = workspace.find(KIND, features) if features else workspace.latest(KIND)
    click.echo(path)
    for line in summary(load_features(path)):
        click.echo(line)


@features_command.command("export")
@click.argument("features")
@click.argument("out", type=_FILE)
@click.option("--split", help="Rows of this split alone.")
@click.option("--large", is_flag=True, help="Write LIBSVM text of more than 2 GB.")
@click.pass_obj
def export_command(workspace: Workspace, features: str, out: Path, split: str | None, large: bool) -> None:
    """Write FEATURES (a name or path) to OUT: .npz, .parquet, .libsvm, .safetensors or .pt.

    \b
    Example:
      evalkit features export cifar10--pixels pixels.parquet
      evalkit features export cifar10--pixels train.libsvm --split train
    """
    from evalkit.features.exporting import export_features
    from evalkit.features.featureset import KIND, load_features

    click.echo(export_features(load_features(workspace.find(KIND, features)), out, split=split, large=large))


@features_command.command("import")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--test", nargs=2, type=_FILE, help="X and labels of the test split; FILES are the training split.")
@click.option("--splits", type=_FILE, help="A split's name a row (.npy, text), or ranges of rows (.json).")
@click.option("--dataset", help="The data set's name, as figures carry it [default: the first file's].")
@click.option("--encoder", default="imported", show_default=True, help="The encoder's name, as figures carry it.")
@click.option("--name", help="Name of the feature set [default: DATASET--ENCODER].")
@click.option(
    "--dtype", type=click.Choice(["float16", "float32"]), help="Type on disk [default: float16 stays, else float32]."
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
    dtype: str | None,
    replace: bool,
) -> None:
    """Make a feature set of arrays made elsewhere: X.npy (N, D) with labels y.npy, or one file with both.

    One file is an .npz, .pt or .safetensors with features and labels (or X and y) and a split's name a row (split), or
    with X_train, y_train, X_test, y_test. Labels are whole numbers or names; y may be a text file, a line a row.

    \b
    Example:
      evalkit features import X.npy y.npy --test X_test.npy y_test.npy --dataset cifar10 --encoder clip
      evalkit features import embeddings.npz --splits splits.txt
    """
    from evalkit.features.featureset import KIND
    from evalkit.features.importing import import_features

    dataset = dataset or files[0].stem
    target = workspace.path_of(KIND, name or f"{dataset}--{encoder.replace(':', '-')}")
    found = import_features(
        files,
        target,
        dataset=dataset,
        encoder=encoder,
        test=test or None,
        splits=splits,
        dtype=dtype,
        replace=replace,
    )
    workspace.mark_latest(target)
    say(f"{found.features.shape[0]:,} x {found.features.shape[1]:,} features, {len(found.class_names)} classes")
    click.echo(target)


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
    from evalkit.features.featureset import KIND, load_features
    from evalkit.features.transforms import concat

    sets = [load_features(workspace.find(KIND, each)) for each in features]
    encoders = "+".join(each.encoder.replace(":", "-").replace(" ", "-") for each in sets)
    target = workspace.path_of(KIND, name or f"{sets[0].dataset}--{encoders}")
    found = concat(sets, target, replace=replace)
    workspace.mark_latest(target)
    say(f"{found.features.shape[0]:,} x {found.features.shape[1]:,} features by {found.encoder}")
    click.echo(target)
