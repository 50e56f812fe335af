"""Kinds of input for `fuzz.py`: what `features import` reads, and feature sets on disk."""

import json

import numpy as np
import torch
from fuzz import Kind, register
from safetensors.torch import save_file

from evalkit.artifacts import MANIFEST
from evalkit.features.concat import concat_features
from evalkit.features.describe import describe_features
from evalkit.features.featureset import load_features
from evalkit.features.importing import import_features

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = np.arange(12) % 3
SPLITS = {"train": [0, 8], "test": [8, 12]}
SPLIT = ["train"] * 8 + ["test"] * 4


def make_pair(folder, labels="y.npy"):
    np.save(folder / "X.npy", X)
    if labels == "y.npy":
        np.save(folder / labels, Y)
    else:
        (folder / labels).write_text("".join(f"{'cat dog bird'.split()[k]}\r\n" for k in Y), encoding="utf-8-sig")
    (folder / "splits.json").write_text(json.dumps(SPLITS))
    return [folder / "X.npy", folder / labels, folder / "splits.json"]


def make_text(folder):
    return make_pair(folder, "y.txt")


def read_pair(folder, out):
    labels = next(path for path in folder.glob("y.*"))
    return import_features([folder / "X.npy", labels], splits=folder / "splits.json", out=out / "f").features


def make_npz(folder):
    np.savez(folder / "f.npz", features=X, labels=Y, split=SPLIT, class_names=["a", "b", "c"])
    return [folder / "f.npz"]


def make_compressed(folder):
    np.savez_compressed(folder / "f.npz", X_train=X[:8], y_train=Y[:8], X_test=X[8:], y_test=Y[8:])
    return [folder / "f.npz"]


def make_torch(folder):
    content = {"features": torch.from_numpy(X), "labels": torch.from_numpy(Y), "splits": SPLITS}
    torch.save(content, folder / "f.pt")
    return [folder / "f.pt"]


def make_old_torch(folder):
    content = {"features": torch.from_numpy(X).to_sparse(), "labels": torch.from_numpy(Y), "split": SPLIT}
    torch.save(content, folder / "f.pt", _use_new_zipfile_serialization=False)
    return [folder / "f.pt"]


def make_safetensors(folder):
    texts = {"splits": json.dumps(SPLITS), "class_names": '["a", "b", "c"]'}
    save_file({"features": torch.from_numpy(X), "labels": torch.from_numpy(Y)}, folder / "f.safetensors", texts)
    return [folder / "f.safetensors"]


def read_bundle(folder, out):
    return import_features(next(folder.glob("f.*")), out=out / "f").features


def make_set(folder):
    make_pair(folder)
    import_features([folder / "X.npy", folder / "y.npy"], splits=folder / "splits.json", out=folder / "f")
    return [folder / "f" / name for name in (MANIFEST, MANIFEST, MANIFEST, "features.npy", "labels.npy")]


def read_set(folder, out):
    features = load_features(folder / "f")
    describe_features(features)
    return concat_features([features, features], out=out / "f")


def half(out):
    return (out / "f" / MANIFEST).exists()


for name, make in {
    "npy and splits": make_pair,
    "text labels": make_text,
}.items():
    register(f"import {name}", Kind(make, read_pair, half))
for name, make in {
    "npz": make_npz,
    "compressed npz": make_compressed,
    "pt": make_torch,
    "old pt": make_old_torch,
    "safetensors": make_safetensors,
}.items():
    register(f"import {name}", Kind(make, read_bundle, half))
register("feature set", Kind(make_set, read_set, half))

NAMES = [*(f"import {each}" for each in ("npy and splits", "text labels", "npz", "compressed npz"))]
NAMES += [*(f"import {each}" for each in ("pt", "old pt", "safetensors")), "feature set"]
