"""Every format of source, from small files in the true format, and from broken files."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from evalkit.errors import EvalkitError
from evalkit.images import ImageSet
from evalkit.images.prepare import default_name, prepare, summary

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def prepared(source: Path | str, tmp_path: Path, **options: object) -> ImageSet:
    return prepare(source, home=tmp_path / "out", size=8, workers=1, **options)  # type: ignore[arg-type]


def write_images(root: Path, names: list[str]) -> None:
    """Image number k of PIXELS under the k-th name."""
    for name, pixels in zip(names, PIXELS, strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(pixels))


def test_folder_flat_has_no_labels(tmp_path):
    write_images(tmp_path / "in", ["b.png", "a.png"])
    images = prepared(tmp_path / "in", tmp_path)
    assert np.array_equal(images.images, PIXELS[[1, 0]])
    assert images.labels.tolist() == [-1, -1]
    assert list(images.class_names) == []


def test_folder_splits_and_nested_classes(tmp_path):
    write_images(
        tmp_path / "in",
        ["test/dog/x.png", "val/cat/y.png", "train/cat/images/1.png", "train/dog/images/1.PNG", "train/.hidden/1.png"],
    )
    images = prepared(tmp_path / "in", tmp_path)
    assert images.splits == {"train": (0, 2), "validation": (2, 3), "test": (3, 4)}
    assert np.array_equal(images.images, PIXELS[[2, 3, 1, 0]])
    assert images.labels.tolist() == [0, 1, 0, 1]
    assert images.class_names == ["cat", "dog"]


def test_folder_whose_name_only_starts_like_a_split_is_a_class(tmp_path):
    write_images(tmp_path / "in", ["training-shoes/1.png", "test-tubes/1.png"])
    images = prepared(tmp_path / "in", tmp_path)
    assert images.class_names == ["test-tubes", "training-shoes"]
    assert images.splits == {"train": (0, 2)}


def test_folder_that_links_to_itself_ends(tmp_path):
    write_images(tmp_path / "in", ["cat/1.png"])
    (tmp_path / "in" / "cat" / "again").symlink_to(tmp_path / "in")
    assert len(prepared(tmp_path / "in", tmp_path)) == 1


def test_folder_names_that_are_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path) + b"/in/caf\xe9"
    os.makedirs(folder)
    Path(os.fsdecode(folder + b"/\xff.png")).write_bytes(png(PIXELS[0]))
    Path(os.fsdecode(folder + b"/\xfe.png")).write_text("bad")
    images = prepared(tmp_path / "in", tmp_path)
    assert images.class_names == [r"caf\xe9"]
    assert images.manifest["first_skipped"][0][0] == r"caf\xe9/\xfe.png"


def write_parquet(path: Path, first: int, count: int, *, labels: list | None = None, names: list | None = None) -> None:
    """Hugging Face's layout: struct{bytes, path}, label int64, class names in the schema's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(PIXELS[k]), "path": f"{k}.png"} for k in range(first, first + count)]
    labels = [k % 3 for k in range(first, first + count)] if labels is None else labels
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"label": labels, "image": pyarrow.array(cells, kind)})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, row_group_size=2)


def test_parquet_folder_with_splits_and_class_names(tmp_path):
    source = tmp_path / "set" / "data"
    write_parquet(source / "test-00000-of-00001.parquet", 8, 4, names=["x", "y", "z"])
    write_parquet(source / "train-00001-of-00002.parquet", 5, 3, names=["x", "y", "z"])
    write_parquet(source / "train-00000-of-00002.parquet", 0, 5, names=["x", "y", "z"])
    images = prepared(tmp_path / "set", tmp_path)
    assert np.array_equal(images.images, PIXELS)
    assert images.labels.tolist() == [k % 3 for k in range(12)]
    assert images.class_names == ["x", "y", "z"]
    assert images.splits == {"train": (0, 8), "test": (8, 12)}


@pytest.mark.parametrize("source", ["data/*.parquet", "data/train.parquet"])
def test_parquet_glob_and_single_file(tmp_path, source):
    write_parquet(tmp_path / "data" / "train.parquet", 0, 5)
    images = prepared(str(tmp_path / source), tmp_path)
    assert images.name == "data"
    assert np.array_equal(images.images, PIXELS[:5])
    assert images.class_names == ["0", "1", "2"]


