"""Images as files: one folder per class, or one flat folder; train/, val/ and test/ above either become splits."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.images.formats import EXTENSIONS, HEAD, format_of, has_image_name
from evalkit.images.sources.base import Plan, identity_of, printable, split_order
from evalkit.images.sources.files import numbered, shards_of_files
from evalkit.images.sources.layout import UNSTATED, Layout, Stated, is_hidden, split_of_file, understand
from evalkit.images.sources.listing import Labels, labels_beside, numbers_of_words, read_listing

ANNOTATIONS = "val_annotations.txt"  # Tiny ImageNet's labels of its validation images


@dataclass
class _Tree:
    """The files below a folder: images, other visible files, hidden files, and what could not be read."""

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def folder_plan(root: Path, files: Sequence[Path] = (), stated: Stated = UNSTATED) -> Plan:
    """The images below `root`; the class of an image is the first folder of its path, below the split's folder if any.

    Raises:
        EvalkitError: no image file there.
    """
    stated.check_labels("folder")
    tree = _tree(root)
    if not tree.images:
        raise EvalkitError(
            f"{root}: no image in this folder; expected files ending in {', '.join(EXTENSIONS[:4])}, … or in Parquet"
            + (f"; it holds {len(tree.others)} other files" if tree.others else "")
        )
    layout = understand(tree.images, stated)
    layout.by_content(tree.images)
    layout.left_out(tree.others, "no images")
    layout.left_out(tree.hidden, "hidden")
    layout.left_out(tree.closed, "in folders that may not be read", odd=True)
    beside = [name for name in tree.others if name.endswith(ANNOTATIONS)]
    rows = labelled(tree.images, layout, stated, [(name, (root / name).read_bytes()) for name in beside])
    if not rows:
        raise EvalkitError(f"{root}: no image is in a split; {'; '.join(layout.notes)}")
    if {split for split, *_ in rows} == {None} and split_of_file(root / "x", root) not in ("train", None):
        layout.notes.append(f"the folder is called {root.name}, its images are the split train; --split states another")
    words = [name for *_, name in rows]
    names, labels = numbers_of_words(words, stated.list) if stated.list else numbered(words)
    placed = [(split or "train", path, label) for (split, path, _), label in zip(rows, labels, strict=True)]
    placed.sort(key=lambda row: (split_order(row[0]), row[1]))
    identity = identity_of([root / path for path in [*(path for _, path, _ in placed), *beside]], root)
    variant = "" if names else oord_variant([root.name], tree.images[0])
    classes = [printable(name) for name in names]
    notes, odd = tuple(layout.notes), tuple(layout.odd)
    return Plan("folder", shards_of_files(root, placed), classes, identity, notes, variant, odd)


def labelled(
    paths: Sequence[str], layout: Layout, stated: Stated, beside: Sequence[tuple[str, bytes]] = ()
) -> list[tuple[str | None, str, str | None]]:
    """(split, path, class) of the images of a layout; lists of labels, stated or lying beside, say more than folders.

    Raises:
        EvalkitError: the stated list has none of the images.
    """
    rows = [(split, paths[number], name) for number, split, name in layout.rows]
    if stated.list:
        labels = Labels(read_listing(stated.list), stated.list)
        rows = [(split, path, labels.of(path)) for split, path, _ in rows]
        without = [path for _, path, name in rows if name is None]
        if len(without) == len(rows):
            raise EvalkitError(f"{stated.list}: lists none of the images; expected lines as {rows[0][1]},LABEL")
        if without:
            layout.odd.append(f"{stated.list} has no label for {len(without):,} images ({printable(without[0])})")
            layout.notes.append(layout.odd[-1])
        return rows
    known = {} if stated.labels_from else labels_beside(beside)
    for folder, labels in known.items():
        layout.notes.append(f"labels of {folder or '.'}/ from {labels.source.name}")
        rows = [
            (split, path, labels.of(path) or name if path.startswith(f"{folder}/" * bool(folder)) else name)
            for split, path, name in rows
        ]
    return rows


def oord_variant(containers: Sequence[str], first: str) -> str:
    """The name imagenet32-oord2016 for the unlabeled PNGs of train_32x32 and valid_32x32, else an empty string.

    Source: van den Oord et al. 2016, Pixel Recurrent Neural Networks; 1,281,149 and 49,999 images, also of 64 pixels.
    """
    sizes = {match.group(2) for name in containers if (match := re.fullmatch(r"(train|valid)_(32|64)x\2", name))}
    known = len(sizes) == 1 and first.endswith(".png")
    return f"imagenet{sizes.pop()}-oord2016" if known else ""


def _tree(root: Path) -> _Tree:
    """The files below `root`, sorted; follows links, visits each folder once."""
    tree = _Tree()
    for path in _visible_files(root, tree):
        kind = tree.hidden if is_hidden(path) else tree.images if _is_image(root / path) else tree.others
        kind.append(path)
    return tree


def _visible_files(root: Path, tree: _Tree) -> Iterator[str]:
    seen = set()
    walk = os.walk(root, followlinks=True, onerror=lambda error: tree.closed.append(str(error.filename)))
    for folder, below, names in walk:
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            below.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        below[:] = sorted(name for name in below if not is_hidden(name))
        for name in sorted(names):
            yield os.path.relpath(os.path.join(folder, name), root)


def _is_image(path: Path) -> bool:
    """Whether the name or the first bytes are those of an image; a link to nowhere counts by its name."""
    if has_image_name(path.name):
        return True
    try:
        if not path.is_file():
            return path.is_symlink() and not path.suffix
        with open(path, "rb") as file:
            return format_of(file.read(HEAD)) != ""
    except OSError:
        return False
