"""Tars, WebDataset, downsampled ImageNet, LMDB and lists of paths: true formats made here, and hostile ones."""

import gzip
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalkit.errors import EvalkitError
from evalkit.images import ImageSet
from evalkit.images.prepare import prepare

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def tar(members: dict[str, bytes] | list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A tar of files by name, or of ready-made headers and contents."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members.items() if isinstance(members, dict) else members:
            header = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            header.size = len(content) if header.isreg() else 0
            archive.addfile(header, io.BytesIO(content))
    return stream.getvalue()


def prepared(source: Path | str, tmp_path: Path, **options: object) -> ImageSet:
    return prepare(source, home=tmp_path / "out", size=8, workers=1, **options)  # type: ignore[arg-type]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_tar_of_tars_as_imagenet_has_it(tmp_path):
    classes = {"n02": [0, 1, 2], "n01": [3, 4]}
    inner = {f"{name}.tar": tar({f"{name}_{k}.JPEG": png(PIXELS[k]) for k in rows}) for name, rows in classes.items()}
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
    images = prepared(tmp_path / "ILSVRC2012_img_train.tar", tmp_path)
    assert np.array_equal(images.images, PIXELS[:5])  # in the tar's order: the disk is read once, forwards
    assert images.class_names == ["n01", "n02"]
    assert images.labels.tolist() == [1, 1, 1, 0, 0]
    assert sorted(path.name for path in images.directory.iterdir()) == [
        "images.npy",
        "labels.npy",
        "manifest.json",
        "skipped.csv",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name != "out"] == ["ILSVRC2012_img_train.tar"]


def test_tar_of_folders_and_long_names(tmp_path):
    long = "d" * 150 + "/" + "f" * 150 + ".png"
    members = {"val/dog/1.png": png(PIXELS[0]), "train/cat/2.png": png(PIXELS[1]), f"train/{long}": png(PIXELS[2])}
    (tmp_path / "a.tar").write_bytes(tar(members))
    images = prepared(tmp_path / "a.tar", tmp_path)
    assert images.splits == {"train": (0, 2), "validation": (2, 3)}
    assert np.array_equal(images.images, PIXELS[[1, 2, 0]])
    assert images.class_names == ["cat", "d" * 150, "dog"]
    assert images.labels.tolist() == [0, 1, 2]


def test_the_two_data_sets_called_imagenet32_get_different_names(tmp_path):
    (tmp_path / "train_32x32.tar").write_bytes(tar({"train_32x32/1.png": png(PIXELS[0])}))
    oord = prepared(tmp_path / "train_32x32.tar", tmp_path)
    assert oord.name == oord.manifest["variant"] == "imagenet32-oord2016"
    assert oord.labels.tolist() == [-1]
    assert len(oord.class_names) == 0
    (tmp_path / "valid_32x32").mkdir()
    (tmp_path / "valid_32x32" / "1.png").write_bytes(png(PIXELS[0]))
    assert prepare(tmp_path / "valid_32x32", home=tmp_path / "flat").name == "imagenet32-oord2016"
    np.savez(tmp_path / "train_data_batch_1.npz", data=np.zeros((2, 3072), np.uint8), labels=[1, 1])
    other = prepare(tmp_path / "train_data_batch_1.npz", home=tmp_path / "other")
    assert other.name == other.manifest["variant"] == "imagenet32-chrabaszcz2017"


def odd(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, link
    return header, b""


def test_hostile_tar_members_are_named_and_nothing_is_written_outside(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(PIXELS[5]))
    members = [
        (tarfile.TarInfo("../../evil/escape.png"), png(PIXELS[1])),
        (tarfile.TarInfo("/etc/absolute.png"), png(PIXELS[2])),
        odd("cat/link.png", tarfile.SYMTYPE, str(secret)),
        odd("cat/hard.png", tarfile.LNKTYPE, "cat/good.png"),
        odd("cat/pipe.png", tarfile.FIFOTYPE),
        (tarfile.TarInfo("cat/good.png"), png(PIXELS[0])),
        (tarfile.TarInfo("cat/\udcff.png"), b"not an image"),
    ]
    source = tmp_path / "in" / "hostile.tar"
    source.parent.mkdir()
    source.write_bytes(tar(members))
    before = files_below(tmp_path)
    images = prepared(source, tmp_path)
    assert np.array_equal(images.images, PIXELS[:1])
    assert images.class_names == ["cat"]
    reasons = dict(images.manifest["first_skipped"])
    assert reasons["../../evil/escape.png"] == reasons["/etc/absolute.png"] == "its name leads out of the archive"
    assert reasons["cat/link.png"] == reasons["cat/hard.png"] == "a link, not a file"
    assert reasons["cat/pipe.png"] == "not a regular file"
    assert "cat/\\xff.png" in reasons
    assert [name for name in files_below(tmp_path) - before if not name.startswith("out")] == []


@pytest.mark.parametrize("keep", [0, 100, 512 + 100, 1024, 2048, -10240])
def test_failure_tar_cut_short(tmp_path, keep):
    content = tar({f"{k}.png": png(PIXELS[k]) for k in range(12)})
    (tmp_path / "a.tar").write_bytes(content[:keep])
    with pytest.raises(EvalkitError, match=r"a.tar: (not a complete|the tar is cut short)"):
        prepared(tmp_path / "a.tar", tmp_path)


def test_failure_inner_tar_cut_short_and_compressed_tar(tmp_path):
    inner = tar({f"{k}.png": png(PIXELS[k]) for k in range(12)})
    (tmp_path / "a.tar").write_bytes(tar({"n01.tar": inner[:3000]}))
    with pytest.raises(EvalkitError, match=r"a.tar\[n01.tar\]: (not a complete|the tar is cut short)"):
        prepared(tmp_path / "a.tar", tmp_path)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(inner))
    with pytest.raises(EvalkitError, match="not a complete, uncompressed tar .*gunzip"):
        prepared(tmp_path / "b.tar.gz", tmp_path)
    (tmp_path / "c.tar").write_bytes(tar({"readme.txt": b"x"}))
    with pytest.raises(EvalkitError, match="c.tar: no images in this tar"):
        prepared(tmp_path / "c.tar", tmp_path)


def write_webdataset(folder: Path) -> None:
    folder.mkdir()
    shards = {
        "set-validation-0.tar": {"x/9.png": png(PIXELS[4]), "x/9.cls": b"0"},
        "set-train-1.tar": {"a.2.png": png(PIXELS[3]), "a.json": json.dumps({"label": 2}).encode()},
        "set-train-0.tar": {
            "000.cls": b"1\n",
            "000.png": png(PIXELS[0]),
            "000.json": b'{"base_channels": 8}',
            "001.png": png(PIXELS[1]),
            "001.cls": b"0",
            "002.png": png(PIXELS[2]),
        },
    }
    for name, members in shards.items():
        (folder / name).write_bytes(tar(members))


def test_webdataset_shards(tmp_path):
    write_webdataset(tmp_path / "in")
    (tmp_path / "in" / "classnames.txt").write_text("tench\ngoldfish\nshark\n")
    images = prepared(tmp_path / "in", tmp_path)
    assert images.manifest["made_from"]["source"] == "webdataset"
    assert np.array_equal(images.images, PIXELS[:5])
    assert images.labels.tolist() == [1, 0, -1, 2, 0]
    assert images.splits == {"train": (0, 4), "validation": (4, 5)}
    assert images.class_names[2] == "shark"


def test_failure_webdataset_labels(tmp_path):
    write_webdataset(tmp_path / "in")
    (tmp_path / "in" / "classnames.txt").write_text("tench\n")
    with pytest.raises(EvalkitError, match="label 2 is out of range, expected 0 to 0"):
        prepared(tmp_path / "in", tmp_path)
    (tmp_path / "b.tar").write_bytes(tar({"1.png": png(PIXELS[0]), "1.cls": b"cat"}))
    with pytest.raises(EvalkitError, match="b.tar: 1.cls holds b'cat', expected a class number"):
        prepared(tmp_path / "b.tar", tmp_path)


PLANES = PIXELS.transpose(0, 3, 1, 2).reshape(12, -1)
LABELS = [k % 4 + 1 for k in range(12)]


def test_downsampled_imagenet_npz_batches(tmp_path):
    source = tmp_path / "Imagenet8_train_npz"
    source.mkdir()
    for batch, rows in ((10, slice(6, 9)), (2, slice(0, 6))):
        labels = np.array(LABELS[rows])
        np.savez(source / f"train_data_batch_{batch}.npz", data=PLANES[rows], labels=labels, mean=PLANES.mean(axis=0))
    np.savez(source / "val_data.npz", data=PLANES[9:], labels=np.array(LABELS[9:]))
    images = prepared(source, tmp_path)
    assert np.array_equal(images.images, PIXELS)
    assert images.labels.tolist() == [k - 1 for k in LABELS]
    assert images.splits == {"train": (0, 9), "validation": (9, 12)}
    assert images.name == "imagenet8-chrabaszcz2017"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("old_numpy", [False, True])
def test_downsampled_imagenet_pickled_batches(tmp_path, protocol, old_numpy):
    content = pickle.dumps({"data": PLANES, "labels": LABELS, "mean": PLANES.mean(axis=0)}, protocol=protocol)
    if old_numpy and protocol < 4:  # later protocols write the name's length before it
        content = content.replace(b"numpy._core", b"numpy.core")
    (tmp_path / "train_data_batch_1").write_bytes(content)
    images = prepared(tmp_path / "train_data_batch_1", tmp_path)
    assert np.array_equal(images.images, PIXELS)
    assert images.labels.tolist() == [k - 1 for k in LABELS]
    assert images.manifest["variant"] == "imagenet8-chrabaszcz2017"


def test_pickled_by_python_2_itself(tmp_path):
    """Python 2's protocol 2 writes bytes as BINSTRING, which Python 3 never does; so it is written out here."""
    raw = PLANES[:2].tobytes()
    parts = [
        b"\x80\x02}(",
        b"U\x04data" + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR",
        b"(K\x01K\x02M\xc0\x00\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb",
        b"U\x06labels](K\x01K\x02eu.",
    ]
    (tmp_path / "train_data_batch_1").write_bytes(b"".join(parts))
    images = prepared(tmp_path / "train_data_batch_1", tmp_path)
    assert np.array_equal(images.images, PIXELS[:2])
    assert images.labels.tolist() == [0, 1]


class _Exploit:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_failure_a_pickle_that_runs_code_runs_nothing(tmp_path):
    batch = {"data": PLANES, "labels": LABELS, "mean": _Exploit(tmp_path / "owned")}
    (tmp_path / "train_data_batch_1").write_bytes(pickle.dumps(batch))
    with pytest.raises(EvalkitError, match="it names posix.mkdir, which is not part of an array"):
        prepared(tmp_path / "train_data_batch_1", tmp_path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "batch,message",
    [
        ({"data": PLANES, "labels": LABELS[:5]}, "with 5 labels, expected uint8"),
        ({"data": PLANES.astype(float), "labels": LABELS}, "data is float64"),
        ({"data": PLANES, "labels": [0] * 12}, "label 0 is out of range, downsampled ImageNet counts from 1"),
        ({"data": PLANES}, "holds data, expected data and labels"),
        ([1, 2], "it holds a list, expected a dict"),
        ({"data": np.array([None, 1]), "labels": [1, 1]}, "an array of O8"),
    ],
)
def test_failure_pickled_batches(tmp_path, batch, message):
    (tmp_path / "train_data_batch_1").write_bytes(pickle.dumps(batch))
    with pytest.raises(EvalkitError, match=message):
        prepared(tmp_path / "train_data_batch_1", tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 500, -5])
