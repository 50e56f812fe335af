"""What types on disk and arithmetic lose: measured, avoided by float32, or said; and what makes features stale."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import striped_arrays
from torch import nn

import evalkit
from evalkit import FeatureSet, import_features
from evalkit.features import extract as extract_module
from evalkit.features.rounding import measure, worst
from evalkit.images import ImageSet

IMAGES, LABELS = striped_arrays(80)
CPU = {"device": "cpu", "precision": "float32"}


class Scaled(nn.Module):
    """Some pixels, times `scale` plus `offset`."""

    def __init__(self, scale=1.0, offset=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([scale, offset]))

    def forward(self, images):
        return images[:, :, ::8, ::8].flatten(1) * self.weight[0] + self.weight[1]


LOSSY = {
    "overflow": (1e6, 0.0, "float16 would give them numbers too large for it; float32 is used"),
    "a common offset": (1.0, 1e3, "float16 would give them an error of [0-9.]+ % of their variation .*float32 is used"),
    "tiny numbers": (1e-8, 0.0, "float16 would give them an error of [0-9.e+]+ % of their variation"),
    "a negative offset": (0.01, -30.0, "float16 would give them an error of [0-9.e+]+ % of their variation"),
}


@pytest.mark.parametrize("case", LOSSY)
def test_features_that_float16_cannot_hold_become_float32_and_it_is_said(case, caplog, tmp_path):
    scale, offset, message = LOSSY[case]
    module = Scaled(scale, offset)
    features = evalkit.extract((IMAGES, LABELS), module, home=tmp_path, **CPU)
    assert features.features.dtype == np.float32
    assert features.manifest["settings"]["dtype"] == "float32"
    exact = evalkit.extract((IMAGES, LABELS), module, dtype="float32", **CPU)
    assert np.array_equal(features.features, exact.features)
    assert len([r for r in caplog.records if "float32 is used" in r.message]) == 1
    assert re.search(message, caplog.text)
    again = evalkit.extract((IMAGES, LABELS), module, home=tmp_path, **CPU)
    assert again.provenance.created == features.provenance.created


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e3, 0.0), (1e-3, 0.0), (0.5, 0.5)])
def test_features_that_float16_can_hold_stay_float16(scale, offset, caplog):
    features = evalkit.extract((IMAGES, LABELS), Scaled(scale, offset), **CPU)
    assert features.features.dtype == np.float16
    assert "float32" not in caplog.text


def test_float16_that_was_asked_for_is_kept_and_its_loss_said(caplog):
    features = evalkit.extract((IMAGES, LABELS), Scaled(1.0, 1e3), dtype="float16", **CPU)
    assert features.features.dtype == np.float16
    assert "float16 has an error of" in caplog.text


def test_a_loss_in_a_later_batch_counts_too(caplog):
    images = IMAGES.copy()
    images[:64] //= 8  # the first batch fits
    features = evalkit.extract((images, LABELS), Scaled(4e5), **CPU)
    assert features.features.dtype == np.float32
    assert np.isfinite(features.features).all()


def test_an_extraction_killed_after_the_change_of_type_resumes_in_float32(tmp_path, monkeypatch, caplog):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(extract_module, "_finish", killed)
    with pytest.raises(KeyboardInterrupt):
        evalkit.extract((IMAGES, LABELS), Scaled(1e6), out=tmp_path / "f", **CPU)
    monkeypatch.undo()
    caplog.clear()
    features = evalkit.extract((IMAGES, LABELS), Scaled(1e6), out=tmp_path / "f", **CPU)
    exact = evalkit.extract((IMAGES, LABELS), Scaled(1e6), dtype="float32", **CPU)
    assert features.sha256 == exact.sha256
    assert "float32 is used" not in caplog.text


@pytest.mark.parametrize(("offset", "used"), [(0.0, "bfloat16"), (100.0, "float32")])
def test_arithmetic_that_loses_features_is_not_the_default(offset, used, monkeypatch, caplog):
    monkeypatch.setattr(
        extract_module, "resolve_precision", lambda name, device: "bfloat16" if name == "auto" else name
    )
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))
    with torch.no_grad():
        module[1].bias += offset
    features = evalkit.extract((IMAGES, LABELS), module, device="cpu", precision="auto")
    assert features.manifest["settings"]["precision"] == used
    assert ("bfloat16 arithmetic gives the features an error of" in caplog.text) == (used == "float32")


def test_value_of_a_measurement():
    exact = np.array([[0.0, 5.0]] * 4 + [[2.0, 5.0]] * 4)
    rounded = exact + np.array([[0.1, 3.0], [-0.1, 3.0]] * 4)  # an error common to all rows is none
    for xp, convert in ((np, np.asarray), (torch, torch.from_numpy)):
        rounding = worst([measure(xp, convert(exact), convert(rounded), noise=1e-5)])
        assert rounding.error == pytest.approx(0.1)
        assert rounding.column_error == pytest.approx(0.1)


# -- arrays

RANDOM = np.random.default_rng(0).normal(size=(40, 3))
WIDE = {
    "an offset": RANDOM + 1e7,
    "whole numbers": (RANDOM * 4).astype(np.int64) + 2**60,
    "tiny numbers": RANDOM * 1e-45,
    "one column of three": RANDOM + [0, 0, 1e8],
}


@pytest.mark.parametrize("case", WIDE)
def test_what_float32_loses_of_wider_arrays_is_said(case, tmp_path, caplog):
    FeatureSet.from_arrays(WIDE[case], np.arange(40) % 2)
    assert "become float32 with an error of" in caplog.text
    caplog.clear()
    y = np.arange(40) % 2
    np.savez(tmp_path / "f.npz", X_train=WIDE[case], y_train=y, X_test=WIDE[case], y_test=y)
    import_features(tmp_path / "f.npz")
    assert "become float32 with an error of" in caplog.text


@pytest.mark.parametrize("given", [RANDOM, RANDOM * 1e30, RANDOM * 1e-30, RANDOM + 1e3, (RANDOM * 9).astype(int)])
def test_wider_arrays_that_fit_say_nothing(given, caplog):
    FeatureSet.from_arrays(given, np.arange(40) % 2)
    assert caplog.text == ""


# -- what makes features stale


@pytest.fixture
def striped_set(tmp_path):
    return ImageSet.from_arrays(IMAGES, LABELS, name="striped", home=tmp_path / "images")


def other_labels(images):
    return replace(images, labels=(LABELS + 1) % 3)


def other_splits(images):
    return replace(images, splits={"train": (0, 50), "test": (50, 80)})


def other_names(images):
    return replace(images, class_names=["a", "b", "c"])


@pytest.mark.parametrize("change", [other_labels, other_splits, other_names])
def test_features_of_changed_labels_or_splits_are_made_again(striped_set, change, tmp_path):
    encoder = Scaled()
    evalkit.extract(striped_set, encoder, out=tmp_path / "f", **CPU)
    changed = change(striped_set)
    features = evalkit.extract(changed, encoder, out=tmp_path / "f", **CPU)
    assert features.labels.tolist() == changed.labels.tolist()
    assert features.splits == changed.splits
    assert list(features.class_names) == list(changed.class_names)


@pytest.mark.parametrize(
    "options", [{"dtype": "float32"}, {"precision": "bfloat16"}, {"layers": "output"}, {"dtype": "float16"}]
)
def test_features_by_other_settings_are_made_again(striped_set, options, tmp_path):
    encoder = Scaled()
    first = evalkit.extract(striped_set, encoder, out=tmp_path / "f", **CPU)
    second = evalkit.extract(striped_set, encoder, out=tmp_path / "f", **CPU | options)
    assert second.manifest["settings"] != first.manifest["settings"]


def test_imports_of_files_of_one_name_see_both_files(tmp_path):
    y = np.arange(40) % 2
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "X.npy", RANDOM.astype("f4"))
        np.save(tmp_path / folder / "y.npy", y)
    pairs = [[tmp_path / folder / name for name in ("X.npy", "y.npy")] for folder in ("train", "test")]
    import_features(pairs[0], test=pairs[1], out=tmp_path / "f", replace=True)
    np.save(pairs[0][0], RANDOM.astype("f4") + 1)
    changed = import_features(pairs[0], test=pairs[1], out=tmp_path / "f", replace=True)
    assert np.array_equal(changed.features[:40], RANDOM.astype("f4") + 1)
    turned = import_features(pairs[1], test=pairs[0], out=tmp_path / "f", replace=True)
    assert np.array_equal(turned.features[40:], RANDOM.astype("f4") + 1)
    assert len(json.loads((tmp_path / "f/manifest.json").read_text())["made_from"]["files"]) == 4
