"""Sources: every format in which people hold images, read into a Plan. One file per format; prepare comes after."""

import fnmatch
import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.images.sources.base import Plan, printable, reading
from evalkit.images.sources.folder import folder_plan
from evalkit.images.sources.imagenet32 import downsampled_plan, is_downsampled
from evalkit.images.sources.layout import UNSTATED, Stated
from evalkit.images.sources.listing import listing_plan
from evalkit.images.sources.lsun import is_lmdb, lsun_plan
from evalkit.images.sources.npz import npz_plan
from evalkit.images.sources.parquet import parquet_plan
from evalkit.images.sources.tar import is_webdataset, tar_plan, webdataset_plan

_LAYOUT = 2  # raised when the same files become another image set: other splits, labels or images


@dataclass(frozen=True)
class Source:
    """A format of source.

    Attributes:
        fits: whether (folder or common parent, files by suffix or glob) have this format.
        plan: reads the same pair into a Plan, and what the user states if `states`.
        about: what it is, for the help text.
        states: whether splits by folder or file and the place of the labels can be stated.
    """

    fits: Callable[[Path, Sequence[Path]], bool]
    plan: Callable[..., Plan]
    about: str
    states: bool = True


def _all_with_suffix(*suffixes: str) -> Callable[[Path, Sequence[Path]], bool]:
    return lambda root, files: bool(files) and all(path.suffix.lower() in suffixes for path in files)


# Tried in this order: a folder of Parquet files is a folder, too. The names are those of options.SourceKind.
SOURCES = {
    "parquet": Source(_all_with_suffix(".parquet"), parquet_plan, "Hugging Face's Parquet files, one or many"),
    "webdataset": Source(is_webdataset, webdataset_plan, "WebDataset shards: tars of 17.jpg, 17.cls"),
    "tar": Source(
        _all_with_suffix(".tar", ".tgz", ".gz"), tar_plan, "tars of folders, or ImageNet's tar of tars; never unpacked"
    ),
    "downsampled-imagenet": Source(
        is_downsampled, downsampled_plan, "the batches of ImageNet 32x32, npz or pickled", False
    ),
    "npz": Source(_all_with_suffix(".npz"), npz_plan, "NumPy arrays: images, labels", False),
    "lsun": Source(is_lmdb, lsun_plan, "LSUN's LMDB folders (extra [lsun])", False),
    "list": Source(
        _all_with_suffix(".txt", ".tsv", ".csv"), listing_plan, "a text file of paths, with or without labels"
    ),
    "folder": Source(
        lambda root, files: root.is_dir() and not files, folder_plan, "one folder per class, or a flat folder"
    ),
}
# The files that make a folder more than a folder of images, in this order. Text files beside images do not.
_IN_FOLDERS = ("*.parquet", "*.tar", "train_data_batch_*", "val_data*", "*.npz", "data.mdb")


def plan_source(source: Path | str, kind: str | None = None, stated: Stated = UNSTATED) -> Plan:
    """Reads what `source` (a file, a folder, a glob) holds; the format is detected unless given.

    Raises:
        EvalkitError: nothing there, no known format, damaged files, or a layout that is stated and not there.
    """
    if kind is not None and kind not in SOURCES:
        raise EvalkitError(f"no source {kind!r}; choose from {', '.join(SOURCES)}")
    root, files, beside = _located(source)
    if kind == "folder" and not Path(source).is_dir():
        raise EvalkitError(f"{source}: not a folder; give the folder of the images, or another --source-kind")
    for name, candidate in SOURCES.items():
        if name == kind or (kind is None and candidate.fits(root, files)):
            with reading(source, name):
                plan = _stated_plan(candidate, name, root, files, stated)
            notes = (*plan.notes, *beside) if name != "folder" else plan.notes
            odd = (*plan.odd, *beside) if name != "folder" else plan.odd
            return replace(plan, identity=plan.identity | _identity(stated), notes=notes, odd=odd)
    endings = ", ".join(sorted({printable(path.suffix or path.name) for path in files}))
    raise EvalkitError(
        f"{source}: files ending in {endings}; expected a folder of images, or one of {', '.join(SOURCES)}"
    )


def _identity(stated: Stated) -> dict[str, Any]:
    """What makes another image set of the same files."""
    given = {"split": stated.split, "labels_from": stated.labels_from}
    return {"layout": _LAYOUT} | {key: value for key, value in given.items() if value} | stated.list_identity()


def _stated_plan(source: Source, name: str, root: Path, files: Sequence[Path], stated: Stated) -> Plan:
    """The plan of a source; one split that is stated for all images replaces the plan's."""
    if not source.states and (stated.pairs or stated.labels_from):
        raise EvalkitError(
            f"{name} says its splits and labels itself; --split FOLDER=SPLIT and --labels-from do not fit"
        )
    plan = source.plan(root, files, stated) if source.states else source.plan(root, files)
    if not stated.split or stated.split == "none" or stated.pairs:
        return plan
    shards: list[Any] = [replace(shard, split=stated.split) for shard in plan.shards]  # type: ignore[type-var]
    return replace(plan, shards=shards)


def _containers(folder: Path) -> tuple[list[Path], list[str]]:
    """The files below a folder that hold many images each, all of one format, and notes on those of other formats."""
    matches: dict[str, list[Path]] = {pattern: [] for pattern in _IN_FOLDERS}
    for parent, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            pattern = next((p for p in _IN_FOLDERS if fnmatch.fnmatch(name, p) and not name.startswith(".")), None)
            if pattern:
                matches["train_data_batch_*" if pattern == "val_data*" else pattern].append(Path(parent, name))
    present = [paths for paths in matches.values() if paths]
    others = [printable(path.name) for paths in present[1:] for path in paths]
    listed = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
    return next(iter(present), []), [f"left out: files of other formats in the same folder ({listed})"] * bool(others)


def _located(source: Path | str) -> tuple[Path, list[Path], list[str]]:
    """The folder that names are relative to, the files that hold many images (Parquet, npz, …), and notes."""
    path = Path(source)
    if path.is_dir():
        return path, *_containers(path)
    if path.exists():
        return path.parent, [path], []
    files = sorted(Path(name) for name in glob.glob(str(source), recursive=True))
    if not files:
        raise EvalkitError(f"{source}: no such file or folder; expected images there")
    return Path(os.path.commonpath([path.parent for path in files])), files, []
