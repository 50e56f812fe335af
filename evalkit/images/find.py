"""From what a user types after `--dataset` to an opened image set."""

from evalkit.errors import ArtifactError, EvalkitError
from evalkit.images.imageset import KIND, ImageSet, load_images
from evalkit.images.known import known_files
from evalkit.images.named import DATASETS, prepare_named
from evalkit.images.prepare import prepare
from evalkit.workspace import Workspace


def find_images(workspace: Workspace, name_or_path: str, *, download: bool = True, progress: bool = False) -> ImageSet:
    """A prepared set by its path or its name in the workspace; a named data set is prepared on first use.

    Raises:
        EvalkitError: no such set, with the names there are; or the named data set's files are missing.
    """
    try:
        return load_images(workspace.find(KIND, name_or_path))
    except ArtifactError as error:
        place = workspace.home / "images" / name_or_path
        if name_or_path not in DATASETS or place.exists():
            raise EvalkitError(f"{error}; data sets known by name: {', '.join(DATASETS)}") from None
    return prepare_named(
        name_or_path,
        workspace.place(KIND, name_or_path),
        downloads=workspace.downloads,
        download=download,
        progress=progress,
    )


def prepare_from(workspace: Workspace, source: str, dataset: str) -> ImageSet:
    """The pictures of a named data set from where the user has them: its own files, or any source of its pictures.

    Raises:
        EvalkitError: the files of another data set, or what `prepare` raises.
    """
    known = known_files(source)
    if known is None:
        return prepare(source, workspace, name=dataset, progress=True)
    if known[0] != dataset:
        raise EvalkitError(f"{source}: these are the files of {known[0]}, expected those of {dataset}")
    place = workspace.place(KIND, dataset)
    return prepare_named(dataset, place, downloads=known[1], download=False, progress=True)


def images_with_hash(workspace: Workspace, sha256: str) -> ImageSet | None:
    """The image set in the workspace with these pictures, such as those that a network was trained on."""
    for path in workspace.all(KIND):
        try:
            found = load_images(path)
        except ArtifactError:
            continue
        if found.sha256 == sha256:
            return found
    return None
