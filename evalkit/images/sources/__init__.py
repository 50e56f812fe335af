"""Sources: every format in which people hold images, read into a Plan. One file per format; prepare comes after."""

import fnmatch
import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.images.sources.base import Plan
from evalkit.images.sources.folder import folder_plan, listing_plan
from evalkit.images.sources.imagenet32 import downsampled_plan, is_downsampled
from evalkit.images.sources.lsun import is_lmdb, lsun_plan
from evalkit.images.sources.npz import npz_plan
from evalkit.images.sources.parquet import parquet_plan
from evalkit.images.sources.tar import is_webdataset, tar_plan, webdataset_plan


@dataclass(frozen=True)
class Source:
    """A format of source.

    Attributes:
        fits: whether (folder or common parent, files by suffix or glob) have this format.
        plan: reads the same pair into a Plan.
        about: what it is, for the help text.
    """

    fits: Callable[[Path, Sequence[Path]], bool]
    plan: Callable[[Path, Sequence[Path]], Plan]
    about: str


def _all_with_suffix(*suffixes: str) -> Callable[[Path, Sequence[Path]], bool]:
    return lambda root, files: bool(files) and all(path.suffix.lower() in suffixes for path in files)


# Tried in this order: a folder of Parquet files is a folder, too. The names are those of options.SourceKind.
SOURCES = {
    "parquet": Source(_all_with_suffix(".parquet"), parquet_plan, "Hugging Face's Parquet files, one or many"),
    "webdataset": Source(is_webdataset, webdataset_plan, "WebDataset shards: tars of 17.jpg, 17.cls"),
    "tar": Source(
        _all_with_suffix(".tar", ".tgz", ".gz"), tar_plan, "tars of folders, or ImageNet's tar of tars; never unpacked"
    ),
    "downsampled-imagenet": Source(is_downsampled, downsampled_plan, "the batches of ImageNet 32x32, npz or pickled"),
    "npz": Source(_all_with_suffix(".npz"), npz_plan, "NumPy arrays: images, labels"),
    "lsun": Source(is_lmdb, lsun_plan, "LSUN's LMDB folders (extra [lsun])"),
    "list": Source(_all_with_suffix(".txt", ".tsv"), listing_plan, "a text file of paths, with or without labels"),
    "folder": Source(
        lambda root, files: root.is_dir() and not files, folder_plan, "one folder per class, or a flat folder"
    ),
}
# The files that make a folder more than a folder of images, in this order. Text files beside images do not.
_IN_FOLDERS = ("*.parquet", "*.tar", "train_data_batch_*", "val_data*", "*.npz", "data.mdb")


def plan_source(source: Path | str, kind: str | None = None) -> Plan:
    """Reads what `source` (a file, a folder, a glob) holds; the format is detected unless given.

    Raises:
        EvalkitError: nothing there, or no known format.
    """
    root, files = _located(source)
    if kind is not None and kind not in SOURCES:
        raise EvalkitError(f"no source {kind!r}; choose from {', '.join(SOURCES)}")
    if kind == "folder" and not Path(source).is_dir():
        raise EvalkitError(f"{source}: not a folder; give the folder of the images, or another --source-kind")
    for name, candidate in SOURCES.items():
        if name == kind or (kind is None and candidate.fits(root, files)):
            return candidate.plan(root, files)
    endings = ", ".join(sorted({path.suffix or path.name for path in files}))
    raise EvalkitError(
        f"{source}: files ending in {endings}; expected a folder of images, or one of {', '.join(SOURCES)}"
    )


def _containers(folder: Path) -> list[Path]:
    """The files below a folder that hold many images each, all of one format."""
    matches: dict[str, list[Path]] = {pattern: [] for pattern in _IN_FOLDERS}
    for parent, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            pattern = next((p for p in _IN_FOLDERS if fnmatch.fnmatch(name, p) and not name.startswith(".")), None)
            if pattern:
                matches["train_data_batch_*" if pattern == "val_data*" else pattern].append(Path(parent, name))
    return next((paths for paths in matches.values() if paths), [])


def _located(source: Path | str) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files that hold many images (Parquet, npz, …)."""
    path = Path(source)
    if path.is_dir():
        return path, _containers(path)
    if path.exists():
        return path.parent, [path]
    files = sorted(Path(name) for name in glob.glob(str(source), recursive=True))
    if not files:
        raise EvalkitError(f"{source}: no such file or folder; expected images there")
    return files[0].parent if len({p.parent for p in files}) == 1 else Path(files[0].anchor or "."), files
