"""Images as files: one folder per class, or one flat folder; train/, val/ and test/ above either become splits.

Also a text file that lists images: one path per line, then a label after a tab or, if it is a number, after a space.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.images.sources.base import (
    MOST_BYTES,
    SHARD,
    Plan,
    SourceImage,
    checked_labels,
    identity_of,
    printable,
    split_of,
    split_order,
)

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")


@dataclass(frozen=True)
class Files:
    """Image files, their names below `root` and their labels."""

    split: str
    root: str
    names: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.names)

    def read(self) -> Iterator[SourceImage]:
        for name, label in zip(self.names, self.labels, strict=True):
            content, problem = b"", ""
            try:
                path = Path(self.root, name)
                if not path.is_file():  # reading from a device or a pipe might never end
                    problem = "no such file" if not path.exists() else "not a regular file"
                elif path.stat().st_size > MOST_BYTES:
                    problem = f"{path.stat().st_size:,} bytes, more than an image has"
                else:
                    content = path.read_bytes()
            except OSError as error:  # unreadable or removed since the listing: only this image is skipped
                problem = f"cannot be read ({error.strerror})"
            yield SourceImage(printable(name), content, label, problem)


def folder_plan(root: Path, files: Sequence[Path] = ()) -> Plan:
    """The images below `root`; the class of an image is the first folder of its path, below the split's folder if any.

    Raises:
        EvalkitError: no image file there.
    """
    paths = list(_image_files(root))
    if not paths:
        raise EvalkitError(
            f"{root}: no image in this folder; expected files ending in {', '.join(EXTENSIONS[:4])}, … or in Parquet"
        )
    inside = splits_and_classes(paths, os.sep)
    names, labels = numbered([name for _, name in inside])
    rows = [(split or "train", path, label) for path, (split, _), label in zip(paths, inside, labels, strict=True)]
    rows.sort(key=lambda row: (split_order(row[0]), row[1]))
    identity = identity_of([root / path for path in paths], root)
    variant = "" if names else oord_variant([root.name], paths[0])
    return Plan("folder", shards_of_files(root, rows), [printable(name) for name in names], identity, variant=variant)


def oord_variant(containers: Sequence[str], first: str) -> str:
    """The name imagenet32-oord2016 for the unlabeled PNGs of train_32x32 and valid_32x32, else an empty string.

    Source: van den Oord et al. 2016, Pixel Recurrent Neural Networks; 1,281,149 and 49,999 images, also of 64 pixels.
    """
    sizes = {match.group(2) for name in containers if (match := re.fullmatch(r"(train|valid)_(32|64)x\2", name))}
    known = len(sizes) == 1 and first.endswith(".png")
    return f"imagenet{sizes.pop()}-oord2016" if known else ""


def splits_and_classes(paths: Sequence[str], separator: str) -> list[tuple[str | None, str | None]]:
    """(split, class) from the folders of each path, None where they do not say.

    The top folders are splits only when all of them are: "training-shoes/" beside "cats/" is a class.
    """
    tops = {path.split(separator)[0] for path in paths if separator in path}
    splits = all(split_of([top]) and top.isalpha() for top in tops)
    pairs = []
    for path in paths:
        *folders, _ = path.split(separator)
        split = split_of([folders.pop(0)]) if folders and splits else None
        pairs.append((split, folders[0] if folders else None))
    return pairs


def numbered(classes: Sequence[str | None]) -> tuple[list[str], list[int]]:
    """The sorted class names, and the number of each image's class among them, -1 for None."""
    names = sorted({name for name in classes if name is not None})
    number = {name: label for label, name in enumerate(names)}
    return names, [-1 if name is None else number[name] for name in classes]


def _image_files(root: Path) -> Iterator[str]:
    """Paths below `root` of files with the name of an image, sorted; follows links, visits each folder once."""
    seen = set()
    for folder, below, names in os.walk(root, followlinks=True):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            below.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)


def shards_of_files(root: Path, rows: Sequence[tuple[str, str, int]]) -> list[Files]:
    """(split, path, label) rows as shards, split by split in the order of the rows."""
    shards = []
    for split in sorted({row[0] for row in rows}, key=split_order):
        inside = [row for row in rows if row[0] == split]
        for first in range(0, len(inside), SHARD):
            part = inside[first : first + SHARD]
            shards.append(Files(split, str(root), tuple(r[1] for r in part), tuple(r[2] for r in part)))
    return shards


def listing_plan(root: Path, files: Sequence[Path]) -> Plan:
    """The listed images in the order of the list; relative paths start at the folder of the list.

    Labels are class numbers, or words if any of them is not a number.

    Raises:
        EvalkitError: nothing listed, or a label out of range.
    """
    lines = [line for path in files for line in path.read_bytes().decode("utf-8", "surrogateescape").splitlines()]
    pairs = [_path_and_label(line) for line in lines if line.strip() and not line.startswith("#")]
    if not pairs:
        raise EvalkitError(f"{files[0]}: lists no image; expected one path per line")
    words = [word for _, word in pairs]
    if all(word is None or _is_number(word) for word in words):
        labels = [-1 if word is None else int(word) for word in words]
        names = checked_labels(np.array(labels), (), files[0])
    else:
        names, labels = numbered(words)
    shards = shards_of_files(root, [("train", path, label) for (path, _), label in zip(pairs, labels, strict=True)])
    # The images may be anywhere and many: those that exist are identified by name and size.
    present = [path for path in (root / name for name, _ in pairs) if path.is_file()]
    identity = identity_of(files, root) | {"images": identity_of(present, Path("/"), whole=False)}
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
