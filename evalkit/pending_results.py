"""Results that could not be added to results.csv yet, since another command held it: one JSON file each, beside it."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from evalkit.artifacts import write_json
from evalkit.errors import reading
from evalkit.files import own_folder, read_document

Row = TypeVar("Row")
_FOLDER = ".waiting"  # behind the name of the table


def keep_pending(path: Path, values: Mapping[str, Any]) -> Path:
    """Keeps one result beside the table `path`, without its NaNs, which JSON does not have; returns the folder."""
    folder = own_folder(path.with_name(path.name + _FOLDER))
    kept = {key: value for key, value in values.items() if value == value}
    write_json(folder / f"{time.time_ns()}-{os.getpid()}.json", kept)
    return folder


def read_pending(path: Path, make: Callable[[dict[str, Any]], Row]) -> dict[Path, Row]:
    """The results beside the table `path`, by the file that each is in, in the order in which they were measured.

    Args:
        make: makes a result of the values that `keep_pending` was given; those that were NaN are missing.

    Raises:
        ArtifactError: a file that is no such result.
    """
    results = {}
    for file in sorted(path.with_name(path.name + _FOLDER).glob("[0-9]*.json")):
        row = read_document(file, "a result")
        with reading(file, "a result", "remove it and measure the result again"):
            results[file] = make(row)
    return results
