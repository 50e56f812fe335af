"""Named data sets: all digits, torchvision's from small files in their true format, missing files reported."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner
from sklearn.datasets import load_digits

from evalkit.cli import main
from evalkit.cli.prepare import prepare_command
from evalkit.errors import EvalkitError
from evalkit.images import ImageSet, dataset_names, find_images, load_images
from evalkit.images.options import PrepareOptions
from evalkit.images.prepare import prepare, prepare_named
from evalkit.images.sources import SOURCES
from evalkit.images.sources.named import NamedFiles, dataset_named, known_files
from evalkit.workspace import Workspace

RNG = np.random.default_rng(0)


def prepared(name: str, folder: Path) -> ImageSet:
    """A named data set from its files below `folder`, in a workspace beside them."""
    files = NamedFiles(name, folder, may_download=False)
    return prepare_named(files, Workspace(folder / "api"), name, PrepareOptions())


def test_pinned_and_value_digits(tmp_path):
    images = prepare("digits")
    assert images.splits == {"train": (0, 1297), "test": (1297, 1797)}
    assert images.images.shape == (1797, 32, 32, 3)
    counts = np.array([np.bincount(images.labels[first:end]) for first, end in images.splits.values()])
    shares = counts[1] / counts.sum(axis=0)
    assert np.abs(shares - 500 / 1797).max() < 0.01  # stratified: at most one image a class from the exact share
    # The middle of each 4x4 block of the enlarged image lies nearest to the pixel it came from.
    digits = load_digits()
    small = images.images[:, 1::4, 1::4, 0].astype(float)
    means = [small[images.labels == k].mean(axis=0) for k in range(10)]
    wanted = [digits.images[digits.target == k].mean(axis=0) * 255 / 16 for k in range(10)]
    assert all(np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97 for a, b in zip(means, wanted, strict=True))
    assert images.images.max() == 255
    assert np.array_equal(images.images[..., 0], images.images[..., 2])


def test_digits_at_size_8_are_the_original_values(tmp_path):
    images = prepare("digits", size=8)
    digits = load_digits()
    values = sorted(image[..., 0].tobytes() for image in images.images)
    assert values == sorted(np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in digits.images)


def test_find_images_prepares_on_first_use_and_opens_by_name_and_path(tmp_path):
    workspace = Workspace(tmp_path / "home")
    first = find_images(workspace, "digits")
    written = tmp_path / "home" / "images" / "digits" / "images.npy"
    before = written.stat().st_mtime_ns
    assert find_images(workspace, "digits").sha256 == first.sha256
    assert find_images(workspace, str(written.parent)).sha256 == first.sha256
    assert prepare("digits", home=workspace).sha256 == first.sha256
    assert written.stat().st_mtime_ns == before


def test_the_command_prints_where_it_puts_a_named_set(tmp_path):
    result = CliRunner().invoke(main, ["--home", str(tmp_path), "prepare", "digits", "--name", "mine", "--size", "8"])
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path}/images/mine\n"
    assert len(load_images(tmp_path / "images" / "mine")) == 1797


def test_failure_options_that_do_not_apply_to_a_named_set(tmp_path):
    result = CliRunner().invoke(main, ["--home", str(tmp_path), "prepare", "digits", "--crop", "faces"])
    assert result.exit_code == 1
    assert "digits is a named data set; --crop, --decode and --source-kind" in result.stderr


def test_the_command_offers_every_source():
    choices = next(option.type for option in prepare_command.params if option.name == "source_kind")
    assert list(choices.choices) == list(SOURCES)


def test_failure_a_broken_set_is_reported_and_not_silently_replaced(tmp_path):
    workspace = Workspace(tmp_path)
    find_images(workspace, "digits")
    (tmp_path / "images" / "digits" / "labels.npy").write_bytes(b"")
    with pytest.raises(EvalkitError, match="labels.npy: 0 bytes, the manifest says"):
        find_images(workspace, "digits")


def test_failure_unknown_name_lists_the_choices(tmp_path):
    with pytest.raises(
        EvalkitError, match="digits, cifar10, cifar100, svhn, svhn-extra, mnist, stl10, stl10-unlabeled, imagenet"
    ):
        find_images(Workspace(tmp_path), "cifar11")
    with pytest.raises(EvalkitError, match="no data set 'cifar11'; choose from digits"):
        dataset_named("cifar11")


@pytest.mark.parametrize("name", [name for name in dataset_names() if name not in ("digits", "imagenet")])
def test_failure_missing_files_are_reported_with_their_folder(tmp_path, name):
    with pytest.raises(EvalkitError, match=f"the files of {name} are not complete there .*; put there .*(gz|mat|idx)"):
        prepare(name, home=tmp_path, download=False)
    assert not (tmp_path / "images" / name).exists()


def test_failure_imagenet_is_never_downloaded(tmp_path):
    with pytest.raises(EvalkitError, match="imagenet/train, or prepare them where they are: evalkit prepare FOLDER"):
        prepare("imagenet", home=tmp_path)


def _idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize("label", [10, 200, 255])
def test_failure_mnist_label_out_of_range(tmp_path, label):
    for word, count in (("train", 6), ("t10k", 2)):
        labels = np.arange(count)
        labels[0] = label if word == "t10k" else 0
        _idx(tmp_path / "MNIST/raw" / f"{word}-images-idx3-ubyte", np.zeros((count, 28, 28)))
        _idx(tmp_path / "MNIST/raw" / f"{word}-labels-idx1-ubyte", labels)
    with pytest.raises(EvalkitError, match=f"label {label} is out of range, expected 0 to 9"):
        prepared("mnist", tmp_path)


def test_failure_mnist_with_fewer_labels_than_images(tmp_path):
    for word in ("train", "t10k"):
        _idx(tmp_path / "MNIST/raw" / f"{word}-images-idx3-ubyte", np.zeros((5, 28, 28)))
        _idx(tmp_path / "MNIST/raw" / f"{word}-labels-idx1-ubyte", np.arange(4))
    with pytest.raises(EvalkitError, match="5 images and 4 labels"):
        prepared("mnist", tmp_path)


def test_mnist_from_idx_files(tmp_path):
    pixels = RNG.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    raw = tmp_path / "MNIST" / "raw"
    for word, rows in (("train", slice(0, 5)), ("t10k", slice(5, 7))):
        _idx(raw / f"{word}-images-idx3-ubyte", pixels[rows])
        _idx(raw / f"{word}-labels-idx1-ubyte", np.arange(7)[rows])
    images = prepared("mnist", tmp_path)
    assert np.array_equal(images.images, pixels[..., None].repeat(3, axis=3))  # 28x28, as the data set is
    assert images.labels.tolist() == list(range(7))
    assert images.splits == {"train": (0, 5), "test": (5, 7)}


@pytest.mark.parametrize(
    ("file", "places"),
    [
        ("MNIST/raw/train-images-idx3-ubyte", ["MNIST", "MNIST/raw"]),
        ("stl10_binary/train_X.bin", ["stl10_binary"]),
        ("cifar-100-python/train", ["cifar-100-python"]),
        ("train_32x32.mat", [".", "train_32x32.mat"]),
    ],
)
def test_value_of_known_files(tmp_path, file, places):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    known = {known_files(tmp_path / place) for place in places}
    assert len(known) == 1
    assert known.pop()[1] == tmp_path
    assert known_files(tmp_path.parent) is None
    assert known_files(tmp_path / "other") is None
    if file != "train_32x32.mat":  # the folder above may hold anything
        assert known_files(tmp_path) is None


def test_svhn_from_mat_files(tmp_path, monkeypatch):
    from torchvision.datasets import SVHN

    pixels = RNG.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    sums = dict(SVHN.split_list)
    for split, rows in (("train", slice(0, 5)), ("test", slice(5, 7))):
        path = tmp_path / f"{split}_32x32.mat"
        labels = np.array([1, 2, 10, 4, 5, 6, 10])[rows, None]  # the files call the digit 0 ten
        scipy.io.savemat(path, {"X": pixels[rows].transpose(1, 2, 3, 0), "y": labels})
        sums[split] = [*sums[split][:2], hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", sums)
    images = prepared("svhn", tmp_path)
    assert np.array_equal(images.images, pixels)
    assert images.labels.tolist() == [1, 2, 0, 4, 5, 6, 0]


def test_cifar10_from_its_batches(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    pixels = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    planes = pixels.transpose(0, 3, 1, 2).reshape(6, 3072)
    files = {f"data_batch_{k}": {"data": planes[k - 1 : k], "labels": [k]} for k in range(1, 6)}
    files["test_batch"] = {"data": planes[5:], "labels": [9]}
    files["batches.meta"] = {"label_names": [str(k) for k in range(10)]}
    sums = {}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{k}", sums[f"data_batch_{k}"]] for k in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    images = prepared("cifar10", tmp_path)
    assert np.array_equal(images.images, pixels)
    assert images.labels.tolist() == [1, 2, 3, 4, 5, 9]
    assert images.name == "cifar10"
    assert images.class_names[9] == "truck"
    # the path of the files, too, is the same data set, by the folder or by one file
    for place in (folder, folder / "data_batch_1"):
        result = CliRunner().invoke(main, ["--home", str(tmp_path / "home"), "prepare", str(place)])
        assert result.stdout == f"{tmp_path}/home/images/cifar10\n", result.output
    assert load_images(tmp_path / "home/images/cifar10").manifest["files"] == images.manifest["files"]
    result = CliRunner().invoke(main, ["--home", str(tmp_path), "reproduce", "svhn", "--data", str(folder)])
    assert f"{folder}: these are the files of cifar10, expected those of svhn" in result.stderr
    (folder / "test_batch").unlink()
    result = CliRunner().invoke(main, ["--home", str(tmp_path / "other"), "prepare", str(folder)])
    assert result.exit_code == 1
    assert f"{tmp_path}: the files of cifar10 are not complete there" in result.stderr


def test_cifar100_from_its_files(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    pixels = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    planes = pixels.transpose(0, 3, 1, 2).reshape(5, 3072)
    files = {
        "train": {"data": planes[:3], "fine_labels": [99, 0, 50], "coarse_labels": [1, 1, 1]},
        "test": {"data": planes[3:], "fine_labels": [7, 98], "coarse_labels": [2, 2]},
        "meta": {"fine_label_names": [f"fine {k}" for k in range(100)], "coarse_label_names": ["coarse"] * 20},
    }
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in files}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": sums["meta"]})
    images = prepared("cifar100", tmp_path)
    assert np.array_equal(images.images, pixels)
    assert images.splits == {"train": (0, 3), "test": (3, 5)}
    assert images.labels.tolist() == [99, 0, 50, 7, 98]
    assert images.class_names[98] == "fine 98"


def test_stl10_from_its_binary_files(tmp_path, monkeypatch):
    from torchvision.datasets import STL10

    pixels = RNG.integers(0, 256, (6, 96, 96, 3), dtype=np.uint8)
    columns = pixels.transpose(0, 3, 2, 1)  # the files go down the columns of each color
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for split, rows, labels in (
        ("train", slice(0, 2), [1, 10]),
        ("test", slice(2, 3), [3]),
        ("unlabeled", slice(3, 6), []),
    ):
        columns[rows].tofile(folder / f"{split}_X.bin")
        if labels:
            np.array(labels, np.uint8).tofile(folder / f"{split}_y.bin")
    for listed in ("train_list", "test_list"):
        names = [name for name, _ in getattr(STL10, listed)]
        sums = [[name, hashlib.md5((folder / name).read_bytes()).hexdigest()] for name in names]
        monkeypatch.setattr(STL10, listed, sums)
    images = prepared("stl10", tmp_path)
    assert np.array_equal(images.images, pixels[:3])
    assert images.labels.tolist() == [0, 9, 2]
    assert images.class_names[2] == "car"
    assert images.splits == {"train": (0, 2), "test": (2, 3)}
    images = prepared("stl10-unlabeled", tmp_path)
    assert np.array_equal(images.images, pixels)
    assert images.labels.tolist() == [0, 9, 2, -1, -1, -1]
    assert images.splits == {"train": (0, 2), "test": (2, 3), "unlabeled": (3, 6)}
