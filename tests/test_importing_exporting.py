"""Importing and exporting features: round trips, an SVM on plain arrays, and a one-line error for each wrong input."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits, load_svmlight_file
from sklearn.svm import LinearSVC

from evalkit.cli import main
from evalkit.encoders import load_encoder
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features import exporting as export_module
from evalkit.features import writer as write_module
from evalkit.features.concat import concat_features
from evalkit.features.exporting import export_features
from evalkit.features.extract import extract
from evalkit.features.featureset import load_features
from evalkit.features.importing import import_features
from evalkit.workspace import Workspace

NAMES = {"dataset": "mine", "encoder": "theirs"}
GUIDE = (Path(__file__).parent.parent / "docs/guide.md").read_text()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Every array here is read and written in many chunks."""
    monkeypatch.setattr(write_module, "_CHUNK_BYTES", 4 * 8 * 7)


@pytest.fixture
def arrays(tmp_path):
    """(X float32 (40, 8), y (40,) from 0 to 3), also as X.npy and y.npy, and the name of a split per row in s.txt."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(40, 8)).astype(np.float32), np.tile(np.arange(4), 10)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "s.txt").write_text("\n".join(["train", "train", "test", "train"] * 10))
    return X, y


@pytest.fixture
def imported(arrays, tmp_path):
    """Those arrays as a feature set: three rows of four for training, in the order of the splits."""
    paths = [tmp_path / "X.npy", tmp_path / "y.npy"]
    return import_features(paths, out=tmp_path / "sets/mine", splits=tmp_path / "s.txt", **NAMES)


def order():
    test = np.arange(40) % 4 == 2
    return np.concatenate([np.flatnonzero(~test), np.flatnonzero(test)])


def test_value_of_imported_rows_in_the_order_of_their_splits(arrays, imported, tmp_path):
    X, y = arrays
    assert imported.splits == {"train": (0, 30), "test": (30, 40)}
    assert np.array_equal(np.load(tmp_path / "sets/mine/features.npy"), X[order()])  # anybody's numpy opens it
    assert np.array_equal(imported.labels, y[order()])
    assert imported.class_names == ["0", "1", "2", "3"]
    assert (imported.dataset, imported.encoder, imported.features.dtype) == ("mine", "theirs", np.float32)
    assert list((tmp_path / "sets").glob(".import-*")) == []


def test_chunks_are_all_rows_in_order(imported):
    for split, rows in ((None, range(40)), ("test", range(30, 40))):
        chunks = list(imported.chunks(split, rows=7))
        assert {len(features) for features, _ in chunks[:-1]} == {7}
        assert np.array_equal(np.concatenate([features for features, _ in chunks]), imported.features[rows])
        assert np.array_equal(np.concatenate([labels for _, labels in chunks]), imported.labels[rows])


# -- round trips


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip_of_exported_sets(arrays, tmp_path, suffix, dtype):
    paths, splits = [tmp_path / "X.npy", tmp_path / "y.npy"], tmp_path / "s.txt"
    first = import_features(paths, out=tmp_path / "a", splits=splits, dtype=dtype, **NAMES)
    out = export_features(first, tmp_path / f"out{suffix}")
    again = import_features([out], out=tmp_path / "b", **NAMES)
    assert again.sha256 == first.sha256
    assert again.features.dtype == dtype
    assert np.array_equal(again.labels, first.labels)
    assert (again.splits, again.class_names) == (first.splits, first.class_names)
    assert not list(tmp_path.glob("*.partial"))


def test_reference_other_readers_read_the_same_numbers(imported, tmp_path):
    X, y = np.array(imported.features), imported.labels
    with np.load(export_features(imported, tmp_path / "a.npz")) as archive:
        assert np.array_equal(archive["features"], X)
        assert archive["split"].tolist() == ["train"] * 30 + ["test"] * 10
    table = pq.read_table(export_features(imported, tmp_path / "a.parquet"))
    assert np.array_equal(np.array(table["features"].to_pylist(), np.float32), X)
    assert table["label"].to_pylist() == y.tolist()
    assert table["split"].to_pylist()[29:31] == ["train", "test"]
    with safe_open(export_features(imported, tmp_path / "a.safetensors"), framework="np") as file:
        assert np.array_equal(file.get_tensor("features"), X)
        assert np.array_equal(file.get_tensor("labels"), y)
        assert json.loads(file.metadata()["splits"]) == {"train": [0, 30], "test": [30, 40]}
    loaded = torch.load(export_features(imported, tmp_path / "a.pt"), weights_only=True)
    assert np.array_equal(loaded["features"], X)
    assert loaded["splits"]["test"] == [30, 40]
    rows, labels = load_svmlight_file(str(export_features(imported, tmp_path / "a.libsvm", split="test")))
    np.testing.assert_allclose(rows.toarray(), X[30:], rtol=1e-7)  # decimal text of float32
    assert np.array_equal(labels, y[30:])


def test_names_as_labels_bfloat16_tensors_and_split_arrays(tmp_path):
    random = torch.Generator().manual_seed(0)
    X = torch.randn(6, 3, generator=random).bfloat16()
    labels = {"y_train": torch.tensor([1, 2, 1, 2, 1, 2]), "y_test": torch.zeros(2)}
    save_file({"X_train": X, "X_test": X[:2].clone()} | labels, tmp_path / "bundle.safetensors")
    features = import_features([tmp_path / "bundle.safetensors"], out=tmp_path / "a", **NAMES)
    assert np.array_equal(features.features[:6], X.float().numpy())
    assert features.class_names == ["0", "1", "2"]
    np.save(tmp_path / "X.npy", X.double().numpy())
    (tmp_path / "y.txt").write_text("dog\ncat\ndog\ncat\ndog\ncat\n")
    pair = [tmp_path / "X.npy", tmp_path / "y.txt"]
    features = import_features(pair, out=tmp_path / "b", test=pair, **NAMES)
    assert features.class_names == ["cat", "dog"]
    assert features.labels[:3].tolist() == [1, 0, 1]
    assert features.splits == {"train": (0, 6), "test": (6, 12)}
    assert features.features.dtype == np.float32


def test_splits_as_ranges_leave_other_rows_out(arrays, tmp_path):
    (tmp_path / "s.json").write_text('{"test": [30, 35], "train": [5, 20]}')
    paths = [tmp_path / "X.npy", tmp_path / "y.npy"]
    features = import_features(paths, out=tmp_path / "a", splits=tmp_path / "s.json", **NAMES)
    assert features.splits == {"test": (0, 5), "train": (5, 20)}
    assert np.array_equal(features.features, arrays[0][[*range(30, 35), *range(5, 20)]])


def test_an_interrupted_import_resumes(arrays, imported, tmp_path, monkeypatch):
    calls = iter(range(3))
    monkeypatch.setattr("evalkit.npy.NpyWriter.append", _append_until(calls))
    paths, splits = [tmp_path / "X.npy", tmp_path / "y.npy"], tmp_path / "s.txt"
    with pytest.raises(StopIteration):
        import_features(paths, out=tmp_path / "b", splits=splits, **NAMES)
    assert json.loads((tmp_path / "b.partial/progress.json").read_text())["progress"] == {"rows": 21}
    monkeypatch.undo()
    assert import_features(paths, out=tmp_path / "b", splits=splits, **NAMES).sha256 == imported.sha256


def _append_until(calls):
    from evalkit.npy import NpyWriter

    append = NpyWriter.append

    def interrupted(self, rows):
        next(calls)
        append(self, rows)

    return interrupted


# -- concatenated sets


@pytest.fixture
def pixels(striped, tmp_path):
    workspace = Workspace(tmp_path / "home")
    return [
        extract(striped, load_encoder(name, home=workspace), out=tmp_path / name.partition(":")[0], device="cpu")
        for name in ("pixels", "random:digits")
    ]


def test_value_of_concatenated_sets(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(write_module, "_CHUNK_BYTES", 1 << 20)
    joined = concat_features(pixels, out=tmp_path / "joined")
    first, second = (each.features.shape[1] for each in pixels)
    assert np.array_equal(joined.features[:, :first], pixels[0].features)
    assert np.array_equal(joined.features[:, first:], pixels[1].features)
    assert [(x.name, x.offset) for x in joined.layers[:2]] == [("pixels", 0), ("conv1", first)]
    assert joined.encoder == "pixels + random:digits"
    assert joined.splits == pixels[0].splits
    assert joined.manifest["made_from"]["images_sha256"] == pixels[0].manifest["made_from"]["images_sha256"]
    twice = concat_features([joined, pixels[1]], out=tmp_path / "twice")
    assert [layer.name for layer in twice.layers[1:3]] == ["1/conv1", "1/conv2"]
    assert twice.features.shape == (360, first + 2 * second)


def test_sets_of_other_images_are_not_concatenated(arrays, imported, pixels, tmp_path, striped):
    with pytest.raises(EvalkitError, match="mine by theirs and striped by pixels: 40 and 360 rows, expected the same"):
        concat_features([imported, pixels[0]], out=tmp_path / "x")
    paths = [tmp_path / "X.npy", tmp_path / "y.npy"]
    (tmp_path / "t.txt").write_text("\n".join(["train", "test", "train", "train"] * 10))
    other = import_features(paths, out=tmp_path / "other", splits=tmp_path / "t.txt", **NAMES)
    with pytest.raises(EvalkitError, match="row 1 has label 1 and 2; expected the same images in the same order"):
        concat_features([imported, other], out=tmp_path / "x")
    (tmp_path / "t.json").write_text('{"train": [0, 20], "test": [20, 40]}')
    halves = import_features(paths, out=tmp_path / "halves", splits=tmp_path / "t.json", **NAMES)
    with pytest.raises(EvalkitError, match=r"splits {'train': \(0, 30\).* and {'train': \(0, 20\).*, expected"):
        concat_features([imported, halves], out=tmp_path / "x")
    striped.manifest["files"]["images.npy"]["sha256"] = "0" * 64  # as if of other images
    elsewhere = extract(striped, load_encoder("pixels", home=tmp_path), out=tmp_path / "elsewhere", device="cpu")
    with pytest.raises(EvalkitError, match=r"made from different images \([0-9a-f]{12}… and 000000000000…\), expected"):
        concat_features([pixels[0], elsewhere], out=tmp_path / "x")
    with pytest.raises(EvalkitError, match="1 feature set, expected two or more"):
        concat_features([imported], out=tmp_path / "x")


# -- what is refused


WRONG = {
    "lengths": ({}, {"y.npy": np.zeros(39, int)}, "y.npy: 39 labels for 40 rows of features"),
    "maps": ({}, {"X.npy": np.zeros((40, 2, 2))}, r"X.npy: features of shape \(40, 2, 2\), expected \(N, D\).*reshape"),
    "vector": ({}, {"X.npy": np.zeros(40)}, r"X.npy: features of shape \(40,\), expected \(N, D\), one row per image"),
    "objects": ({}, {"X.npy": np.array([[{}] * 3] * 40)}, "X.npy: not a NumPy array of plain numbers or text .*bject"),
    "texts": ({}, {"X.npy": np.full((40, 3), "a")}, r"X.npy: features <U1 \(40, 3\), expected numbers"),
    "one-hot": (
        {},
        {"y.npy": np.zeros((40, 4))},
        r"y.npy: labels of shape \(40, 4\), expected one label per row; argmax",
    ),
    "fractions": ({}, {"y.npy": np.full(40, 0.5)}, "y.npy: labels of type float64, expected whole numbers or names"),
    "splits": ({}, {"s.txt": "train\n" * 39}, r"s.txt: splits are <U5 \(39,\), expected .* each of 40 rows"),
    "no test": (
        {},
        {"s.txt": "train\n" * 40},
        "s.txt: splits train, expected train and test; say which rows are which",
    ),
    "nothing": (
        {"splits": None},
        {},
        "X.npy: splits none, expected train and test; say which rows are which by --test",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays_are_one_line_errors(arrays, tmp_path, case):
    options, files, message = WRONG[case]
    for name, content in files.items():
        if isinstance(content, str):
            (tmp_path / name).write_text(content)
        else:
            np.save(tmp_path / name, content, allow_pickle=True)
    paths = [tmp_path / "X.npy", tmp_path / "y.npy"]
    with pytest.raises(EvalkitError, match=message):
        import_features(paths, out=tmp_path / "sets/x", **{"splits": tmp_path / "s.txt"} | options, **NAMES)
    assert not (tmp_path / "sets/x").exists()
    assert not list((tmp_path / "sets").glob(".import-*"))


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, None, "mine: number 5 of row 22 is nan as float32, expected finite numbers"),
        (1e5, "float16", "mine: number 5 of row 22 is inf as float16"),
    ],
)
def test_values_that_are_not_finite_are_refused(arrays, tmp_path, value, dtype, message):
    X = arrays[0].copy()
    X[order()[22], 5] = value
    np.save(tmp_path / "X.npy", X)
    paths, splits = [tmp_path / "X.npy", tmp_path / "y.npy"], tmp_path / "s.txt"
    with pytest.raises(ArtifactError, match=message):
        import_features(paths, out=tmp_path / "x", splits=splits, dtype=dtype, **NAMES)
    assert not (tmp_path / "x").exists()


def test_files_of_other_formats_are_one_line_errors(arrays, tmp_path):
    def refused(message, *names, **options):
        with pytest.raises(EvalkitError, match=message):
            import_features([tmp_path / name for name in names], out=tmp_path / "x", **options, **NAMES)

    (tmp_path / "bad.npz").write_text("no archive")
    (tmp_path / "bad.pt").write_text("no tensors")
    (tmp_path / "bad.safetensors").write_text("no tensors")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    np.savez(tmp_path / "objects.npz", X=np.array([[{}]]), y=np.zeros(1, int))
    np.savez(tmp_path / "names.npz", first=np.zeros((2, 2)), second=np.zeros(2))
    refused("X.npy: features without labels; give both", "X.npy")
    refused("table.csv: features are read from .npy, .npz, .pt, .pth or .safetensors, found .csv", "table.csv")
    refused("gone.npz: no such file", "gone.npz")
    refused("bad.npz: not readable as .npz", "bad.npz")
    refused("bad.pt: expected only tensors, as torch.save writes them", "bad.pt")
    refused("module.pt: expected only tensors, as torch.save writes them", "module.pt")
    refused("bad.safetensors: not a safetensors file", "bad.safetensors")
    refused(r"objects.npz\[X.npy\]: not a NumPy array of plain numbers or text", "objects.npz")
    refused("names.npz: no features and labels .*; it has first, second", "names.npz")
    refused("3 files, expected X and y, or one file with both", "X.npy", "y.npy", "y.npy")
    (tmp_path / "s.json").write_text('{"train": [0, 30], "test": [20, 40]}')
    refused("s.json: splits overlap; a row belongs to one split", "X.npy", "y.npy", splits=tmp_path / "s.json")
    (tmp_path / "s.json").write_text('{"train": [0, 30], "test": [30, 41]}')
    refused("s.json: expected splits as .* within 40 rows", "X.npy", "y.npy", splits=tmp_path / "s.json")
    np.save(tmp_path / "narrow.npy", arrays[0][:, :7])
    test = [tmp_path / "narrow.npy", tmp_path / "y.npy"]
    refused("narrow.npy: rows of 7 numbers, expected 8 as in .*X.npy", "X.npy", "y.npy", test=test)


def test_other_features_of_the_same_name_are_kept(arrays, imported, tmp_path):
    np.save(tmp_path / "X.npy", arrays[0] + 1)
    paths, splits = [tmp_path / "X.npy", tmp_path / "y.npy"], tmp_path / "s.txt"
    with pytest.raises(EvalkitError, match="mine: holds another feature set .made from .*; choose another name"):
        import_features(paths, out=tmp_path / "sets/mine", splits=splits, **NAMES)
    assert load_features(tmp_path / "sets/mine").sha256 == imported.sha256
    replaced = import_features(paths, out=tmp_path / "sets/mine", splits=splits, replace=True, **NAMES)
    assert replaced.sha256 != imported.sha256


def test_exports_that_are_refused(imported, tmp_path, monkeypatch):
    with pytest.raises(EvalkitError, match="a.csv: no format of that suffix; choose .npz, .parquet, .libsvm, .saf"):
        export_features(imported, tmp_path / "a.csv")
    with pytest.raises(EvalkitError, match="LIBSVM cannot hold splits; choose one by --split train or test"):
        export_features(imported, tmp_path / "a.libsvm")
    monkeypatch.setattr(export_module, "LARGEST_TEXT", 1000)
    with pytest.raises(EvalkitError, match="a.libsvm: about 0.0 GB of text; choose .npz, .parquet or .safetensors, or"):
        export_features(imported, tmp_path / "a.libsvm", split="train")
    assert export_features(imported, tmp_path / "a.libsvm", split="train", large=True).stat().st_size > 1000
    with pytest.raises(ArtifactError, match="mine: no split 'extra'; it has train, test"):
        export_features(imported, tmp_path / "a.npz", split="extra")


# -- the commands


def test_the_commands_of_the_readme_work_on_plain_arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(write_module, "_CHUNK_BYTES", 1 << 20)
    digits = load_digits()
    X, y = (digits.data / 16).astype(np.float32), digits.target
    np.save("X.npy", X[:1300])
    np.save("y.npy", y[:1300])
    np.save("X_test.npy", X[1300:])
    np.save("y_test.npy", y[1300:])
    section = GUIDE.split("## Features of other tools")[1].split("\n## ")[0]
    commands = re.search(r"```\n(.*?)```", section, re.DOTALL)[1].splitlines()
    outputs = {}
    for line in commands:
        words = shlex.split(line, comments=True)
        assert words[0] == "evalkit"
        result = CliRunner().invoke(main, ["--home", str(tmp_path / "home"), *words[1:]])
        assert result.exit_code == 0, (line, result.output)
        outputs[words[1] if words[1] != "features" else words[2]] = result.stdout
    assert sorted(outputs) == ["concat", "export", "import", "info", "svm"]
    percent = float(re.search(r"test accuracy ([\d.]+) %", outputs["svm"])[1])
    # C is chosen on validation; over the grid scikit-learn's accuracies lie in this range
    machines = [LinearSVC(C=C, max_iter=20_000).fit(X[:1300], y[:1300]) for C in (1e-2, 1e-1, 1.0)]
    accuracies = [100 * machine.score(X[1300:], y[1300:]) for machine in machines]
    assert min(accuracies) - 0.5 <= percent <= max(accuracies) + 0.5
    assert "1,797 x 64 float32, 0.00 GB\ndataset: mine, 10 classes" in outputs["info"]
    means = [float(line.split()[2]) for line in outputs["info"].splitlines() if line.startswith("imported")]
    assert means == [pytest.approx(X.mean(), abs=1e-4)]


def test_errors_of_the_commands(arrays, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(main, ["--home", str(tmp_path / "home"), "features", *map(str, arguments)])

    for arguments, message in (
        (("info",), "no feature set in this workspace; make one with `evalkit extract"),
        (("info", "mine"), "mine: no such feature set"),
        (("import", tmp_path / "X.npy", tmp_path / "y.npy"), "X.npy: splits none, expected train and test"),
        (("import", tmp_path / "gone.npy", tmp_path / "y.npy"), "gone.npy: no such file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1 and message in result.stderr.splitlines()[-1], result.output
