"""Labels, splits and arrays as other people's programs write them: text files, bytes, tensors, archives, headers."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from safetensors.torch import save_file

from evalkit import FeatureSet, import_features
from evalkit.errors import EvalkitError
from evalkit.features.labels import check_labels, read_labels

X = np.arange(24, dtype=np.float32).reshape(6, 4)
NAMES = ["cat", "dog", "cat", "bird", "dog", "cat"]
CODES = [1, 2, 1, 0, 2, 1]
SPLITS = {"train": [0, 4], "test": [4, 6]}

# -- text files

TEXTS = {
    "UTF-8 with a byte order mark": "\n".join(NAMES).encode("utf-8-sig"),
    "UTF-16 of PowerShell": "\r\n".join(NAMES).encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + "\n".join(NAMES).encode("utf-16-be"),
    "Windows line ends": "".join(f"{name}\r\n" for name in NAMES).encode(),
    "line ends of old Macs": "\r".join(NAMES).encode(),
    "blanks and tabs after names": "".join(f"{name} \t\n" for name in NAMES).encode(),
    "blanks before names, no-break spaces": "".join(f" {name}\xa0\n" for name in NAMES).encode(),
    "empty lines at the end": ("\n".join(NAMES) + "\n\n \n").encode(),
    "quotes": "".join(f'"{name}"\n' for name in NAMES).encode(),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text_files_give_the_names_that_are_meant(case, tmp_path):
    (tmp_path / "y.txt").write_bytes(TEXTS[case])
    features = FeatureSet.from_arrays(X, read_labels(tmp_path / "y.txt"))
    assert features.class_names == ["bird", "cat", "dog"]
    assert features.labels.tolist() == CODES


def test_numbers_in_text_are_numbers(tmp_path):
    np.savetxt(tmp_path / "y.txt", [10, 2, -1, 2])  # in NumPy's own format: 1.0000e+01
    assert check_labels(read_labels(tmp_path / "y.txt"), 4, "y").tolist() == [10, 2, -1, 2]
    (tmp_path / "z.txt").write_text("10\n2\n-1\n2\n")
    assert check_labels(read_labels(tmp_path / "z.txt"), 4, "z").tolist() == [10, 2, -1, 2]


WRONG_TEXTS = {
    "index of pandas": (
        "0,cat\n1,dog\n2,cat\n",
        "lines of 2 columns .'0,cat'., separated by commas; expected one label",
    ),
    "tabs": ("a.png\tcat\nb.png\tdog\n", "lines of 2 columns .*, separated by tabs"),
    "semicolons": ("0;cat\n1;dog\n", "lines of 2 columns .*, separated by semicolons"),
    "list of images": ("a.png 0\nb.png 0\nc.png 1\n", "lines of 2 columns .'a.png 0'., expected one label per line"),
    "empty line": ("cat\n\ndog\n", "line 2 is empty, expected one line per row"),
    "missing": ("1\nnan\n2\n", "line 2 is nan, expected a number; -1 means no label"),
    "fractions": ("1.5\n2\n", r"labels of type float64, expected whole numbers or names .row 0 is 1.5"),
    "one number twice": ("1\n01\n2\n", "1 and 01 are one number; write it in one way"),
    "control characters": ("cat\x00\ndog\n", r"line 1 is 'cat\\x00', expected text with one line"),
}


@pytest.mark.parametrize("case", WRONG_TEXTS)
def test_text_that_is_not_one_label_per_line_is_refused(case, tmp_path):
    text, message = WRONG_TEXTS[case]
    (tmp_path / "y.txt").write_text(text)
    with pytest.raises(EvalkitError, match=message):
        labels = read_labels(tmp_path / "y.txt")
        check_labels(labels, len(labels), "y.txt")


def test_names_of_several_words_and_quoted_commas_are_names(tmp_path):
    (tmp_path / "y.txt").write_text("golden retriever\ntabby cat\ngolden retriever\n")
    assert read_labels(tmp_path / "y.txt").tolist() == ["golden retriever", "tabby cat", "golden retriever"]
    (tmp_path / "z.txt").write_text('"jay, blue"\n"owl, grey"\n')
    assert read_labels(tmp_path / "z.txt").tolist() == ["jay, blue", "owl, grey"]


def test_text_of_another_encoding_is_refused(tmp_path):
    (tmp_path / "y.txt").write_bytes("chat\nép\n".encode("latin-1"))
    with pytest.raises(EvalkitError, match=r"y.txt: neither .npy nor text in UTF-8 .* .line 2.; save it as UTF-8"):
        read_labels(tmp_path / "y.txt")


# -- labels in arrays

LABELS = {
    "bytes": [name.encode() for name in NAMES],
    "objects": np.array(NAMES, object),
    "pandas text": pd.Series(NAMES, dtype="string"),
    "pandas categories": pd.Series(NAMES, dtype="category"),
    "blanks in an array": np.array(["cat ", "dog", "cat", " bird", "dog\n", "cat"]),
    "NumPy's variable text": np.array(NAMES, np.dtypes.StringDType()),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_of_any_kind_of_text_are_the_same_names(case):
    features = FeatureSet.from_arrays(X, LABELS[case])
    assert (features.class_names, features.labels.tolist()) == (["bird", "cat", "dog"], CODES)


def test_composed_and_decomposed_letters_are_one_name():
    assert FeatureSet.from_arrays(X[:2], ["caf\u00e9", "cafe\u0301"]).class_names == ["caf\u00e9"]
    assert FeatureSet.from_arrays(X[:2], ["caf\u00e9".encode(), "cafe\u0301".encode()]).labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -2], "y: label -2, expected 0 to K - 1, or -1 for an image without a label"),
        ([1, -1, 1], "y: labels -1 and 1, but -1 means no label here; name the two classes 0 and 1"),
        (np.array([0, 1, 2**63], np.uint64), "y: label 9223372036854775808, expected 0 to K - 1"),
        ([0.0, np.inf, 1.0], "y: label inf, expected 0 to K - 1"),
        ([0.0, np.nan, 1.0], "y: labels of type float64, expected whole numbers or names .row 1 is nan"),
        ([b"\xe9", b"a", b"b"], "y: b'.xe9' in row 0 is not UTF-8; decode the names first"),
        (np.array(["a", None, "b"], object), "y: labels of types NoneType, str, expected whole numbers or names"),
        (["a", " ", "b"], "y: row 1 is empty, expected a name of printable characters"),
    ],
)
def test_labels_that_name_no_class_are_refused(labels, message):
    with pytest.raises(EvalkitError, match=message):
        FeatureSet.from_arrays(X[:3], labels)


def test_names_of_splits_as_bytes():
    splits = [b"train", b"train", b"test ", b"train", b"test", b"train"]
    assert FeatureSet.from_arrays(X, NAMES, splits=splits).splits == {"train": (0, 4), "test": (4, 6)}


# -- types of features

WHOLE = torch.from_numpy(X)
TENSORS = {
    "float8 e4m3": (WHOLE * 0 + 2).to(torch.float8_e4m3fn),
    "float8 e5m2": (WHOLE * 0 + 2).to(torch.float8_e5m2),
    "sparse": (WHOLE * 0 + 2).to_sparse(),
    "compressed rows": lambda: (WHOLE * 0 + 2).to_sparse_csr(),  # warns
    "gradient": (WHOLE * 0 + 2).requires_grad_(),
    "SciPy": scipy.sparse.csr_array(X * 0 + 2),
    "data frame": pd.DataFrame(X * 0 + 2),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("case", TENSORS)
def test_value_of_tensors_that_numpy_lacks(case, tmp_path):
    given = TENSORS[case]() if callable(TENSORS[case]) else TENSORS[case]
    assert np.array_equal(FeatureSet.from_arrays(given, NAMES).features, X * 0 + 2)
    if isinstance(given, torch.Tensor):
        torch.save({"features": given, "labels": NAMES, "splits": SPLITS}, tmp_path / "f.pt")
        assert np.array_equal(import_features(tmp_path / "f.pt").features, X * 0 + 2)


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_value_of_quantised_tensors(tmp_path):
    tensor = torch.quantize_per_tensor(WHOLE, 0.5, 0, torch.qint8)
    assert np.array_equal(FeatureSet.from_arrays(tensor, NAMES).features, X)
    torch.save({"features": tensor, "labels": torch.arange(6), "splits": SPLITS}, tmp_path / "f.pt")
    assert np.array_equal(import_features(tmp_path / "f.pt").features, X)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (WHOLE.to("meta"), r"a tensor float32 \(6, 4\) that has no numbers in NumPy"),
        (WHOLE.to(torch.complex64), "X: features complex64 .*, expected numbers"),
        (np.ma.masked_less(X, 3), "a masked array, expected a number in every place; fill it first"),
    ],
)
def test_tensors_without_numbers_are_one_line(features, message):
    with pytest.raises(EvalkitError, match=message):
        FeatureSet.from_arrays(features, NAMES)


# -- what lies beside the features

PARTS = {"X_train": WHOLE[:4].clone(), "X_test": WHOLE[4:].clone()}
PARTS |= {"y_train": torch.tensor([0, 1, 0, 1]), "y_test": torch.tensor([0, 1])}


@pytest.mark.parametrize("text", ["cat,dog", "[1", '"cat"', "{}", "7", "[[]]", "[" * 5000])
def test_free_text_in_the_header_of_safetensors_is_left_out_and_said(text, tmp_path, caplog):
    save_file(PARTS, tmp_path / "f.safetensors", metadata={"class_names": text, "X_train": "theirs", "format": "pt"})
    features = import_features(tmp_path / "f.safetensors")
    assert np.array_equal(features.features, X)
    assert features.class_names == ["0", "1"]
    assert "class_names is not a list of names and is left out" in caplog.text


@pytest.mark.parametrize("metadata", [{"splits": "train,test"}, {"split": "train"}, {"splits": "[]"}])
def test_free_text_in_place_of_splits_is_one_line(metadata, tmp_path):
    tensors = {"features": WHOLE, "labels": torch.arange(6)}
    save_file(tensors, tmp_path / "f.safetensors", metadata={"features": "resnet", **metadata})
    with pytest.raises(EvalkitError, match="splits none, expected train and test; say which rows are which"):
        import_features(tmp_path / "f.safetensors")
    (tmp_path / "s.json").write_text("\ufeff" + json.dumps(SPLITS))
    assert np.array_equal(import_features(tmp_path / "f.safetensors", splits=tmp_path / "s.json").features, X)


@pytest.mark.parametrize("beside", [np.array([{}]), np.array(["a.png"] * 6, object), np.zeros((), object)])
def test_arrays_that_nobody_asked_for_are_not_opened(beside, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    split = np.array(["train"] * 4 + ["test"] * 2)
    np.savez(tmp_path / "f.npz", features=X, labels=NAMES, split=split, files=beside)
    assert np.array_equal(import_features(tmp_path / "f.npz").features, X)
    assert "f.npz: features features, labels labels; not read: files" in caplog.text


def test_an_array_of_objects_that_is_needed_is_refused(tmp_path):
    np.savez(tmp_path / "f.npz", features=X, labels=np.array(NAMES, object), splits=np.zeros(1))
    with pytest.raises(EvalkitError, match=r"f.npz\[labels.npy\]: not a NumPy array .* but Python objects; save it as"):
        import_features(tmp_path / "f.npz")


@pytest.mark.parametrize("name", ["t\ufeffest", "", "x" * 201])
def test_names_of_ranges_that_are_no_names_are_refused(name):
    with pytest.raises(EvalkitError, match="splits: expected splits as .* within 6 rows"):
        FeatureSet.from_arrays(X, NAMES, splits={name: (0, 6)})