def test_parquet_bytes_column_and_labels_in_words(tmp_path):
    table = pyarrow.table({"img": [png(PIXELS[0]), None, png(PIXELS[2])], "class": ["dog", "cat", None]})
    pyarrow.parquet.write_table(table, tmp_path / "pets.parquet")
    images = prepared(tmp_path / "pets.parquet", tmp_path)
    assert images.class_names == ["cat", "dog"]
    assert images.labels.tolist() == [1, -1]
    assert images.manifest["first_skipped"] == [["pets.parquet row group 0 row 1", "the row holds no bytes"]]


@pytest.mark.parametrize(
    "labels,names,message",
    [
        ([0, 1, 3], ["x", "y", "z"], r"label 3 is out of range, expected 0 to 2"),
        ([0, -2, 1], None, r"label -2 is out of range"),
        ([0, 10**9, 1], None, r"label 1000000000 is out of range"),
        ([0.0, 0.5, 2.0], None, r"column label: label 0.5, expected whole numbers or words"),
        ([0.0, float("inf"), 2.0], None, r"column label: label inf, expected whole numbers or words"),
        ([[0], [1], [2]], None, r"column label is list.*, expected whole numbers or words"),
    ],
)
def test_failure_parquet_labels(tmp_path, labels, names, message):
    write_parquet(tmp_path / "a.parquet", 0, 3, labels=labels, names=names)
    with pytest.raises(EvalkitError, match=message):
        prepared(tmp_path / "a.parquet", tmp_path)


def _table(labels: object, **metadata: str) -> pyarrow.Table:
    cells = [{"bytes": png(PIXELS[k]), "path": None} for k in range(4)]
    return pyarrow.table({"image": cells, "label": labels}).replace_schema_metadata(metadata or None)


_WORDS = ["dog", "cat ", None, "dog"]


@pytest.mark.parametrize(
    "labels",
    [
        pyarrow.array(_WORDS, pyarrow.large_string()),
        pyarrow.array(_WORDS, pyarrow.string_view()),
        pyarrow.array(_WORDS).dictionary_encode(),
        pyarrow.array(_WORDS, pyarrow.large_string()).dictionary_encode(),
        pyarrow.array(["dog", "cat", None, "dog"], pyarrow.binary()),
        pyarrow.array(["dog", " cat", "", "dog"]),
    ],
    ids=lambda labels: str(labels.type).split("<")[0],
)
def test_value_parquet_words_of_every_type(tmp_path, labels):
    pyarrow.parquet.write_table(_table(labels), tmp_path / "a.parquet")
    images = prepared(tmp_path / "a.parquet", tmp_path)
    assert images.class_names == ["cat", "dog"]
    assert images.labels.tolist() == [1, 0, -1, 1]
    assert "1 without a label" in summary(images)[0]


@pytest.mark.parametrize(
    "labels,wanted",
    [
        (pyarrow.array([1, 0, None, 1], pyarrow.uint8()), [1, 0, -1, 1]),
        (pyarrow.array([1.0, 0.0, None, 1.0]), [1, 0, -1, 1]),
        (pyarrow.array([1.0, 0.0, float("nan"), 1.0]), [1, 0, -1, 1]),
        (pyarrow.array([1, 0, None, 1]).dictionary_encode(), [1, 0, -1, 1]),
        (pyarrow.array([True, False, None, True]), [1, 0, -1, 1]),
        (pyarrow.array([None] * 4), [-1] * 4),
        (pyarrow.array([-1] * 4), [-1] * 4),
    ],
)
def test_value_parquet_numbers_of_every_type(tmp_path, labels, wanted):
    pyarrow.parquet.write_table(_table(labels), tmp_path / "a.parquet")
    assert prepared(tmp_path / "a.parquet", tmp_path).labels.tolist() == wanted


