"""prepare: any source of images becomes an image set, resumably, with the same bytes for any number of workers.

The sources (sources/) come before; training and extraction read the ImageSet. The way of an image: a source lists it
in a Plan, a worker decodes and resizes it, ImageSetWriter appends it to images.npy.
"""

import csv
import errno
import io
import logging
import os
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evalkit.artifacts import ArtifactWriter, already_built, new_manifest, write_artifact
from evalkit.errors import EvalkitError, ImageError
from evalkit.files import open_to_write
from evalkit.images.faces import check_opencv
from evalkit.images.imageset import IMAGES, KIND, LABELS, ImageSet, ImageSetInfo, load_images
from evalkit.images.options import PrepareOptions, ResizeOptions
from evalkit.images.sources import plan_source
from evalkit.images.sources.base import Plan, printable, reason, split_of
from evalkit.images.sources.layout import Stated
from evalkit.images.sources.named import NamedFiles, dataset_named, imagenet_folder, named_files
from evalkit.images.workers import Chunk, Task, decoded_chunks, num_cores
from evalkit.npy import NpyWriter
from evalkit.workspace import Workspace

SKIPPED = "skipped.csv"
SAVE_SECONDS = 2.0  # between records of progress, each an fsync: the work that a killed run loses
LISTED_AT_MOST = 20  # skipped images in the manifest and the summary; all are in SKIPPED
# Officially lossless: JPEG images by such a name are another data set, with other results.
_LOSSLESS = ("cifar10", "cifar100", "svhn", "mnist", "stl10")
logger = logging.getLogger(__name__)


def prepare(
    source: Path | str,
    *,
    home: Workspace | Path | str | None = None,
    name: str | None = None,
    options: PrepareOptions | None = None,
    **settings: Any,
) -> ImageSet:
    """Makes an image set of the images in `source`, or returns the finished one if it exists.

    Args:
        source: a folder, file or glob in any of the formats of `evalkit.images.sources`; the name of a data set
            (`evalkit datasets` lists them); or the files of a named data set, wherever they are.
        home: the workspace to write to; by default the files go with the returned object.
        name: the name of the image set; by default that of the folder, the file or the data set.
        options, settings: how to read and resize; `settings` are fields of PrepareOptions by keyword.

    Raises:
        EvalkitError: nothing to prepare, missing files, or the workspace holds something else by this name.
        ImageError: a bad image, in a strict run; or every image is bad.
    """
    options = replace(options or PrepareOptions(), **settings)
    workspace = Workspace.of(home)
    named = named_files(source, workspace.downloads)
    if named:
        images = prepare_named(named, workspace, name or named.name, options)
    else:
        images = _prepare_files(source, workspace, name, options)
    for line in summary(images):
        logger.info(line)
    assert images.directory is not None  # it was opened from disk
    workspace.mark_latest(images.directory)
    return images.keeping(workspace)


def prepare_named(files: NamedFiles, workspace: Workspace, name: str, options: PrepareOptions) -> ImageSet:
    """Makes the image set `name` of a named data set, or returns the finished one.

    Raises:
        EvalkitError: an unknown name, options that do not apply, or missing files, with what belongs where.
    """
    dataset = dataset_named(files.name)
    if options.crop == "faces" or options.decode or options.source_kind or options.split or options.labels_from:
        raise EvalkitError(
            f"{files.name} is a named data set; --crop, --decode and --source-kind, --split and --labels-from are for "
            "your own files"
        )
    target = workspace.path_of(KIND, name)
    if files.name == "imagenet":
        plan = plan_source(imagenet_folder(files.folder))
        return write_plan(plan, target, name=files.name, resize=options.resize(), options=options)
    resize = ResizeOptions(size=options.size or dataset.size, filter=options.filter)
    made_from = {"source": dataset.loader, **dataset.identity}
    settings = {"name": files.name, **asdict(resize)}
    if already_built(target, KIND, settings=settings, made_from=made_from, replace=options.replace):
        return load_images(target)
    plan = _plan_named(files, download=options.download and files.may_download)
    # One process: the images are in memory already and of the right size, or tiny.
    return write_plan(plan, target, name=files.name, resize=resize, options=replace(options, workers=1))


def _plan_named(files: NamedFiles, *, download: bool) -> Plan:
    dataset = dataset_named(files.name)
    try:
        return dataset.plan(files.folder, download)
    except EvalkitError:
        raise
    except Exception as error:  # torchvision's: missing, broken in any way, or the network's
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        problem = "could not be downloaded" if download else "are not complete there"
        raise EvalkitError(
            f"{files.folder}: the files of {files.name} {problem} ({reason(error)}); put there {dataset.files}"
        ) from None


