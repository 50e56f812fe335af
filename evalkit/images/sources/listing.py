"""A text file that lists pictures: a path a line, with a label behind a tab or, if it is a number, behind a space."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.images.plan import Plan, checked_labels, identity_of, printable
from evalkit.images.sources.folder import EXTENSIONS, numbered, shards_of_files


def listing_plan(root: Path, files: Sequence[Path]) -> Plan:
    """The listed pictures in the list's order; relative paths are below the list's folder.

    Labels are class numbers, or words if any of them is no number.

    Raises:
        EvalkitError: nothing listed, or a label out of range.
    """
    lines = [line for path in files for line in path.read_bytes().decode("utf-8", "surrogateescape").splitlines()]
    pairs = [_path_and_label(line) for line in lines if line.strip() and not line.startswith("#")]
    if not pairs:
        raise EvalkitError(f"{files[0]}: lists no picture; expected a path a line")
    words = [word for _, word in pairs]
    if all(word is None or _is_number(word) for word in words):
        labels = [-1 if word is None else int(word) for word in words]
        names = checked_labels(np.array(labels), (), files[0])
    else:
        names, labels = numbered(words)
    shards = shards_of_files(root, [("train", path, label) for (path, _), label in zip(pairs, labels, strict=True)])
    # The pictures themselves may be anywhere and many: those there are count by name and size.
    present = [path for path in (root / name for name, _ in pairs) if path.is_file()]
    identity = identity_of(files, root) | {"pictures": identity_of(present, Path("/"), whole=False)}
    return Plan("list", shards, [printable(name) for name in names], identity)


def _path_and_label(line: str) -> tuple[str, str | None]:
    path, tab, word = line.strip().rpartition("\t")
    if tab:
        return path.strip(), word.strip() or None
    path, _, word = line.strip().rpartition(" ")
    if path.lower().endswith(EXTENSIONS) and _is_number(word):
        return path, word
    return line.strip(), None


def _is_number(word: str) -> bool:
    digits = word.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 10