def test_parquet_files_may_differ_in_metadata_column_order_and_string_type(tmp_path):
    (tmp_path / "in").mkdir()
    tables = {"a": _table(pyarrow.array(["x", "y"] * 2)), "b": _table(pyarrow.array(["y", "x"] * 2), origin="me")}
    tables["b"] = tables["b"].select(["label", "image"])
    tables["c"] = _table(pyarrow.array(["x", "x"] * 2, pyarrow.large_string()), pandas="{}").append_column(
        "id", [range(4)]
    )
    for name, table in tables.items():
        pyarrow.parquet.write_table(table, tmp_path / "in" / f"{name}.parquet")
    images = prepared(tmp_path / "in", tmp_path, strict=True)
    assert images.labels.tolist() == [0, 1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0]


def test_parquet_class_names_of_some_files_hold_for_all(tmp_path):
    write_parquet(tmp_path / "in" / "train-0.parquet", 0, 6, names=["x", "y", "z"])
    write_parquet(tmp_path / "in" / "test-0.parquet", 6, 3)
    images = prepared(tmp_path / "in", tmp_path)
    assert images.class_names == ["x", "y", "z"]
    assert images.labels.tolist() == [k % 3 for k in range(9)]


@pytest.mark.parametrize(
    "train,test",
    [
        ("plain_text/cifar10-train.parquet", "plain_text/cifar10-test.parquet"),
        ("default/partial-train/0000.parquet", "default/test/0000.parquet"),
        ("train-00000-of-00001-ab12.parquet", "test-00000-of-00001-cd34.parquet"),
        ("data/set_train_0.parquet", "data/set_test_0.parquet"),
    ],
)
def test_value_splits_of_parquet_files(tmp_path, train, test):
    write_parquet(tmp_path / "in" / train, 0, 6)
    write_parquet(tmp_path / "in" / test, 6, 3)
    assert prepared(tmp_path / "in", tmp_path).splits == {"train": (0, 6), "test": (6, 9)}


def test_parquet_stated_splits_label_column_and_no_labels(tmp_path):
    for name, first in (("a", 0), ("b", 4)):
        write_parquet(tmp_path / "in" / f"{name}.parquet", first, 4)
    images = prepared(tmp_path / "in", tmp_path, split="a=train,b=query", labels_from="none")
    assert images.splits == {"train": (0, 4), "query": (4, 8)}
    assert set(images.labels) == {-1}
    table = _table(pyarrow.array([0] * 4)).append_column("coarse", [pyarrow.array(["p", "q"] * 2)])
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    assert prepared(tmp_path / "c.parquet", tmp_path, labels_from="coarse").class_names == ["p", "q"]
    with pytest.raises(EvalkitError, match="no column fine .--labels-from.; its columns: image, label, coarse"):
        prepared(tmp_path / "c.parquet", tmp_path, labels_from="fine")


def test_parquet_test_split_without_labels_is_said(tmp_path):
    write_parquet(tmp_path / "in" / "train.parquet", 0, 6, names=["x", "y", "z"])
    write_parquet(tmp_path / "in" / "test.parquet", 6, 3, names=["x", "y", "z"], labels=[-1] * 3)
    images = prepared(tmp_path / "in", tmp_path)
    assert images.labels[6:].tolist() == [-1] * 3
    assert "test 3 without labels" in summary(images)[0]


def test_failure_parquet_without_images_lists_its_columns(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"image": [1, 2], "text": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(EvalkitError, match=r"no column of images.*its columns: image \(int64\), text \(string\)"):
        prepared(tmp_path / "a.parquet", tmp_path)


def test_failure_parquet_files_of_two_layouts(tmp_path):
    write_parquet(tmp_path / "in" / "a.parquet", 0, 3, names=["x", "y", "w"])
    write_parquet(tmp_path / "in" / "b.parquet", 0, 3, names=["x", "y", "z"])
    with pytest.raises(EvalkitError, match="b.parquet: its class names differ from those of"):
        prepared(tmp_path / "in", tmp_path)
    write_parquet(tmp_path / "in" / "b.parquet", 0, 3, labels=["x", "y", "w"])
    with pytest.raises(EvalkitError, match="b.parquet: its columns differ from those of"):
        prepared(tmp_path / "in", tmp_path)


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_failure_parquet_cut_short(tmp_path, keep):
    write_parquet(tmp_path / "a.parquet", 0, 12)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:keep])
    with pytest.raises(EvalkitError, match="a.parquet: not a Parquet file"):
        prepared(tmp_path / "a.parquet", tmp_path)