def _prepare_files(source: Path | str, workspace: Workspace, name: str | None, options: PrepareOptions) -> ImageSet:
    resize = options.resize()
    plan = plan_source(source, options.source_kind, Stated(options.split, options.labels_from))
    if options.strict and plan.odd:
        raise EvalkitError(f"{source}: {plan.odd[0]}; --strict stops at it")
    name, notes = _named(plan, name or plan.variant or default_name(source))
    return write_plan(
        replace(plan, notes=(*plan.notes, *notes)),
        workspace.path_of(KIND, name),
        name=name,
        resize=resize,
        options=options,
    )


def default_name(source: Path | str) -> str:
    """The name that a path suggests: the folder's, or the file's unless that names only a split."""
    path = Path(source).absolute()
    stem = path.name if path.is_dir() else path.name.split(".")[0]
    split_file = (
        (split_of([stem]) and stem.split("-")[0].isalpha()) or stem.startswith("0000-") or set(stem) & set("*?[")
    )
    return printable(path.parent.name if split_file and not path.is_dir() else stem) or "images"


def _named(plan: Plan, name: str) -> tuple[str, tuple[str, ...]]:
    """The name and notes about it: lossy images of a lossless data set get the suffix -jpeg."""
    plain = name.lower().replace("-", "").replace("_", "")
    if plain not in _LOSSLESS or not plan.shards or getattr(plan.shards[0], "may_kill", False):
        return name, ()
    first = next(plan.shards[0].read(), None)
    if first is None or not isinstance(first.content, bytes) or not first.content.startswith(b"\xff\xd8"):
        return name, ()
    lossy = f"{plain}-jpeg"
    return lossy, (f"the images are JPEG, {name} is officially lossless: named {lossy}, its results are not {name}'s",)


def write_plan(plan: Plan, target: Path, *, name: str, resize: ResizeOptions, options: PrepareOptions) -> ImageSet:
    """Decodes the images of a plan into the image set in `target`, or returns the finished one.

    Raises:
        EvalkitError, ImageError: as `prepare`.
    """
    settings = {"name": name, **asdict(resize)}
    if options.faces:
        check_opencv()
        settings["faces"] = asdict(options.faces)
    made_from = {"source": plan.kind, **plan.identity}
    if not already_built(target, KIND, settings=settings, made_from=made_from, replace=options.replace):
        with write_artifact(target, settings=settings, made_from=made_from) as work:
            writer = ImageSetWriter(work, resize.size)
            done, read = writer.tally["shards"], writer.tally["read"]
            tasks = [Task(shard, resize, options.strict, options.faces) for shard in plan.shards[done:]]
            with writer, tqdm(total=plan.count, initial=read, unit="image", disable=None) as bar:
                for chunk in decoded_chunks(tasks, workers=options.workers or num_cores()):
                    writer.append(chunk)
                    bar.update(chunk.read)
            writer.finish(plan, new_manifest(KIND, settings=settings, made_from=made_from))
    images = load_images(target)
    info = ImageSetInfo.from_manifest(images.manifest)
    if options.strict and info.counts["skipped"]:
        file, reason = info.first_skipped[0]
        raise ImageError(f"{file}: {reason}; skipped when {target} was made, --strict stops at it")
    return images