def test_failure_pickled_batch_cut_short(tmp_path, keep):
    (tmp_path / "train_data_batch_1").write_bytes(pickle.dumps({"data": PLANES, "labels": LABELS})[:keep])
    with pytest.raises(EvalkitError, match="train_data_batch_1: not read as a pickled batch"):
        prepared(tmp_path / "train_data_batch_1", tmp_path)


def write_lmdb(folder: Path, rows: range) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for row in rows:
            transaction.put(f"{row:040x}".encode(), png(PIXELS[row % 12]))


def test_lsun_lmdb(tmp_path):
    (tmp_path / "in").mkdir()
    write_lmdb(tmp_path / "in" / "church_outdoor_val_lmdb", range(5))
    write_lmdb(tmp_path / "in" / "bedroom_train_lmdb", range(1007))
    images = prepared(tmp_path / "in", tmp_path)
    assert np.array_equal(images.images, PIXELS[[*(k % 12 for k in range(1007)), *range(5)]])  # three shards and one
    assert images.splits == {"train": (0, 1007), "validation": (1007, 1012)}
    assert images.class_names == ["bedroom", "church_outdoor"]
    assert set(images.labels[:1007]) == {0}
    assert set(images.labels[1007:]) == {1}


@pytest.mark.parametrize("keep", [100, 4096, 20_000, -4096])
def test_failure_lmdb_cut_short(tmp_path, keep):
    write_lmdb(tmp_path / "in", range(100))
    content = (tmp_path / "in" / "data.mdb").read_bytes()
    (tmp_path / "in" / "data.mdb").write_bytes(content[:keep])
    with pytest.raises(EvalkitError, match="data.mdb: (.*cut short|cannot be read as LMDB)"):
        prepared(tmp_path / "in", tmp_path)


