"""Learning the dictionary of K-means features (Coates, Lee & Ng 2011); the encoder `kmeans:NAME` gives the features.

Numbers are those of the authors' demo: 400,000 patches of 6 x 6 pixels, whitened, 50 iterations.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from torch import Tensor
from tqdm import tqdm

from evalkit.arrays import Building, building
from evalkit.artifacts import new_manifest, read_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.encoders.kmeans import KIND, PATCH, WEIGHTS, load_dictionary, normalised
from evalkit.images.imageset import ImageSet

PATCHES = 400_000
_ZCA = 0.1  # added to the eigenvalues of the patches' covariance
_ITERATIONS = 50
_STEP = 5  # iterations between records of progress
_CHUNK = 20_000  # patches normalised at a time


def train_kmeans(
    images: ImageSet, target: Path, *, centroids: int = 1600, patches: int = PATCHES, seed: int = 0
) -> Path:
    """Learns a dictionary on training pictures and returns its directory; killed, it goes on where it was.

    The file holds `patches_mean` (108,), `whitening` (108, 108) and `centroids` (centroids, 108), float32. A patch is
    row by row, pixel by pixel, red, green, blue.

    Raises:
        EvalkitError: fewer patches than centroids, or pictures smaller than a patch.
    """
    pictures = images.training
    height, width = pictures.shape[1:3]
    if patches < centroids or min(height, width) < PATCH:
        raise EvalkitError(
            f"{images.name}: {patches:,} patches of pictures of {height}x{width} for {centroids:,} centroids; "
            f"expected at least one patch a centroid, and {PATCH}x{PATCH} pixels"
        )
    settings: dict[str, Any] = {"images": images.name, "centroids": centroids, "patches": patches, "seed": seed}
    settings |= {"patch": PATCH, "zca": _ZCA, "iterations": _ITERATIONS}
    made_from = {"images_sha256": images.sha256}
    with building(target, settings=settings, made_from=made_from) as artifact:
        if not _is_there(target, settings, made_from):
            _learn(artifact, pictures, centroids, patches, seed)
            artifact.finish(new_manifest(KIND, settings=settings, made_from=made_from))
    return target


def _is_there(target: Path, settings: dict, made_from: dict) -> bool:
    try:
        manifest = read_manifest(target, KIND)
    except ArtifactError:
        return False
    return manifest["settings"] == settings and manifest["made_from"] == made_from


def _learn(artifact: Building, pictures: np.ndarray, centroids: int, patches: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    sample = _normalised(sample_patches(pictures, patches, random))
    mean, whitening = zca(sample)
    sample = (sample - mean) @ whitening
    found = sample[random.choice(patches, centroids, replace=False)]
    done, kept = artifact.progress.get("iterations", 0), artifact.path / WEIGHTS
    if done:
        found = load_dictionary(kept)["centroids"].numpy()
    steps = range(done, _ITERATIONS, _STEP)
    for first in tqdm(steps, desc="k-means", unit=f"{_STEP} iterations", disable=None):
        found = KMeans(centroids, init=found, n_init=1, max_iter=_STEP, tol=0).fit(sample).cluster_centers_
        save_file({"patches_mean": _tensor(mean), "whitening": _tensor(whitening), "centroids": _tensor(found)}, kept)
        artifact.save(iterations=first + _STEP)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def sample_patches(pictures: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Patches at random places of random pictures, uint8 (count, 108)."""
    n, height, width = pictures.shape[:3]
    which = np.sort(random.integers(0, n, count))
    tops, lefts = random.integers(0, height - PATCH + 1, count), random.integers(0, width - PATCH + 1, count)
    found = np.empty((count, PATCH, PATCH, 3), np.uint8)
    for i, (picture, top, left) in enumerate(zip(which, tops, lefts, strict=True)):
        found[i] = pictures[picture, top : top + PATCH, left : left + PATCH]
    return found.reshape(count, -1)


def _normalised(patches: np.ndarray) -> np.ndarray:
    parts = (patches[first : first + _CHUNK] for first in range(0, len(patches), _CHUNK))
    return np.concatenate([normalised(torch.from_numpy(part).float()).numpy() for part in parts])


def zca(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and whitening (D, D) of patches (n, D): the inverse root of their covariance + 0.1, float32."""
    eigenvalues, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    whitening = (vectors / np.sqrt(eigenvalues + _ZCA)) @ vectors.T
    return patches.mean(0), whitening.astype(np.float32)
