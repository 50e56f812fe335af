"""Pictures as files: a folder a class, or one flat folder; train/, val/ and test/ above either become splits."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.images.plan import SHARD, Picture, Plan, identity_of, printable, split_of, split_order

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
            try:
                content, problem = Path(self.root, name).read_bytes(), ""
            except OSError as error:  # unreadable or gone since the listing: this picture's own trouble
                content, problem = b"", f"cannot be read ({error.strerror})"
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
    splits = {word: split_of([word]) for word in {path.split(os.sep)[0] for path in paths if os.sep in path}}
    # Only when every top folder is a split's; "training-shoes/" beside "cats/" is a class.
    whole_words = all(split and word.isalpha() for word, split in splits.items()) and bool(splits)
    rows = []
    for path in paths:
        top, _, rest = path.partition(os.sep)
        split, inner = (splits[top] or "train", rest) if whole_words and rest else ("train", path)
        rows.append((split_order(split), split, inner.split(os.sep)[0] if os.sep in inner else None, path))
    classes = sorted({row[2] for row in rows if row[2] is not None})
    label = {name: number for number, name in enumerate(classes)} | {None: -1}
    rows.sort(key=lambda row: (row[0], row[3]))
    shards = _shards(root, [(split, path, label[name]) for _, split, name, path in rows])
    return Plan("folder", shards, [printable(name) for name in classes], identity_of([root / p for p in paths], root))


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


def _shards(root: Path, rows: list[tuple[str, str, int]]) -> list[Files]:
    shards = []
    for split in sorted({row[0] for row in rows}, key=split_order):
        inside = [row for row in rows if row[0] == split]
        for first in range(0, len(inside), SHARD):
            part = inside[first : first + SHARD]
            shards.append(Files(split, str(root), tuple(r[1] for r in part), tuple(r[2] for r in part)))
    return shards