@pytest.mark.parametrize(
    "lines,labels,names",
    [
        ("{0}\n{1}\n", [-1, -1], []),
        ("# comment\n{0} 3\n{1} 0\n\n", [3, 0], ["0", "1", "2", "3"]),
        ("{0}\tdog\n{1}\tcat\n", [1, 0], ["cat", "dog"]),
    ],
)
def test_list_of_paths(tmp_path, lines, labels, names):
    for name, pixels in (("my images/a.png", PIXELS[0]), ("b.png", PIXELS[1])):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(png(pixels))
    absolute = tmp_path / "data" / "b.png"
    (tmp_path / "data" / "list.txt").write_text(lines.format("my images/a.png", absolute))
    images = prepared(tmp_path / "data" / "list.txt", tmp_path)
    assert np.array_equal(images.images, PIXELS[:2])
    assert images.labels.tolist() == labels
    assert list(images.class_names) == names


def test_list_names_missing_images_and_devices(tmp_path):
    (tmp_path / "a.png").write_bytes(png(PIXELS[0]))
    (tmp_path / "list.txt").write_text("a.png\nb.png\n/dev/zero\n")
    images = prepared(tmp_path / "list.txt", tmp_path)
    assert images.manifest["first_skipped"] == [["b.png", "no such file"], ["/dev/zero", "not a regular file"]]


def test_failure_lists(tmp_path):
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(EvalkitError, match="list.txt: lists no image"):
        prepared(tmp_path / "list.txt", tmp_path)
    (tmp_path / "list.txt").write_text("a.png -7\n")
    with pytest.raises(EvalkitError, match="label -7 is out of range"):
        prepared(tmp_path / "list.txt", tmp_path)