class ImageSetWriter:
    """The image set while it grows: rows, labels, skipped images, and the tally that a resumed run starts from."""

    def __init__(self, work: ArtifactWriter, size: int):
        self._work = work
        start: dict[str, Any] = {
            "shards": 0,
            "read": 0,
            "grey": 0,
            "skipped": 0,
            "skipped_bytes": 0,
            "splits": {},
            "formats": {},
            "faces": {},
        }
        self.tally: dict[str, Any] = work.progress or start
        rows = sum(self.tally["splits"].values())
        self._images = NpyWriter(work.path / IMAGES, (size, size, 3), "uint8", rows=rows)
        self._labels = NpyWriter(work.path / LABELS, (), "int64", rows=rows)
        self._skipped = open_to_write(work.path / SKIPPED, "ab")
        self._skipped.truncate(self.tally["skipped_bytes"])
        self._skip([] if work.progress else [("name", "reason")])
        self._saved = time.monotonic()

    def __enter__(self) -> "ImageSetWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Closes the files; after an error the next run cuts off the rows that are not recorded yet."""
        for file in (self._images, self._labels, self._skipped):
            file.close()

    def append(self, chunk: Chunk) -> None:
        """Appends a shard's images; records progress every few seconds."""
        self._images.append(chunk.images)
        self._labels.append(chunk.labels)
        self._skip(chunk.skipped)
        tally = self.tally
        tally["shards"] += 1
        tally["read"] += chunk.read
        tally["grey"] += chunk.grey
        tally["skipped"] += len(chunk.skipped)
        tally["splits"][chunk.split] = tally["splits"].get(chunk.split, 0) + len(chunk.labels)
        tally["formats"] = dict(sorted((Counter(tally["formats"]) + chunk.formats).items()))
        tally["faces"] = dict(sorted((Counter(tally["faces"]) + chunk.faces).items()))
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._images.sync()
            self._labels.sync()
            os.fsync(self._skipped.fileno())
            self._work.save(**tally)
            self._saved = time.monotonic()

    def _skip(self, rows: list[tuple[str, str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.tally["skipped_bytes"] += self._skipped.write(text.getvalue().encode("utf-8", "backslashreplace"))
        self._skipped.flush()

    def finish(self, plan: Plan, manifest: dict[str, Any]) -> None:
        """Turns the folder into the finished image set.

        Raises:
            ImageError: not one image could be read.
        """
        tally = self.tally
        with open(self._work.path / SKIPPED, newline="", encoding="utf-8") as file:
            first = [row for row, _ in zip(csv.reader(file), range(LISTED_AT_MOST + 1), strict=False)][1:]
        splits, row = {}, 0
        for split, count in tally["splits"].items():
            if count:
                splits[split], row = (row, row + count), row + count
        if not row:
            reason = f"; the first: {first[0][0]}: {first[0][1]}" if first else ""
            raise ImageError(f"{self._work.target}: not one image of {tally['read']:,} could be read{reason}")
        info = ImageSetInfo(
            class_names=list(plan.class_names),
            splits=splits,
            counts={"read": tally["read"], "written": row, "grey": tally["grey"], "skipped": tally["skipped"]},
            faces=tally["faces"],
            formats=tally["formats"],
            notes=plan.notes,
            variant=plan.variant,
            first_skipped=first,
        )
        self._work.finish(manifest | info.as_dict())


def summary(images: ImageSet) -> list[str]:
    """What prepare did, as lines for the terminal: counts, splits, notes, the first 20 skipped images."""
    info = ImageSetInfo.from_manifest(images.manifest)
    counts = {key: f"{value:,}" for key, value in info.counts.items()}
    splits = ", ".join(_split_line(images, name) for name in images.splits)
    formats = ", ".join(f"{name} {count:,}" for name, count in info.formats.items())
    height, width = images.images.shape[1:3]
    classes = _classes_line(images)
    faces = ", ".join(f"{name} {info.faces.get(name, 0):,}" for name in ("none", "one", "several"))
    lines = [
        f"{images.name}: {counts['written']} images of {width} x {height} ({splits}), {classes}",
        f"read {counts['read']} ({formats}), converted {counts['grey']} from grayscale, skipped {counts['skipped']}",
        *([f"faces per image: {faces}"] if info.faces else []),
        *info.notes,
        *(f"skipped {name}: {reason}" for name, reason in info.first_skipped),
    ]
    more = info.counts["skipped"] - len(info.first_skipped)
    return lines + ([f"and {more:,} more, all in {SKIPPED}"] if more > 0 else [])


def _split_line(images: ImageSet, split: str) -> str:
    """The number of images of a split, and what it lacks: labels, or classes that the image set has."""
    first, end = images.splits[split]
    labels = np.asarray(images.labels[first:end])
    unlabelled, classes = int((labels < 0).sum()), len(np.unique(labels[labels >= 0]))
    line = f"{split} {end - first:,}"
    if not len(images.class_names):
        return line
    if unlabelled == len(labels):
        return f"{line} without labels"
    lacks = [f"{classes:,} of {len(images.class_names):,} classes"] * (classes < len(images.class_names))
    return line + "".join(f" with {each}" for each in lacks) + f", {unlabelled:,} without a label" * bool(unlabelled)


def _classes_line(images: ImageSet) -> str:
    """The number of classes and their first names, and those that no image has."""
    names = list(images.class_names)
    if not names:
        return "no labels"
    numbers = names == [str(k) for k in range(len(names))]
    listed = f": {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" * (not numbers)
    present = set(np.unique(images.labels).tolist())
    empty = [name for k, name in enumerate(names) if k not in present]
    without = f"; no image of {', '.join(empty[:5])}{', …' if len(empty) > 5 else ''}" * bool(empty)
    return f"{len(names):,} class{'es' if len(names) > 1 else ''}{listed}{without}"