def test_more_rows_than_a_shard_in_npz_and_in_one_row_group(tmp_path):
    pixels = RNG.integers(0, 256, (1201, 2, 2, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels)
    pyarrow.parquet.write_table(pyarrow.table({"image": [png(image) for image in pixels]}), tmp_path / "a.parquet")
    for source in ("a.npz", "a.parquet"):
        images = prepare(tmp_path / source, home=tmp_path / f"out-{source}", size=2, workers=1)
        assert np.array_equal(images.images, pixels)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_splits(tmp_path, save):
    labels = np.arange(12) % 4
    arrays = {"x_test": PIXELS[9:], "y_test": labels[9:], "x_train": PIXELS[:9], "y_train": labels[:9, None]}
    save(tmp_path / "a.npz", **arrays, class_names=np.array(list("wxyz")))
    images = prepared(tmp_path / "a.npz", tmp_path)
    assert np.array_equal(images.images, PIXELS)
    assert np.array_equal(images.labels, labels)
    assert images.splits == {"train": (0, 9), "test": (9, 12)}
    assert images.class_names == list("wxyz")


@pytest.mark.parametrize("key", ["images", "train_images"])
def test_npz_grayscale_images_without_labels(tmp_path, key):
    np.savez(tmp_path / "a.npz", **{key: PIXELS[..., 0]})
    images = prepared(tmp_path / "a.npz", tmp_path)
    assert np.array_equal(images.images, PIXELS[..., :1].repeat(3, axis=3))
    assert images.manifest["counts"]["grey"] == 12
    assert set(images.labels) == {-1}


@pytest.mark.parametrize(
    "arrays,message",
    [
        ({"weights": PIXELS}, "no array has a name for images .*its arrays: weights"),
        ({"images": PIXELS / 255}, r"a.npz\[images\]: float64 .*expected uint8"),
        ({"images": np.array([object()])}, r"a.npz\[images\]: object .*expected uint8"),
        ({"images": PIXELS, "labels": np.arange(5)}, "labels holds 5 int64, expected 12 whole numbers"),
        ({"images": PIXELS, "labels": np.array([None] * 12)}, "cannot be read as .npz"),
    ],
)
def test_failure_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(EvalkitError, match=message):
        prepared(tmp_path / "a.npz", tmp_path)


def test_failure_npz_whose_labels_claim_more_than_the_memory(tmp_path):
    """A bomb: a header of eight exabytes of labels, in a few bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": (1 << 60,), "fortran_order": False, "descr": "<i8"})
    np.savez(tmp_path / "a.npz", images=PIXELS)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("labels.npy", stream.getvalue())
    with pytest.raises(EvalkitError, match="a.npz: cannot be read as .npz"):
        prepared(tmp_path / "a.npz", tmp_path)


def test_failure_file_that_is_not_an_npz(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(EvalkitError, match="a.npz: cannot be read as .npz"):
        prepared(tmp_path / "a.npz", tmp_path)


def test_failure_unknown_format_lists_the_choices(tmp_path):
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(
        EvalkitError, match="files ending in .doc; expected a folder of images, or one of parquet, webdataset"
    ):
        prepared(tmp_path / "a.doc", tmp_path)
    with pytest.raises(EvalkitError, match="no source 'zip'; choose from parquet, webdataset"):
        prepared(tmp_path / "a.doc", tmp_path, source_kind="zip")
    with pytest.raises(EvalkitError, match="a.doc: not a folder; give the folder of the images"):
        prepared(tmp_path / "a.doc", tmp_path, source_kind="folder")


@pytest.mark.parametrize(
    "path,name",
    [
        ("cats", "cats"),
        ("x/tiny-imagenet/train-00000-of-00004.parquet", "tiny-imagenet"),
        ("x/cifar10/*.parquet", "cifar10"),
        ("x/tiny/valid-00000-of-00001.parquet", "tiny"),
        ("x/test_images.npz", "test_images"),
        ("x/ILSVRC2012_img_train.tar", "ILSVRC2012_img_train"),
    ],
)
def test_value_default_names(path, name):
    assert default_name(path) == name
