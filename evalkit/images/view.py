"""Some rows of an image set as an image set: an index, no copy of the pictures. What deduplication leaves."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.artifacts import Manifest, new_manifest, sha256_json
from evalkit.errors import ArtifactError

ROWS = "rows.npy"


class Rows:
    """Rows of an array, read when indexed; slices stay views. Stands where a memory-mapped array may stand."""

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self._array, self._rows = array, rows
        self.shape = (len(rows), *array.shape[1:])
        self.dtype = array.dtype
        self.ndim = array.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        """A slice of rows is a view; a row, rows by number, or a tuple are read."""
        if isinstance(key, slice):
            return Rows(self._array, self._rows[key])
        first, *rest = key if isinstance(key, tuple) else (key,)
        read = self._array[self._rows[first]]
        return read[(slice(None),) * int(not np.isscalar(first)) + tuple(rest)] if rest else read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._array[self._rows], dtype=dtype)


def view_manifest(
    parent: Path, sha256: str, class_names: Sequence[str], place: Path, settings: dict[str, Any]
) -> Manifest:
    """The head of the manifest of a view in `place` of the image set in `parent`; the view has its place's name."""
    of = {"path": os.path.relpath(Path(parent).resolve(), place.resolve()), "sha256": sha256}
    manifest = new_manifest("image set", settings={"name": place.name, **settings}, made_from={"view_of": of})
    return manifest | {"class_names": list(class_names)}


def splits_of_rows(splits: dict[str, tuple[int, int]], rows: np.ndarray) -> dict[str, tuple[int, int]]:
    """Where the splits begin and end when only `rows` (ascending) are left; empty ones are gone."""
    ends = {name: np.searchsorted(rows, [first, end]) for name, (first, end) in splits.items()}
    return {name: (int(first), int(end)) for name, (first, end) in ends.items() if end > first}


def identity(manifest: Manifest) -> str:
    """SHA-256 that identifies the pictures of an image set, a view or not."""
    of = manifest["made_from"].get("view_of")
    if of is None:
        return manifest["files"]["images.npy"]["sha256"]
    return sha256_json([of["sha256"], manifest["files"][ROWS]["sha256"]])


def checked_parent(directory: Path, manifest: Manifest, parent: Path, parent_sha256: str) -> None:
    """Refuses a view whose pictures were made anew since.

    Raises:
        ArtifactError: other pictures are where the view's were.
    """
    if parent_sha256 != manifest["made_from"]["view_of"]["sha256"]:
        raise ArtifactError(f"{directory}: a view of other pictures than those now in {parent}; run dedup again")
