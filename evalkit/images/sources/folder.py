"""Pictures as files: a folder a class, or one flat folder; train/, val/ and test/ above either become splits."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.images.plan import MOST_BYTES, SHARD, Picture, Plan, identity_of, printable, split_of, split_order

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")


@dataclass(frozen=True)
class Files:
    """Picture files, their names below `root` and their labels."""

    split: str
    root: str
    names: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.names)

    def pictures(self) -> Iterator[Picture]:
        for name, label in zip(self.names, self.labels, strict=True):
            content, problem = b"", ""
            try:
                path = Path(self.root, name)
                if not path.is_file():  # reading a device or a pipe might never end
                    problem = "no such file" if not path.exists() else "not a regular file"
                elif path.stat().st_size > MOST_BYTES:
                    problem = f"{path.stat().st_size:,} bytes, more than a picture has"
                else:
                    content = path.read_bytes()
            except OSError as error:  # unreadable or gone since the listing: this picture's own trouble
                problem = f"cannot be read ({error.strerror})"
            yield Picture(printable(name), content, label, problem)


def folder_plan(root: Path, files: Sequence[Path] = ()) -> Plan:
    """The pictures below `root`; a picture's class is the first folder on its way, below a split's folder if any.

    Raises:
        EvalkitError: no picture file there.
    """
    paths = list(_picture_files(root))
    if not paths:
        raise EvalkitError(
            f"{root}: no picture in this folder; expected files ending in {', '.join(EXTENSIONS[:4])}, … or in Parquet"
        )
    inside = splits_and_classes(paths, os.sep)
    names, labels = numbered([name for _, name in inside])
    rows = [(split or "train", path, label) for path, (split, _), label in zip(paths, inside, labels, strict=True)]
    rows.sort(key=lambda row: (split_order(row[0]), row[1]))
    identity = identity_of([root / path for path in paths], root)
    variant = "" if names else oord_variant([root.name], paths[0])
    return Plan("folder", shards_of_files(root, rows), [printable(name) for name in names], identity, variant=variant)


def oord_variant(containers: Sequence[str], first: str) -> str:
    """The name imagenet32-oord2016 for the unlabelled PNGs of train_32x32 and valid_32x32, else nothing.

    Source: van den Oord et al. 2016, Pixel Recurrent Neural Networks; 1,281,149 and 49,999 pictures, also of 64 pixels.
    """
    sizes = {found.group(2) for name in containers if (found := re.fullmatch(r"(train|valid)_(32|64)x\2", name))}
    known = len(sizes) == 1 and first.endswith(".png")
    return f"imagenet{sizes.pop()}-oord2016" if known else ""


def splits_and_classes(paths: Sequence[str], separator: str) -> list[tuple[str | None, str | None]]:
    """(split, class) that each path's folders tell, None where they tell none.

    The top folders are splits only when all of them are: "training-shoes/" beside "cats/" is a class.
    """
    tops = {path.split(separator)[0] for path in paths if separator in path}
    splits = all(split_of([top]) and top.isalpha() for top in tops)
    found = []
    for path in paths:
        *folders, _ = path.split(separator)
        split = split_of([folders.pop(0)]) if folders and splits else None
        found.append((split, folders[0] if folders else None))
    return found


def numbered(classes: Sequence[str | None]) -> tuple[list[str], list[int]]:
    """The sorted class names, and each picture's number among them, -1 for None."""
    names = sorted({name for name in classes if name is not None})
    number = {name: label for label, name in enumerate(names)}
    return names, [-1 if name is None else number[name] for name in classes]


def _picture_files(root: Path) -> Iterator[str]:
    """Paths below `root` of the files named as pictures, sorted; follows links, each folder once."""
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
    """(split, path, label) rows as shards, split by split in the rows' order."""
    shards = []
    for split in sorted({row[0] for row in rows}, key=split_order):
        inside = [row for row in rows if row[0] == split]
        for first in range(0, len(inside), SHARD):
            part = inside[first : first + SHARD]
            shards.append(Files(split, str(root), tuple(r[1] for r in part), tuple(r[2] for r in part)))
    return shards
