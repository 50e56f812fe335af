"""What folders say: the split and the class of each image from its path, in a folder or an archive.

Every source that has paths asks here, so that a folder and its archive give the same image set. Whatever is guessed or
left out becomes a sentence for the user; what looks odd stops a strict run.
"""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.images.formats import USUAL
from evalkit.images.sources.base import SPLIT_WORDS, printable, split_order

_FROM_PATHS = ("folder", "parent", "name", "none")
# Words beside that of the split which make a folder no less a split's: train2017, train_32x32, trainset, seg_train.
_FILLERS = {
    "set",
    "data",
    "dataset",
    "images",
    "image",
    "img",
    "imgs",
    "jpg",
    "png",
    "split",
    "part",
    "seg",
    "x",
    "only",
}
_FURTHER = {"unlabeled": "unlabeled", "unlabelled": "unlabeled", "extra": "extra", "pred": "unlabeled"}
_IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages", "jpegs", "photos", "pictures"}
_NO_IMAGES = {"annotations", "annotation", "masks", "mask", "trimaps", "segmentations", "segmentation", "labels"}
_SHARD = re.compile(r"(.*?)[-_.]?\d+$")


@dataclass(frozen=True)
class Stated:
    """What the user states about a source.

    Attributes:
        split: "" (by names), "none", the split of all images, or FOLDER=SPLIT pairs joined by commas.
        labels_from: "" (as found), "folder", "parent", "name", "none", a column, or the path of a list.
    """

    split: str = ""
    labels_from: str = ""

    @property
    def pairs(self) -> dict[str, str]:
        """The split of each named folder or file.

        Raises:
            EvalkitError: not of the form FOLDER=SPLIT,FOLDER=SPLIT.
        """
        if "=" not in self.split:
            return {}
        pairs = [part.partition("=")[::2] for part in self.split.split(",")]
        if not all(name.strip() and split.strip() for name, split in pairs):
            raise EvalkitError(f"--split {self.split}: expected FOLDER=SPLIT,FOLDER=SPLIT, or the name of one split")
        return {name.strip().strip("/"): split.strip() for name, split in pairs}

    @property
    def list(self) -> Path | None:
        """The list of labels, if `labels_from` is the path of one."""
        path = Path(self.labels_from)
        return path if self.labels_from and self.labels_from not in _FROM_PATHS and path.is_file() else None

    def list_identity(self) -> dict[str, str]:
        """The contents of the list of labels, for the identity of the source."""
        return {"labels_sha256": hashlib.sha256(self.list.read_bytes()).hexdigest()} if self.list else {}

    def check_labels(self, kind: str) -> None:
        """Refuses `labels_from` where the paths of `kind` have no say."""
        if self.labels_from and self.labels_from not in _FROM_PATHS and not self.list:
            raise EvalkitError(
                f"--labels-from {self.labels_from}: no such file; for a source of kind {kind} give a list of paths and "
                f"labels, or one of {', '.join(_FROM_PATHS)}"
            )


UNSTATED = Stated()


