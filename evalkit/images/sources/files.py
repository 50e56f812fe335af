"""Image files on disk as shards: what folders and lists of paths have in common."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.images.sources.base import MOST_BYTES, SHARD, SourceImage, printable, split_order


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
            except ValueError:  # a name with a null byte
                problem = "no such file"
            yield SourceImage(printable(name), content, label, problem)


def shards_of_files(root: Path, rows: Sequence[tuple[str, str, int]]) -> list[Files]:
    """(split, path, label) rows as shards, split by split in the order of the rows."""
    shards = []
    for split in sorted({row[0] for row in rows}, key=split_order):
        inside = [row for row in rows if row[0] == split]
        for first in range(0, len(inside), SHARD):
            part = inside[first : first + SHARD]
            shards.append(Files(split, str(root), tuple(r[1] for r in part), tuple(r[2] for r in part)))
    return shards


def numbered(classes: Sequence[str | None]) -> tuple[list[str], list[int]]:
    """The sorted class names, and the number of each image's class among them, -1 for None."""
    names = sorted({name for name in classes if name is not None})
    number = {name: label for label, name in enumerate(names)}
    return names, [-1 if name is None else number[name] for name in classes]
