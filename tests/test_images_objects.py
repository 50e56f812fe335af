"""Images given as objects: every accepted kind gives the same bytes, and what is not valid is one clear line."""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms.functional import to_tensor

from evalkit import ImageSet, as_image_set, dedup, load_images, prepare
from evalkit.errors import EvalkitError
from evalkit.images.sources.named import known_files

IMAGES = np.random.default_rng(0).integers(0, 256, (1100, 6, 6, 3), dtype=np.uint8)  # three batches
LABELS = np.arange(1100) % 4


class Items(Dataset):
    """(image, label) with each image changed by a function, as torchvision's data sets do."""

    def __init__(self, change, labels=LABELS):
        self.change, self.labels = change, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return self.change(IMAGES[row]), self.labels[row]


TENSORS = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())
KINDS = {
    "pair": (IMAGES, LABELS),
    "pair of an array and a list": (IMAGES, LABELS.tolist()),
    "pair of tensors, channels first": (TENSORS, torch.from_numpy(LABELS)),
    "pair of floats": (IMAGES / 255, LABELS),
    "dataset of PIL images": Items(Image.fromarray),
    "dataset of arrays": Items(lambda image: image),
    "dataset of float tensors": Items(to_tensor),
    "dataset of uint8 tensors": TensorDataset(TENSORS, torch.from_numpy(LABELS)),
    "loader of float tensors": DataLoader(Items(to_tensor), batch_size=64),
    "loader of uint8 tensors": DataLoader(TensorDataset(TENSORS, torch.from_numpy(LABELS)), batch_size=700),
    "dict of one split": {"train": (IMAGES, LABELS)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_bytes(kind):
    images = as_image_set(KINDS[kind])
    assert np.array_equal(images.images, IMAGES)
    assert images.labels.tolist() == LABELS.tolist()
    assert images.splits == {"train": (0, 1100)}
    assert images.class_names == ["0", "1", "2", "3"]
    assert images.manifest["files"] == ImageSet.from_arrays(IMAGES, LABELS).manifest["files"]
    assert (images.directory / "images.npy").read_bytes()[-IMAGES.nbytes :] == IMAGES.tobytes()


def test_a_dict_maps_splits_to_any_kind_in_its_order():
    first = ImageSet.from_arrays(IMAGES[:20], LABELS[:20], test_images=IMAGES[20:30], test_labels=LABELS[20:30])
    images = as_image_set({"train": first, "validation": (IMAGES[50:53], LABELS[50:53]), "test": first})
    assert images.splits == {"train": (0, 20), "validation": (20, 23), "test": (23, 33)}
    rows = [*range(20), *range(50, 53), *range(20, 30)]
    assert np.array_equal(images.images, IMAGES[rows])
    assert images.labels.tolist() == LABELS[rows].tolist()


def test_an_array_alone_has_no_labels_and_gray_images_get_three_channels():
    images = as_image_set(IMAGES[:5, ..., :1])
    assert np.array_equal(images.images, IMAGES[:5, ..., :1].repeat(3, axis=3))
    assert images.labels.tolist() == [-1] * 5
    assert list(images.class_names) == []


def test_the_class_names_of_a_torch_dataset_are_kept():
    dataset = Items(Image.fromarray)
    dataset.classes = ["ant", "bee", "cat", "dog"]
    assert as_image_set(dataset).class_names == dataset.classes
    assert as_image_set({"train": DataLoader(Items(to_tensor)), "test": dataset}).class_names == ["0", "1", "2", "3"]


def test_splits_of_rows_and_names_are_kept():
    splits = {"train": (0, 900), "test": (900, 1100)}
    images = ImageSet.from_arrays(IMAGES, LABELS, splits=splits, name="mine", class_names=list("abcd"))
    assert images.splits == splits
    assert images.name == "mine"
    assert images.class_names == list("abcd")
    assert np.array_equal(images.split("test"), IMAGES[900:])


def test_an_image_set_is_returned_as_it_is_and_found_by_its_path_and_name(tmp_path):
    images = ImageSet.from_arrays(IMAGES, LABELS, name="mine", home=tmp_path)
    assert as_image_set(images) is images
    assert as_image_set(tmp_path / "images/mine").sha256 == images.sha256
    assert as_image_set("mine", home=tmp_path).sha256 == images.sha256


def test_with_a_workspace_the_same_images_are_returned_and_others_are_refused(tmp_path):
    first = ImageSet.from_arrays(IMAGES, LABELS, home=tmp_path)
    assert ImageSet.from_arrays(IMAGES, LABELS, home=tmp_path).manifest == first.manifest
    with pytest.raises(EvalkitError, match="images/images: exists with other contents; choose another name"):
        ImageSet.from_arrays(IMAGES[1:], LABELS[1:], home=tmp_path)
    with pytest.raises(EvalkitError, match="exists with other contents"):
        ImageSet.from_arrays(IMAGES, LABELS, splits={"train": (0, 900), "test": (900, 1100)}, home=tmp_path)
    assert load_images(tmp_path / "images/images").sha256 == first.sha256
    assert [path.name for path in (tmp_path / "images").iterdir() if not path.name.startswith(".")] == ["images"]


def test_a_folder_of_that_name_that_is_not_an_image_set_is_left_alone(tmp_path):
    (tmp_path / "images/images").mkdir(parents=True)
    (tmp_path / "images/images/thesis.txt").write_text("years of work")
    with pytest.raises(EvalkitError, match="exists and is not an artifact of evalkit"):
        ImageSet.from_arrays(IMAGES, LABELS, home=tmp_path)
    assert (tmp_path / "images/images/thesis.txt").read_text() == "years of work"


def test_without_a_workspace_the_files_are_removed_with_the_object():
    images = ImageSet.from_arrays(IMAGES, LABELS)
    view = dedup(images, mode="exact")
    folders = [each.directory for each in (images, view)]
    del images
    gc.collect()
    assert np.array_equal(view.images[:], IMAGES)  # the view keeps the images it selects from
    del view
    gc.collect()
    assert [folder for folder in folders if folder.parents[1].exists()] == []


def test_files_of_objects_that_live_to_the_end_are_removed_at_exit():
    code = (
        "import numpy, evalkit\nimages = evalkit.as_image_set(numpy.zeros((2, 8, 8, 3), 'u1'))\nprint(images.directory)"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert not Path(run.stdout.strip()).parents[1].exists()
    assert run.stderr == ""


def test_prepare_without_a_workspace_leaves_no_file(tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "1.png")
    images = prepare(tmp_path, size=6)
    assert np.array_equal(images.images, IMAGES[:1])
    folder = images.directory.parents[1]
    del images
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize(
    "images,message",
    [
        ((IMAGES / 127.5 - 1, LABELS), "images are floats from -1 to 1, expected 0 to 1; undo the normalization"),
        ((IMAGES.astype(np.float32), LABELS), "images are floats from 0 to 255, expected 0 to 1"),
        ((IMAGES / 255 * np.nan, LABELS), "images are floats from nan to nan, expected 0 to 1"),
        ((IMAGES.astype(np.int64), LABELS), "images are int64, expected uint8 or floats"),
        (IMAGES[..., 0], r"images have shape \(1100, 6, 6\), .*add the channel axis"),
        (IMAGES[0, 0, 0], r"images have shape \(3,\), expected \(N, H, W, C\)"),
        (IMAGES[:, :2].repeat(2, axis=3), r"images have shape \(1100, 2, 6, 6\), expected 1 or 3 channels"),
        (IMAGES[:0], "there are no images"),
        ((IMAGES, LABELS[1:]), r"labels have shape \(1099,\), expected one label per image, \(1100,\)"),
        ((IMAGES, LABELS[:, None]), r"labels have shape \(1100, 1\)"),
        ((IMAGES, LABELS / 2), "labels are float64, expected whole numbers"),
        ((IMAGES, LABELS - 2), "label -2 is out of range"),
        ((IMAGES, LABELS.astype(str)), "labels are <U21, expected whole numbers"),
        (Items(lambda image: "picture"), "the Dataset has images of type str, expected PIL, array or tensor"),
        (Items(lambda image: image, LABELS[:, None]), r"the Dataset has a label of shape \(1,\)"),
        (Items(lambda image: image[: 3 + image[0, 0, 0] % 2]), "the Dataset has images of shape .*; resize them"),
        (DataLoader(TensorDataset(TENSORS)), "the DataLoader yields 1 values, expected pairs"),
        ({"train": IMAGES, "test": IMAGES[:, :5]}, "images of 6 x 6 and 5 x 6 pixels"),
        (7, "images are a int; expected an array"),
        ([IMAGES, LABELS], "images are a list; expected an array"),
        ("cifar10", "cifar10 has to be downloaded: give home= .* or data="),
        ("cifar11", "cifar11: no image set there; prepare it first"),
    ],
)
def test_failure_invalid_images_are_reported_in_one_line(images, message):
    with pytest.raises(EvalkitError, match=message) as error:
        as_image_set(images)
    assert "\n" not in str(error.value)


def test_failure_arguments_that_exclude_each_other():
    with pytest.raises(EvalkitError, match="splits and test_images exclude each other"):
        ImageSet.from_arrays(IMAGES, LABELS, test_images=IMAGES, splits={"train": (0, 1)})
    with pytest.raises(EvalkitError, match="test_labels without test_images"):
        ImageSet.from_arrays(IMAGES, LABELS, test_labels=LABELS)
    with pytest.raises(EvalkitError, match="split 'test': rows 900 to 1101, expected 0 <= first < end <= 1100"):
        ImageSet.from_arrays(IMAGES, LABELS, splits={"test": (900, 1101)})
    with pytest.raises(EvalkitError, match="data= belongs to the name of a data set"):
        as_image_set(IMAGES, data="/data")


def test_digits_need_neither_a_workspace_nor_a_download():
    images = as_image_set("digits")
    assert images.splits == {"train": (0, 1297), "test": (1297, 1797)}
    assert images.sha256 == as_image_set("digits").sha256


def test_data_is_where_the_images_of_a_named_data_set_are(tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "1.png")
    images = as_image_set("cifar10", data=tmp_path)
    assert images.name == "cifar10"
    assert len(images) == 1


@pytest.mark.parametrize("path", ["/", "/tmp", "/tmp/x.npz", "x"])
def test_known_files_of_a_shallow_path_are_none(path):
    assert known_files(path) is None


def test_reading_the_settings_imports_no_numpy():
    code = "import sys, evalkit.images.options; print(bool({'numpy', 'PIL', 'torch'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