@dataclass
class Layout:
    """What the paths of a source say.

    Attributes:
        rows: (number of the path, split or None, class or None) of the images that belong to the data set.
        notes: what was understood and what was left out, sentences.
        odd: those of the notes at which a strict run stops.
    """

    rows: list[tuple[int, str | None, str | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def say(self, note: str, *, odd: bool = False) -> None:
        """Adds a sentence."""
        self.notes.append(note)
        self.odd += [note] * odd

    def left_out(self, names: Iterable[str], reason: str, *, odd: bool = False) -> None:
        """Notes images or files that are left out."""
        listed = [printable(name) for name in names]
        if listed:
            self.say(f"left out, {reason}: {_counted(len(listed), 'file')} ({some(listed)})", odd=odd)

    def by_content(self, paths: Iterable[str]) -> None:
        """Notes images with unusual endings, or without one."""
        unusual = [printable(path) for path in paths if not path.lower().endswith(USUAL) and not is_hidden(path)]
        if unusual:
            self.say(f"{_counted(len(unusual), 'file')} of unusual endings taken for images ({some(unusual, 10)})")


def understand(paths: Sequence[str], stated: Stated = UNSTATED) -> Layout:
    """The split and the class of each of `paths`, whose folders are separated by "/"."""
    layout = Layout()
    folders = {number: path.split("/")[:-1] for number, path in enumerate(paths)}
    folders = _without_hidden(folders, paths, layout)
    if stated.pairs:
        splits, folders = _stated_splits(folders, paths, stated.pairs, layout)
    else:
        folders = _without_top(folders, layout)
        splits, folders = _named_splits(folders, paths, layout, wanted=stated.split != "none")
    classes: dict[int, str | None] = {}
    tops = {split: {f[0] for n, f in folders.items() if f and splits[n] == split} for split in set(splits.values())}
    for split in tops:
        inside = {number: folder for number, folder in folders.items() if splits[number] == split}
        others = set().union(*(names for other, names in tops.items() if other != split and names != tops[split]))
        if split is not None and not stated.pairs:
            inside = _without_top(inside, layout, keep=others, in_split=True)
        classes |= _classes(inside, paths, stated.labels_from)
        folders |= inside
    if not stated.labels_from:
        _say_what_is_odd(layout, folders, splits, classes)
    layout.rows = [(number, splits[number], classes[number]) for number in sorted(folders)]
    return layout


def _without_hidden(folders: dict[int, list[str]], paths: Sequence[str], layout: Layout) -> dict[int, list[str]]:
    hidden = [path for path in paths if is_hidden(path)]
    layout.left_out(hidden, "hidden")
    return {number: folder for number, folder in folders.items() if not is_hidden(paths[number])}


def is_hidden(path: str) -> bool:
    """Whether a path is that of a hidden file, of a hidden folder, or of macOS' own files in archives."""
    parts = path.split("/")
    return any(part.startswith(".") and part not in (".", "..") for part in parts) or "__MACOSX" in parts


def _without_top(
    folders: dict[int, list[str]],
    layout: Layout,
    *,
    keep: Collection[str] = (),
    in_split: bool = False,
) -> dict[int, list[str]]:
    """Without the folders on top that hold all folders: "flower_photos" above "daisy" and "rose".

    Within a split, so does a folder that holds all images itself and whose name is that of no class: val/images.
    """
    while True:
        deep = {number: folder for number, folder in folders.items() if folder}
        tops = {folder[0] for folder in deep.values()}
        top = next(iter(tops)) if len(tops) == 1 else ""
        if not top or top in keep or (_split_of_folder(top)[0] and not in_split):
            return folders
        below = {folder[1].lower() if len(folder) > 1 else "" for folder in deep.values()}
        if below == {""} and not (in_split and _is_no_class(top)):
            return folders
        if below <= _IMAGE_FOLDERS and len(below) == 1 and top.lower() not in _IMAGE_FOLDERS:
            if not any(len(folder) > 2 for folder in deep.values()):
                return folders  # cat/images/1.png: the class is cat
        note = f"{printable(top)}/ holds everything: neither a class nor a split"
        layout.notes += [note] * (note not in layout.notes and below != {""})
        folders = {number: folder[1:] for number, folder in folders.items()}


def _split_of_folder(name: str) -> tuple[str, tuple[str, ...]]:
    """The split that a folder's name contains, or an empty string, and the other words that are no fillers."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+", name)]
    words = [
        part
        for word in words
        for part in (re.sub(r"^(train|test|val)(?=set$|data$|images$|imgs$)", r"\1 ", word).split())
    ]
    splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    rest = tuple(word for word in words if word not in SPLIT_WORDS and word not in _FILLERS)
    return (splits[0] if len(splits) == 1 else ""), rest


def _is_no_class(name: str) -> bool:
    split, rest = _split_of_folder(name)
    return name.lower() in _IMAGE_FOLDERS or bool(split and not rest) or _further_split(name) is not None


def _further_split(name: str) -> str | None:
    """The split of a folder that is one only beside others: unlabeled, extra."""
    return next((_FURTHER[word] for word in re.findall(r"[a-z]+", name.lower()) if word in _FURTHER), None)


def _splits_of_folders(tops: set[str]) -> dict[str, str]:
    """The split of each folder that names one; folders with further words need a twin: asl_train and asl_test."""
    parsed = {top: _split_of_folder(top) for top in tops}
    splits = {}
    for top, (split, rest) in parsed.items():
        twins = {other for other, words in parsed.values() if words == rest and other}
        if split and (not rest or len(twins) > 1):
            splits[top] = split
    return splits


def _named_splits(
    folders: dict[int, list[str]], paths: Sequence[str], layout: Layout, *, wanted: bool
) -> tuple[dict[int, str | None], dict[int, list[str]]]:
    """The split of each image where the top folders are splits, and the folders below."""
    tops = {folder[0] for folder in folders.values() if folder}
    splits = _splits_of_folders(tops) if wanted else {}
    strays = tops - set(splits)
    if strays and len(set(splits.values())) == 1:
        below = {tuple(folder[:2]) for folder in folders.values() if len(folder) > 1 and folder[0] in splits}
        if len(below) < 2:  # a class of trains among other classes
            layout.odd.append(f"{some(sorted(splits))}/ is taken for a class, since other folders are no splits")
            layout.notes.append(layout.odd[-1] + "; --split states otherwise")
            splits = {}
    if not splits:
        images = {top for top in strays if top.lower() in _IMAGE_FOLDERS}
        beside = {top for top in strays if top.lower() in _NO_IMAGES} if images else set()
        layout.left_out(
            [p for n, p in enumerate(paths) if n in folders and folders[n][:1] and folders[n][0] in beside],
            f"in {some(sorted(beside))}/",
            odd=True,
        )
        folders = {n: folder for n, folder in folders.items() if not folder or folder[0] not in beside}
        folders = _without_top(folders, layout, in_split=True) if beside else folders
        return dict.fromkeys(folders), folders
    for top in strays:
        further = _further_split(top)
        splits |= {top: further} if further else {}
    inside = {number: folder for number, folder in folders.items() if folder and folder[0] in splits}
    named = f"{', '.join(f'{printable(top)}/' for top in sorted(splits))}"
    layout.left_out(
        [paths[number] for number in folders if number not in inside],
        f"beside {named}, in no split; --split FOLDER=SPLIT,… takes them in",
        odd=True,
    )
    return {n: splits[folder[0]] for n, folder in inside.items()}, {n: folder[1:] for n, folder in inside.items()}


def _stated_splits(
    folders: dict[int, list[str]], paths: Sequence[str], pairs: Mapping[str, str], layout: Layout
) -> tuple[dict[int, str | None], dict[int, list[str]]]:
    """The splits that the user states: of the images below a folder of that name or path, wherever it is."""
    splits: dict[int, str | None] = {}
    below: dict[int, list[str]] = {}
    used = set()
    for number, folder in folders.items():
        for name, split in pairs.items():
            end = next((k for k in range(len(folder), 0, -1) if fnmatch("/".join(["", *folder[:k]]), f"*/{name}")), 0)
            if end:
                splits[number], below[number] = split, folder[end:]
                used.add(name)
                break
    missing = [name for name in pairs if name not in used]
    if missing:
        tops = sorted({printable(folder[0]) for folder in folders.values() if folder})
        raise EvalkitError(f"--split: no images below a folder {missing[0]!r}; the folders: {some(tops) or 'none'}")
    layout.left_out([paths[number] for number in folders if number not in below], "in none of the stated splits")
    return splits, below


def _classes(folders: dict[int, list[str]], paths: Sequence[str], labels_from: str) -> dict[int, str | None]:
    """The class of each image of one split."""
    if labels_from == "none":
        return dict.fromkeys(folders)
    if labels_from == "parent":
        return {number: folder[-1] if folder else None for number, folder in folders.items()}
    if labels_from == "name":
        return {number: _class_in_name(paths[number]) for number in folders}
    return {number: folder[0] if folder else None for number, folder in folders.items()}


def _class_in_name(path: str) -> str | None:
    """ "cat" of cat.0.jpg, "Abyssinian" of Abyssinian_1.jpg; None without a number that follows words."""
    match = re.fullmatch(r"(.*?[^\W\d_])[-_. ]*\d+", os.path.splitext(path.rpartition("/")[2])[0])
    return match.group(1) if match else None


def _say_what_is_odd(
    layout: Layout, folders: dict[int, list[str]], splits: Mapping[int, str | None], classes: dict[int, str | None]
) -> None:
    """Notes images beside class folders, and classes that may lie deeper."""
    for split in sorted({splits[number] for number in folders}, key=str):
        without = [classes[number] is None for number in folders if splits[number] == split]
        if 0 < sum(without) < len(without):
            where = f"split {split}: " if split else ""
            layout.say(f"{where}{_counted(sum(without), 'image')} in no class folder, so without a label", odd=True)
    below = sorted({tuple(folder[:2]) for folder in folders.values() if len(folder) > 1})
    if len({top for top, _ in below}) < len(below):
        deeper = some([printable("/".join(pair)) for pair in below])
        layout.odd.append(f"class folders have folders of their own ({deeper})")
        layout.notes.append(layout.odd[-1] + ": the upper one is the class; --labels-from parent takes the lower one")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, for a sentence."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def split_of_file(path: Path, root: Path) -> str | None:
    """The split that the name of a file that holds many images says, else its folders up to `root`; None if none does.

    "cifar10-test.parquet", "imagenet1k-validation-07.tar", "train/0.tar".
    """
    folders = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    for name in (path.name.split(".")[0], *reversed(folders)):
        words = [word.lower() for word in re.findall(r"[A-Za-z]+", name)]
        splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
        if splits:
            return splits[0]
    split, rest = _split_of_folder(root.name)  # the root itself may be called anything: "my-test-project"
    return split if split and not rest else None


def file_splits(files: Sequence[Path], root: Path, stated: Stated, layout: Layout) -> list[tuple[str | None, Path]]:
    """(split, file) of the files that hold many images, in the order of the rows; None where nothing says a split."""
    pairs = stated.pairs
    if pairs:
        named = [(next((s for name, s in pairs.items() if _is_called(path, name)), None), path) for path in files]
        layout.left_out([path.name for split, path in named if split is None], "in none of the stated splits")
        rows: list[tuple[str | None, Path]] = [(split, path) for split, path in named if split is not None]
        if not rows:
            raise EvalkitError(
                f"--split: no file or folder has a stated name; the files: {some([p.name for p in files])}"
            )
    else:
        rows = [(split_of_file(path, root) if stated.split != "none" else None, path) for path in files]
        unsaid = [path.name for split, path in rows if split is None]
        if unsaid and len(unsaid) < len(rows):
            layout.odd.append(f"{some(unsaid)}: neither file nor folder names a split, taken for train")
            layout.notes.append(layout.odd[-1])
    return sorted(rows, key=lambda row: (split_order(row[0] or "train"), str(row[1])))


def _is_called(path: Path, name: str) -> bool:
    return any(fnmatch(part, name) for part in (path.name, path.stem, *path.parent.parts))


def class_of_files(files: Sequence[Path]) -> dict[Path, str]:
    """The class of each archive where every one is a class: n01440764.tar, or cat.tar and dog.tar; else empty."""
    stems = [path.stem for path in files]
    numbered = {match.group(1) if (match := _SHARD.fullmatch(stem)) else stem for stem in stems}
    wordnet = all(re.fullmatch(r"n\d{8}", stem) for stem in stems)
    classes = len(files) > 1 and len(set(stems)) == len(files) and (wordnet or len(numbered) == len(files))
    return {path: path.stem for path in files} if classes and not any(_split_of_folder(s)[0] for s in stems) else {}
