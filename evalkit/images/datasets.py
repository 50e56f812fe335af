"""From whatever a user gives as images to an opened image set: a name, a path, arrays, a torch Dataset or DataLoader.

`prepare` makes the sets that are not there yet; training and extraction come after.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.artifacts import MANIFEST, read_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.images.arrays import BATCH, Batch, array_batches, batches_of
from evalkit.images.imageset import KIND, ImageSet, identity, load_images, write_batches
from evalkit.images.options import PrepareOptions
from evalkit.images.prepare import prepare, prepare_named
from evalkit.images.sources.named import DATASETS, NamedFiles, known_files
from evalkit.workspace import Workspace

_NEEDS_NO_DOWNLOAD = ("digits",)


def as_image_set(
    images: Any, *, home: Workspace | Path | str | None = None, data: Path | str | None = None, download: bool = True
) -> ImageSet:
    """Whatever stands for images, as an image set.

    Args:
        images: the name of a data set, or the name or path of a prepared image set; an ImageSet; an array or tensor
            (N, H, W, C) or (N, C, H, W), uint8 or floats in [0, 1]; a pair (array, labels); a torch Dataset or
            DataLoader of (image, label), where an image is a PIL image, an array or a tensor; or a dict that maps
            splits to any of these, e.g. {"train": …, "test": …}. Without a dict, all images are the split `train`;
            the rows keep the order in which a Dataset or DataLoader yields them.
        home: the workspace to look in and to write to; by default the files go with the returned object.
        data: the named data set's images, wherever they are (its own files, a folder, Parquet files), instead of a
            download.
        download: download the missing files of a named data set.

    Raises:
        EvalkitError: something else, images or labels that are not valid, or a named data set whose files are missing.
    """
    if isinstance(images, ImageSet):
        return images
    if isinstance(images, (str, Path)):
        return _by_name(str(images), home, data, download)
    if data is not None:
        raise EvalkitError("data= belongs to the name of a data set; here the images are given themselves")
    if isinstance(images, Mapping):
        parts = {str(split): _split_batches(str(split), part, home, download) for split, part in images.items()}
        return write_batches(parts, name="images", class_names=_class_names(images.values()), home=home)
    return write_batches({"train": batches_of(images)}, name="images", class_names=_class_names([images]), home=home)


def _by_name(name: str, home: Workspace | Path | str | None, data: Path | str | None, download: bool) -> ImageSet:
    if data is not None:
        return prepare_from(Workspace.of(home), data, name)
    if home is not None:
        return find_images(Workspace.of(home), name, download=download)
    if (Path(name) / MANIFEST).is_file():
        return load_images(Path(name))
    if name in _NEEDS_NO_DOWNLOAD:
        return find_images(Workspace.of(None), name)
    if name in DATASETS:
        raise EvalkitError(f"{name} has to be downloaded: give home= (a workspace) or data= (where its files are)")
    names = ", ".join(DATASETS)
    raise EvalkitError(f"{name}: no image set there; prepare it first, or give home= or one of the names {names}")


def _split_batches(split: str, images: Any, home: Workspace | Path | str | None, download: bool) -> Iterator[Batch]:
    """The batches of one entry of a dict; of an image set that has the split, only the split."""
    if not isinstance(images, (str, Path, ImageSet)):
        return batches_of(images)
    images = as_image_set(images, home=home, download=download)
    first, end = images.splits.get(split, (0, len(images)))
    return (
        batch
        for start in range(first, end, BATCH)
        for rows in [slice(start, min(start + BATCH, end))]
        for batch in array_batches(images.images[rows], images.labels[rows])
    )


def _class_names(parts: Iterable[Any]) -> Sequence[str] | None:
    """The class names that an image set or a torch Dataset knows (torchvision's `classes`), if all agree."""
    names = []
    for part in parts:
        part = getattr(part, "dataset", part)  # a DataLoader's Dataset
        known = getattr(part, "class_names", None) or getattr(part, "classes", None)
        names.append([str(name) for name in known] if isinstance(known, (list, tuple)) else None)
    return names[0] if names and all(each == names[0] for each in names) else None


def find_images(workspace: Workspace, name_or_path: str, *, download: bool = True, progress: bool = True) -> ImageSet:
    """A prepared set by its path or its name in the workspace; a named data set is prepared on first use.

    Raises:
        EvalkitError: no such set, with the existing names; or the named data set's files are missing.
    """
    try:
        return load_images(workspace.find(KIND, name_or_path)).keeping(workspace)
    except ArtifactError as error:
        target = workspace.home / "images" / name_or_path
        if name_or_path not in DATASETS or target.exists():
            raise EvalkitError(f"{error}; data sets known by name: {', '.join(DATASETS)}") from None
    files = NamedFiles(name_or_path, workspace.downloads, may_download=download)
    return prepare_named(files, workspace, name_or_path, PrepareOptions()).keeping(workspace)


def prepare_from(workspace: Workspace, source: Path | str, dataset: str) -> ImageSet:
    """The images of a named data set from where the user has them: its own files, or any source of its images.

    Raises:
        EvalkitError: the files of another data set, or what `prepare` raises.
    """
    known = known_files(source)
    if known and known[0] != dataset:
        raise EvalkitError(f"{source}: these are the files of {known[0]}, expected those of {dataset}")
    return prepare(source, home=workspace, name=dataset)


def find_images_by_sha256(workspace: Workspace, sha256: str) -> ImageSet | None:
    """The image set in the workspace with these images, such as those that a network was trained on."""
    for path in workspace.artifacts(KIND):
        try:
            if identity(read_manifest(path, KIND)) == sha256:
                return load_images(path)
        except ArtifactError:
            continue
    return None


def list_datasets(home: Workspace | Path | str) -> list[str]:
    """One line per named data set, and one line per image set of the workspace."""
    workspace = Workspace.of(home)
    lines = ["named data sets:"]
    for name, dataset in DATASETS.items():
        prepared = (workspace.path_of(KIND, name) / MANIFEST).exists()
        about = dataset.about.replace("DOWNLOADS", str(workspace.downloads))
        lines.append(f"  {name:<15} {'prepared' if prepared else '-':<9} {about}")
    lines.append(f"image sets in {workspace.home / 'images'}:")
    for path in workspace.artifacts(KIND):
        try:
            images = load_images(path)
        except ArtifactError as error:
            lines.append(f"  {path.name}: broken ({error})")
            continue
        splits = ", ".join(f"{split} {end - first:,}" for split, (first, end) in images.splits.items())
        lines.append(f"  {path.name}: {images.images.shape[1]} x {images.images.shape[2]} pixels, {splits}")
    return lines
