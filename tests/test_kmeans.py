"""K-means features: by hand in numpy, resumption, a planted dictionary, refusals."""

import dataclasses

import numpy as np
import pytest
import torch

from evalkit.artifacts import read_manifest
from evalkit.encoders import load_encoder
from evalkit.encoders.shallow import (
    KIND,
    TriangleCode,
    load_dictionary,
    normalise_patches,
    sample_patches,
    train_kmeans,
    zca,
)
from evalkit.errors import EvalkitError
from evalkit.features.extract import extract
from evalkit.workspace import Workspace


def dictionary(count=5, seed=0):
    random = np.random.default_rng(seed)
    arrays = {
        "patches_mean": random.normal(size=108) / 10,
        "whitening": np.eye(108) + random.normal(size=(108, 108)) / 50,
        "centroids": random.normal(size=(count, 108)),
    }
    return {name: torch.from_numpy(array.astype("f4")) for name, array in arrays.items()}


def test_reference_the_code_of_a_image_patch_by_patch():
    arrays = {name: array.double().numpy() for name, array in dictionary().items()}
    image = np.random.default_rng(1).integers(0, 256, (11, 9, 3)).astype(float)  # 6 x 4 patches
    expected = np.zeros((2, 2, 5))
    for i in range(6):
        for j in range(4):
            patch = image[i : i + 6, j : j + 6].ravel()
            patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 10)
            x = (patch - arrays["patches_mean"]) @ arrays["whitening"]
            distances = np.sqrt(((x - arrays["centroids"]) ** 2).sum(1))
            expected[i // 3, j // 2] += np.maximum(0, distances.mean() - distances)
    found = TriangleCode(dictionary())(torch.from_numpy(image).permute(2, 0, 1)[None])["triangle"]
    np.testing.assert_allclose(found.numpy()[0], expected.ravel(), rtol=2e-4)  # float32 differences of near distances


def test_the_middle_row_and_column_belong_to_the_first_half():
    """27 patches a side in an image of 32: the authors' demo pools 14 and 13."""
    flat = torch.full((1, 3, 32, 32), 100.0)  # each patch is 0 after normalising: equal codes everywhere
    codes = TriangleCode(dictionary())(flat)["triangle"].reshape(4, 5)
    share = codes / codes.sum(0)
    expected = torch.tensor([14 * 14, 14 * 13, 13 * 14, 13 * 13])[:, None] / 27**2
    torch.testing.assert_close(share[:, codes.sum(0) > 0], expected.expand(4, 5)[:, codes.sum(0) > 0])


def test_whitening_decorrelates():
    """Value: covariance C becomes C / (C + 0.1) along each of its axes."""
    patches = np.random.default_rng(0).normal(size=(5000, 4)).astype("f4") * (3, 1, 0.3, 0.1)
    mean, whitening = zca(patches)
    after = np.cov((patches - mean) @ whitening, rowvar=False)
    eigenvalues = np.linalg.eigvalsh(np.cov(patches, rowvar=False))
    np.testing.assert_allclose(np.linalg.eigvalsh(after), eigenvalues / (eigenvalues + 0.1), rtol=1e-4)


def test_patches_lie_in_their_images():
    images = np.zeros((3, 8, 7, 3), np.uint8)
    images[:] = np.array([1, 2, 3])[:, None, None, None]
    patches = sample_patches(images, 60, np.random.default_rng(0))
    assert patches.shape == (60, 108)
    assert (patches == patches[:, :1]).all()
    assert set(patches[:, 0]) == {1, 2, 3}


def test_a_killed_training_goes_on_to_the_same_dictionary(striped, tmp_path, monkeypatch):
    whole = train_kmeans(striped, tmp_path / "whole", centroids=6, patches=300)
    from evalkit.artifacts import ArtifactWriter

    saved = ArtifactWriter.save

    def die(self, **progress):
        saved(self, **progress)
        if progress.get("iterations") == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(ArtifactWriter, "save", die)
    with pytest.raises(KeyboardInterrupt):
        train_kmeans(striped, tmp_path / "killed", centroids=6, patches=300)
    monkeypatch.undo()
    killed = train_kmeans(striped, tmp_path / "killed", centroids=6, patches=300)
    found, expected = (load_dictionary(path / "kmeans.safetensors") for path in (killed, whole))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    made = read_manifest(killed, KIND)["created"]
    assert read_manifest(train_kmeans(striped, killed, centroids=6, patches=300), KIND)["created"] == made


def test_centroids_are_at_a_minimum_of_the_distances(striped, tmp_path):
    """Invariance: another of Lloyd's steps over the same patches changes nothing, as the demo's loop has ended."""
    path = train_kmeans(striped, tmp_path / "d", centroids=4, patches=300)
    arrays = {name: array.numpy() for name, array in load_dictionary(path / "kmeans.safetensors").items()}
    raw = sample_patches(striped.split("train"), 300, np.random.default_rng(0))
    x = (normalise_patches(torch.from_numpy(raw).float()).numpy() - arrays["patches_mean"]) @ arrays["whitening"]
    nearest = ((x[:, None] - arrays["centroids"]) ** 2).sum(2).argmin(1)
    means = np.stack([x[nearest == k].mean(0) for k in range(4)])
    np.testing.assert_allclose(means, arrays["centroids"], atol=1e-4)  # float32 means of about 75 patches


def test_the_encoder_by_name_gives_features_of_four_quadrants(striped, tmp_path):
    workspace = Workspace(tmp_path / "home")
    train_kmeans(striped, workspace.path_of(KIND, "mine"), centroids=6, patches=300)
    encoder = load_encoder("kmeans:mine", home=workspace)
    features = extract(striped, encoder, out=tmp_path / "features", dtype="float32", device="cpu")
    code = TriangleCode(load_dictionary(tmp_path / "home/kmeans/mine/kmeans.safetensors"))
    images = torch.from_numpy(np.array(striped.images[:3])).permute(0, 3, 1, 2).float()
    np.testing.assert_allclose(features.features[:3], code(images)["triangle"].numpy(), rtol=1e-6)
    assert features.encoder == "kmeans:mine"
    assert features.features.shape == (360, 24)


def test_what_cannot_be_learnt_or_loaded_is_refused(striped, tmp_path):
    with pytest.raises(EvalkitError, match="5 patches of images of 32x32 for 6 centroids; expected at least"):
        train_kmeans(striped, tmp_path / "d", centroids=6, patches=5)
    small = dataclasses.replace(striped, images=striped.images[:, :5])
    with pytest.raises(EvalkitError, match="images of 5x32 for 6 centroids"):
        train_kmeans(small, tmp_path / "d", centroids=6, patches=300)
    workspace = Workspace(tmp_path / "home")
    with pytest.raises(EvalkitError, match="nowhere: no such k-means dictionary"):
        load_encoder("kmeans:nowhere", home=workspace)
    train_kmeans(striped, workspace.path_of(KIND, "mine"), centroids=6, patches=300)
    file = tmp_path / "home/kmeans/mine/kmeans.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(EvalkitError, match="the manifest says"):
        load_encoder("kmeans:mine", home=workspace)
