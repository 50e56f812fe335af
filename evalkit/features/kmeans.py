"""K-means features (Coates, Lee & Ng 2011; the tables' K-means rows): learning the dictionary, and the code of pictures.

`train_kmeans` makes an artifact from an image set's training pictures; the encoder `kmeans:PATH` gives its features.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from evalkit.arrays import building
from evalkit.artifacts import new_manifest, read_manifest
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.images.imageset import ImageSet

KIND = "k-means dictionary"
WEIGHTS = "kmeans.safetensors"
PATCH = 6  # pixels a side [the authors' demo, as the four below]
PATCHES = 400_000
CONTRAST = 10.0  # added to a patch's variance, of pixels in 0..255
WHITENING = 0.1  # added to the eigenvalues of the patches' covariance
ITERATIONS = 50
_CHUNK = 20_000  # patches normalised at a time
_STEP = 5  # iterations between records of progress


def train_kmeans(images: ImageSet, target: Path, *, centroids: int = 1600, patches: int = PATCHES, seed: int = 0) -> Path:
    """Learns the dictionary and returns `target`, its directory; killed, it goes on after the last whole iterations.

    The file holds `patches_mean` (108,), `whitening` (108, 108) and `centroids` (K, 108), float32; a patch is row by
    row, pixel by pixel, red, green, blue.

    Raises:
        EvalkitError: fewer patches than centroids, or pictures smaller than a patch.
    """
    pictures = images.split("train") if "train" in images.splits else images.images
    if patches < centroids or min(pictures.shape[1:3]) < PATCH:
        height, width = pictures.shape[1:3]
        raise EvalkitError(
            f"{images.name}: {patches} patches of {height}x{width} pictures for {centroids} centroids; "
            f"expected at least a patch a centroid, and {PATCH}x{PATCH} pixels"
        )
    settings = {"centroids": centroids, "patches": patches, "patch": PATCH, "contrast": CONTRAST, "zca": WHITENING}
    settings |= {"iterations": ITERATIONS, "seed": seed, "images": images.name}
    made_from = {"images_sha256": images.sha256}
    with building(target, settings=settings, made_from=made_from) as artifact:
        if _is_there(target, settings, made_from):
            return target
        random = np.random.default_rng(seed)
        sample = normalise(sample_patches(pictures, patches, random))
        mean, whitening = zca(sample)
        sample = (sample - mean) @ whitening
        done = artifact.progress.get("iterations", 0)
        kept = artifact.path / WEIGHTS
        found = load_file(kept)["centroids"].numpy() if done else sample[random.choice(patches, centroids, False)]
        for first in tqdm(range(done, ITERATIONS, _STEP), desc="k-means", unit=f"{_STEP} iterations", disable=None):
            found = KMeans(centroids, init=found, n_init=1, max_iter=_STEP, tol=0).fit(sample).cluster_centers_
            arrays = {"patches_mean": mean, "whitening": whitening, "centroids": found}
            save_file({name: torch.from_numpy(np.ascontiguousarray(a, "f4")) for name, a in arrays.items()}, kept)
            artifact.save(iterations=first + _STEP)
        artifact.finish(new_manifest(KIND, settings=settings, made_from=made_from))
    return target


def _is_there(target: Path, settings: dict, made_from: dict) -> bool:
    try:
        manifest = read_manifest(target, KIND)
    except ArtifactError:
        return False
    return manifest["settings"] == settings and manifest["made_from"] == made_from


def sample_patches(pictures: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Patches at random places of random pictures, uint8 (count, 108)."""
    n, height, width = pictures.shape[:3]
    which = np.sort(random.integers(0, n, count))
    tops, lefts = random.integers(0, height - PATCH + 1, count), random.integers(0, width - PATCH + 1, count)
    found = np.empty((count, PATCH, PATCH, 3), np.uint8)
    for i, (picture, top, left) in enumerate(zip(which, tops, lefts, strict=True)):
        found[i] = pictures[picture, top : top + PATCH, left : left + PATCH]
    return found.reshape(count, -1)


def normalise(patches: np.ndarray) -> np.ndarray:
    """Brightness and contrast taken out: (x - mean) / sqrt(var + 10), float32 (n, 108)."""
    found = np.empty(patches.shape, np.float32)
    for first in range(0, len(patches), _CHUNK):
        part = patches[first : first + _CHUNK].astype(np.float32)
        part -= part.mean(1, keepdims=True)
        found[first : first + _CHUNK] = part / np.sqrt(part.var(1, ddof=1, keepdims=True) + CONTRAST)
    return found


def zca(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (108,) and whitening (108, 108): the inverse root of covariance + 0.1, float32."""
    eigenvalues, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    whitening = (vectors / np.sqrt(eigenvalues + WHITENING)) @ vectors.T
    return patches.mean(0), whitening.astype(np.float32)


class TriangleCode(nn.Module):
    """Pictures (N, 3, H, W) in 0..255 -> (N, 4 K): each patch's max(0, mean distance - distance) to every centroid,
    summed over the four quadrants, upper left, upper right, lower left, lower right.
    """

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        mean, whitening, centroids = (weights[key].float() for key in ("patches_mean", "whitening", "centroids"))
        self.register_buffer("mean", mean)
        self.register_buffer("whitening", whitening)
        # |x - c|^2 = [x, |x|^2] [-2 c, 1] + |c|^2 in one product
        self.register_buffer("products", torch.cat([-2 * centroids.T, torch.ones(1, len(centroids))]))
        self.register_buffer("squares", centroids.square().sum(1))

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.stack([self._picture(picture) for picture in pictures])

    def _picture(self, picture: Tensor) -> Tensor:
        """One picture at a time: its 729 x K distances stay in the cache."""
        patches = picture.permute(1, 2, 0).unfold(0, PATCH, 1).unfold(1, PATCH, 1)  # rows, columns, 3, 6, 6
        rows, columns = patches.shape[:2]
        x = patches.permute(0, 1, 3, 4, 2).reshape(rows * columns, -1)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + CONTRAST).sqrt_()
        x = (x - self.mean) @ self.whitening
        distances = torch.addmm(self.squares, torch.cat([x, x.square().sum(1, keepdim=True)], 1), self.products)
        distances.clamp_min_(0).sqrt_()
        code = torch.sub(distances.mean(1, keepdim=True), distances, out=distances).relu_()
        return (_quadrants(rows, columns, code.device) @ code).flatten()


def _quadrants(rows: int, columns: int, device: torch.device) -> Tensor:
    """1 where a patch lies in a quadrant, (4, rows x columns); the middle row and column belong to the first half."""
    down, across = (torch.arange(n, device=device) >= (n + 1) // 2 for n in (rows, columns))
    index = (2 * down[:, None] + across[None, :].int()).flatten()
    return F.one_hot(index.long(), 4).T.float()
