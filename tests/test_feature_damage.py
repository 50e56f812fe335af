"""Damaged and hostile feature files: one line each, and no pickle is executed."""

import json
import zipfile

import numpy as np
import pytest
import torch

from evalkit import import_features, load_features
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.npy_files import open_array

X = np.arange(24, dtype=np.float32).reshape(6, 4)
Y = np.arange(6) % 2
PARTS = {"X_train": X[:4], "y_train": Y[:4], "X_test": X[4:], "y_test": Y[4:]}


class Touch:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def header(text, length=None):
    content = text.encode()
    return b"\x93NUMPY\x02\x00" + (length or len(content)).to_bytes(4, "little") + content


HEADERS = {
    "more rows than bytes": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 4), }\n") + bytes(64),
        "bytes, its header says float32 1,000,000,000 x 4, which are 16,000,000,[0-9]+; cut short or damaged",
    ),
    "fewer rows than bytes": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4), }\n") + bytes(64),
        "its header says float32 1 x 4, which are .*; cut short or damaged, make it again",
    ),
    "negative": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }\n"), "not a NumPy array"),
    "nested": (header("(" * 9000), "not a NumPy array of plain numbers or text"),
    "huge header": (header(" " * 20000), "not a NumPy array of plain numbers or text"),
    "header beyond the file": (header("{}", 4_000_000_000), "not a NumPy array of plain numbers or text"),
    "nothing": (b"", "not a NumPy array of plain numbers or text"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_do_not_fit_the_file_are_refused(case, tmp_path):
    content, message = HEADERS[case]
    (tmp_path / "X.npy").write_bytes(content)
    with pytest.raises(EvalkitError, match=message):
        open_array(tmp_path / "X.npy")


def test_members_of_one_name_are_refused(tmp_path):
    np.savez(tmp_path / "f.npz", **PARTS)
    with zipfile.ZipFile(tmp_path / "f.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("y_test.npy", b"")
    with pytest.raises(EvalkitError, match=r"f.npz: two members named 'y_test.npy'; make it again"):
        import_features(tmp_path / "f.npz")


def test_an_archive_cut_short_is_refused(tmp_path):
    np.savez(tmp_path / "f.npz", **PARTS)
    (tmp_path / "f.npz").write_bytes((tmp_path / "f.npz").read_bytes()[:-100])
    with pytest.raises(EvalkitError, match=r"f.npz: not readable as .npz \(BadZipFile"):
        import_features(tmp_path / "f.npz")


def test_no_pickle_is_executed(tmp_path):
    trap = np.array([Touch(tmp_path / "touched")] * 6, object)
    np.savez(tmp_path / "f.npz", **PARTS | {"y_test": trap[:2]})
    torch.save({"features": torch.from_numpy(X), "labels": Touch(tmp_path / "touched")}, tmp_path / "f.pt")
    np.save(tmp_path / "y.npy", trap)
    np.save(tmp_path / "X.npy", X)
    for files in (["f.npz"], ["f.pt"], ["X.npy", "y.npy"]):
        with pytest.raises(EvalkitError):
            import_features([tmp_path / name for name in files])
    assert not (tmp_path / "touched").exists()


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    content = {"features": torch.zeros(1, 4).expand(10**9, 4), "labels": torch.arange(6)}
    torch.save(content, tmp_path / "f.pt")
    with pytest.raises(EvalkitError, match=r"1,000,000,000 x 4 numbers in a file of .* bytes; save a copy"):
        import_features(tmp_path / "f.pt")


EDITS = {
    "splits beyond the rows": ('"test": [4, 6]', '"test": [4, 7]', "a split does not fit the others"),
    "a layer beyond the columns": ('"length": 4', '"length": 5', "a layer does not fit the others"),
    "fewer classes than labels": ('"class_names": ["0", "1"]', '"class_names": ["0"]', "a label does not fit"),
}


@pytest.mark.parametrize("case", EDITS)
def test_parts_of_a_feature_set_that_do_not_fit_are_refused(case, tmp_path):
    old, new, message = EDITS[case]
    np.savez(tmp_path / "f.npz", **PARTS)
    path = import_features(tmp_path / "f.npz", out=tmp_path / "f").path / "manifest.json"
    text = json.dumps(json.loads(path.read_text()))
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ArtifactError, match=message):
        load_features(tmp_path / "f")
