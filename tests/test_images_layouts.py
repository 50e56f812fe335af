"""Layouts in which image sets are handed out: splits, classes and labels of folders and tars, and what is said."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalkit.errors import EvalkitError
from evalkit.images import ImageSet
from evalkit.images.prepare import prepare, summary

# paths -> {split: labels}, classes. Paths are written in the order given, `*` stands for two images.
LAYOUTS = {
    "imagefolder": (["cat/*", "dog/*"], {"train": [0, 0, 1, 1]}, ["cat", "dog"]),
    "imagenette": (
        ["imagenette2/train/n01/*", "imagenette2/train/n02/*", "imagenette2/val/n02/*"],
        {"train": [0, 0, 1, 1], "validation": [1, 1]},
        ["n01", "n02"],
    ),
    "kaggle's imagenet": (
        [f"ILSVRC/Data/CLS-LOC/{each}/*" for each in ("train/n01", "train/n02", "val", "test")],
        {"train": [0, 0, 1, 1], "validation": [-1, -1], "test": [-1, -1]},
        ["n01", "n02"],
    ),
    "coco": (["train2017/*", "val2017/*"], {"train": [-1, -1], "validation": [-1, -1]}, []),
    "coco below images": (["images/train2017/*", "images/val2017/*"], {"train": [-1] * 2, "validation": [-1] * 2}, []),
    "intel": (
        ["seg_train/seg_train/sea/*", "seg_train/seg_train/forest/*", "seg_test/seg_test/sea/*", "seg_pred/seg_pred/*"],
        {"train": [0, 0, 1, 1], "test": [1, 1], "unlabeled": [-1, -1]},
        ["forest", "sea"],
    ),
    "asl": (["asl_train/A/*", "asl_train/B/*", "asl_test/*"], {"train": [0, 0, 1, 1], "test": [-1, -1]}, ["A", "B"]),
    "gtsrb": (
        ["GTSRB/Final_Training/Images/00000/*", "GTSRB/Final_Training/Images/00001/*", "GTSRB/Final_Test/Images/*"],
        {"train": [0, 0, 1, 1], "test": [-1, -1]},
        ["00000", "00001"],
    ),
    "food": (["food-101/images/pie/*", "food-101/images/cake/*"], {"train": [0, 0, 1, 1]}, ["cake", "pie"]),
    "pets": (["images/*", "annotations/trimaps/*"], {"train": [-1, -1]}, []),
    "capitals": (["Training/a/*", "Testing/a/*"], {"train": [0, 0], "test": [0, 0]}, ["a"]),
    "sets": (["trainset/a/*", "test_set/a/*"], {"train": [0, 0], "test": [0, 0]}, ["a"]),
    "shoes": (["training-shoes/*", "test-tubes/*"], {"train": [0, 0, 1, 1]}, ["test-tubes", "training-shoes"]),
    "a class of trains": (["train/*", "bus/*", "car/*"], {"train": [0, 0, 1, 1, 2, 2]}, ["bus", "car", "train"]),
    "a stray folder": (
        ["train/a/*", "train/b/*", "val/a/*", "docs/*"],
        {"train": [0, 0, 1, 1], "validation": [0, 0]},
        ["a", "b"],
    ),
    "a folder beside one split": (["train/a/*", "train/b/*", "docs/*"], {"train": [0, 0, 1, 1]}, ["a", "b"]),
    "an image beside splits": (["train/a/*", "test/a/*", "*"], {"train": [0, 0], "test": [0, 0]}, ["a"]),
    "images below the classes": (["cat/images/*", "dog/images/*"], {"train": [0, 0, 1, 1]}, ["cat", "dog"]),
    "macOS": (["cat/*", "dog/*", "__MACOSX/cat/*"], {"train": [0, 0, 1, 1]}, ["cat", "dog"]),
    "notebooks": (["a/*", "b/*", "a/.ipynb_checkpoints/*", ".c/*"], {"train": [0, 0, 1, 1]}, ["a", "b"]),
}


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def expanded(paths: list[str]) -> dict[str, bytes]:
    names = [path.replace("*", f"{k}.png") for path in paths for k in range(2 if "*" in path else 1)]
    return {name: png(seed) for seed, name in enumerate(names)}


def write_tree(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_tar(path: Path, files: dict[str, bytes], top: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(top + name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def prepared(source: Path, **options: object) -> ImageSet:
    return prepare(source, size=8, workers=1, **options)  # type: ignore[arg-type]


def labels_of(images: ImageSet) -> dict[str, list[int]]:
    return {split: images.labels[first:end].tolist() for split, (first, end) in images.splits.items()}


@pytest.mark.parametrize("form", ["folder", "tar", "tar of ./"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_value_splits_classes_and_labels_of_known_layouts(tmp_path, name, form):
    paths, labels, classes = LAYOUTS[name]
    source = tmp_path / "set"
    if form == "folder":
        write_tree(source, expanded(paths))
    else:
        source = tmp_path / "set.tar"
        write_tar(source, expanded(paths), top="./" if "./" in form else "")
    images = prepared(source)
    got = {split: sorted(values) for split, values in labels_of(images).items()}
    assert got == {split: sorted(values) for split, values in labels.items()}
    assert list(images.class_names) == classes


def test_value_tiny_imagenet_takes_the_validation_labels_of_its_list(tmp_path):
    files = expanded([f"tiny/{each}" for each in ("train/n02/images/*", "train/n01/images/*", "test/images/*")])
    files |= {f"tiny/val/images/val_{k}.png": png(20 + k) for k in range(3)}
    rows = [("val_0.png", "n02"), ("val_1.png", "n01"), ("val_2.png", "n02")]
    files["tiny/val/val_annotations.txt"] = "".join(f"{n}\t{c}\t0\t0\t62\t62\n" for n, c in rows).encode()
    wanted = {"train": [0, 0, 1, 1], "validation": [1, 0, 1], "test": [-1, -1]}
    write_tree(tmp_path / "tree", files)
    write_tar(tmp_path / "tiny.tar", files)
    for source in (tmp_path / "tree", tmp_path / "tiny.tar"):
        images = prepared(source)
        assert {split: sorted(v) if split == "train" else v for split, v in labels_of(images).items()} == wanted
        assert any("labels of" in line and "val_annotations.txt" in line for line in summary(images))


@pytest.mark.parametrize(
    "name,said",
    [
        ("a stray folder", "beside train/, val/, in no split; --split FOLDER=SPLIT,… takes them in: 2 files (docs/"),
        ("an image beside splits", "in no split"),
        ("imagenette", "imagenette2/ holds everything: neither a class nor a split"),
        ("macOS", "left out, hidden: 2 files (__MACOSX/cat/0.png, __MACOSX/cat/1.png)"),
        ("a class of trains", "train/ is taken for a class, since other folders are no splits; --split"),
        ("pets", "left out, in annotations/: 2 files"),
        ("kaggle's imagenet", "(train 4, validation 2 without labels, test 2 without labels), 2 classes: n01, n02"),
        ("asl", "test 2 without labels"),
        ("imagenette", "validation 2 with 1 of 2 classes"),
    ],
)
def test_what_was_understood_and_left_out_is_said(tmp_path, name, said):
    write_tar(tmp_path / "set.tar", expanded(LAYOUTS[name][0]))
    assert said in "\n".join(summary(prepared(tmp_path / "set.tar")))


@pytest.mark.parametrize(
    "paths,message",
    [
        (LAYOUTS["a stray folder"][0], "in no split"),
        (LAYOUTS["a class of trains"][0], "train/ is taken for a class"),
        (["cat/*", "dog/*", "*"], "2 images in no class folder, so without a label"),
        (["a/abbey/*", "a/alley/*", "b/bay/*"], "class folders have folders of their own .a/abbey, a/alley, b/bay."),
    ],
)
def test_failure_strict_refuses_odd_layouts(tmp_path, paths, message):
    write_tree(tmp_path / "set", expanded(paths))
    prepared(tmp_path / "set")
    with pytest.raises(EvalkitError, match=message + ".*; --strict stops at it$"):
        prepared(tmp_path / "set", strict=True)


def test_strict_accepts_usual_layouts(tmp_path):
    for name in ("imagefolder", "imagenette", "coco", "intel", "gtsrb", "macOS"):
        write_tree(tmp_path / name, expanded(LAYOUTS[name][0]))
        assert len(prepared(tmp_path / name, strict=True)) > 0


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize(
    "options,labels,classes",
    [
        ({"split": "test"}, {"test": [0, 0, 1, 1, 2, 2]}, ["a", "b", "c"]),
        ({"split": "a=train,b=query"}, {"train": [-1, -1], "query": [-1, -1]}, []),
        ({"split": "set/a=train,set/c=query"}, {"train": [-1, -1], "query": [-1, -1]}, []),
        ({"labels_from": "none"}, {"train": [-1] * 6}, []),
        ({"labels_from": "name"}, {"train": [0, 1, 0, 1, 0, 1]}, ["cat", "old_dog"]),
    ],
)
def test_value_stated_splits_and_labels(tmp_path, options, labels, classes, form):
    paths = [f"set/{folder}/{name}" for folder in "abc" for name in ("cat.1.png", "old_dog_2.png")]
    source = tmp_path / ("set" if form == "folder" else "set.tar")
    (write_tree if form == "folder" else write_tar)(source, expanded(paths))
    images = prepared(source, **options)
    assert labels_of(images) == labels
    assert list(images.class_names) == classes


def test_value_split_none_makes_a_class_of_a_folder_called_test(tmp_path):
    write_tree(tmp_path / "set", expanded(["train/*", "test/*"]))
    images = prepared(tmp_path / "set", split="none")
    assert labels_of(images) == {"train": [0, 0, 1, 1]}
    assert images.class_names == ["test", "train"]


def test_value_labels_from_parent_take_the_innermost_folder(tmp_path):
    write_tree(tmp_path / "set", expanded(["a/abbey/*", "a/alley/*", "b/bay/*"]))
    images = prepared(tmp_path / "set", labels_from="parent", strict=True)
    assert images.class_names == ["abbey", "alley", "bay"]
    assert labels_of(images) == {"train": [0, 0, 1, 1, 2, 2]}


@pytest.mark.parametrize(
    "text",
    [
        b"filename,label\n0.png,dog\n1.png,cat\n",
        b"\xef\xbb\xbfid;breed\r\n0;dog\r\n1; cat \r\n",
        b"",
    ],
)
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_value_labels_from_a_list(tmp_path, text, form):
    source = tmp_path / ("set" if form == "folder" else "set.tar")
    (write_tree if form == "folder" else write_tar)(source, expanded(["train/*"]))
    table = tmp_path / ("labels.csv" if text else "labels.txt")
    table.write_bytes(text or b"train/1.png\tcat\ntrain/0.png\tdog\n")
    images = prepared(source, labels_from=str(table))
    assert labels_of(images) == {"train": [1, 0]}
    assert images.class_names == ["cat", "dog"]


def test_failure_stated_layouts_that_are_not_there(tmp_path):
    write_tree(tmp_path / "set", expanded(["a/*", "b/*"]))
    with pytest.raises(EvalkitError, match="--split: no images below a folder 'c'; the folders: a, b"):
        prepared(tmp_path / "set", split="c=test")
    with pytest.raises(EvalkitError, match="--split a=: expected FOLDER=SPLIT"):
        prepared(tmp_path / "set", split="a=")
    with pytest.raises(EvalkitError, match="--labels-from words: no such file; .*folder, parent, name, none"):
        prepared(tmp_path / "set", labels_from="words")
    (tmp_path / "labels.csv").write_text("filename,label\nx.png,dog\n")
    with pytest.raises(EvalkitError, match="labels.csv: lists none of the images"):
        prepared(tmp_path / "set", labels_from=str(tmp_path / "labels.csv"))
    (tmp_path / "labels.csv").write_text("0.png,dog,3\n1.png,cat,4\n")
    with pytest.raises(EvalkitError, match="labels.csv: lines have 3 columns, expected a path and a label"):
        prepared(tmp_path / "set", labels_from=str(tmp_path / "labels.csv"))


def test_a_stated_layout_is_part_of_the_identity(tmp_path):
    write_tree(tmp_path / "set", expanded(["a/*", "b/*"]))
    prepare(tmp_path / "set", home=tmp_path, size=8)
    with pytest.raises(EvalkitError, match="holds another image set .made from split None -> test"):
        prepare(tmp_path / "set", home=tmp_path, size=8, split="test")


@pytest.mark.parametrize("names", [("train/0", "test/0"), ("x-train-000", "x-test-000"), ("train/a", "val/a")])
@pytest.mark.parametrize("kind", ["tar", "webdataset"])
def test_value_splits_of_tars_come_from_their_names_and_folders(tmp_path, names, kind):
    plain = expanded(["cat/*", "dog/*"])
    samples = {f"{k}.png": png(k) for k in range(4)} | {f"{k}.cls": str(k // 2).encode() for k in range(4)}
    for name in names:
        write_tar(tmp_path / "set" / f"{name}.tar", plain if kind == "tar" else samples)
    images = prepared(tmp_path / "set")
    second = "validation" if "val" in names[1] else "test"
    assert labels_of(images) == {"train": [0, 0, 1, 1], second: [0, 0, 1, 1]}
    assert list(images.class_names) == (["cat", "dog"] if kind == "tar" else ["0", "1"])


@pytest.mark.parametrize(
    "names,classes",
    [(["cat", "dog"], ["cat", "dog"]), (["n01440764", "n01443537"], ["n01440764", "n01443537"]), (["s-0", "s-1"], [])],
)
def test_value_flat_tars_are_classes_unless_they_are_numbered(tmp_path, names, classes):
    for name in names:
        write_tar(tmp_path / "set" / f"{name}.tar", expanded(["*"]))
    images = prepared(tmp_path / "set")
    assert list(images.class_names) == classes
    assert labels_of(images) == {"train": [0, 0, 1, 1] if classes else [-1] * 4}


@pytest.mark.parametrize(
    "parts,taken",
    [
        (("image.png", "mask.png"), "image.png"),
        (("png", "depth.png", "seg.png"), "png"),
        (("left.png", "right.png"), "left.png"),
        (("mask.png", "jpg"), "jpg"),
    ],
)
def test_value_one_image_per_webdataset_sample(tmp_path, parts, taken):
    files = {f"{k}.{part}": png(10 * k + len(part)) for k in range(3) for part in parts}
    write_tar(tmp_path / "set.tar", files | {f"{k}.cls": str(k).encode() for k in range(3)})
    images = prepared(tmp_path / "set.tar")
    assert labels_of(images) == {"train": [0, 1, 2]}
    wanted = [np.asarray(Image.open(io.BytesIO(files[f"{k}.{taken}"]))) for k in range(3)]
    assert np.array_equal(images.images, wanted)
    assert f"further images of their samples, of which {taken} is taken" in "\n".join(summary(images))
    with pytest.raises(EvalkitError, match="further images of their samples"):
        prepared(tmp_path / "set.tar", strict=True)


def test_a_tar_with_a_stray_json_file_is_no_webdataset(tmp_path):
    write_tar(tmp_path / "set.tar", {"info.json": b"{}"} | expanded(["cat/*", "dog/*"]))
    images = prepared(tmp_path / "set.tar")
    assert images.class_names == ["cat", "dog"]


def test_a_file_with_many_images_beside_those_of_another_format_is_said(tmp_path):
    write_tar(tmp_path / "set" / "a.tar", expanded(["cat/*", "dog/*"]))
    np.savez(tmp_path / "set" / "b.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    assert "left out: files of other formats in the same folder (b.npz)" in summary(prepared(tmp_path / "set"))
