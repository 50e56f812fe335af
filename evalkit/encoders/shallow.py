"""pixels and kmeans:NAME: encoders without a trained network, the baselines that any encoder should beat.

Single-layer K-means features (Coates, Lee & Ng 2011) are the baseline of the paper's CIFAR-10 table: `train_kmeans`
learns the dictionary, `kmeans_encoder` loads it. The numbers are those of the authors' demo: 400,000 patches of 6 x 6
pixels, whitened, 50 iterations. Standardise the features before a classifier.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from evalkit.artifacts import ArtifactWriter, already_built, new_manifest, read_manifest, write_artifact
from evalkit.encoders.encoder import BatchNorm, Encoder, Network, Preprocessing, Reduce
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.images.imageset import ImageSet
from evalkit.weights_files import read_weights, refuse_not_finite
from evalkit.workspace import Workspace

KIND = "k-means dictionary"
WEIGHTS = "kmeans.safetensors"
PATCH = 6  # pixels per side [the authors' demo, as the next line]
_CONTRAST = 10.0  # added to a patch's variance, of pixels in 0..255
_LENGTH = PATCH * PATCH * 3
PATCHES = 400_000
_ZCA = 0.1  # added to the eigenvalues of the patches' covariance
_ITERATIONS = 50
_STEP = 5  # iterations between records of the progress
_CHUNK = 20_000  # patches normalised at a time


def pixels_encoder() -> Encoder:
    """Images of any size in [0, 1], each as one vector: row by row, pixel by pixel, red, green, blue."""
    return Encoder("pixels", Pixels(), Preprocessing())


class Pixels(Network):
    """(N, 3, h, w) -> one layer "pixels", (N, h x w x 3)."""

    default = ("pixels",)

    def forward(
        self, images: Tensor, layers: Sequence[str] | None = None, reduce: Reduce | None = None
    ) -> dict[str, Tensor]:
        rows = images.permute(0, 2, 3, 1).flatten(1)
        return {"pixels": reduce("pixels", rows) if reduce else rows}

    def batch_norms(self) -> dict[str, BatchNorm]:
        return {}

    def optimized_for_inference(self, layers: Sequence[str], *, precision: str, sample: Tensor) -> nn.Module:
        return self  # bf16 would round the pixels


def kmeans_encoder(name: str, workspace: Workspace) -> Encoder:
    """K-means features with the dictionary of that name or path.

    Raises:
        ArtifactError: no dictionary there, or arrays of other shapes.
    """
    path = workspace.find(KIND, name)
    manifest = read_manifest(path, KIND, check_hashes=True)
    weights = path / WEIGHTS
    network = TriangleCode(_checked(load_dictionary(weights), str(weights)))
    sha256, images = manifest["files"][WEIGHTS]["sha256"], manifest["made_from"]["images_sha256"]
    return Encoder(
        f"kmeans:{path.name}", network, Preprocessing(range=(0.0, 255.0)), sha256, str(weights.resolve()), images
    )


def train_kmeans(
    images: ImageSet, target: Path, *, centroids: int = 1600, patches: int = PATCHES, seed: int = 0
) -> Path:
    """Learns a dictionary from training images and returns its directory; resumes if it was interrupted.

    The file holds `patches_mean` (108,), `whitening` (108, 108) and `centroids` (centroids, 108), float32. A patch is
    stored row by row, pixel by pixel, as red, green, blue.

    Raises:
        EvalkitError: fewer patches than centroids, or images smaller than a patch.
    """
    training = images.training
    height, width = training.shape[1:3]
    if patches < centroids or min(height, width) < PATCH:
        raise EvalkitError(
            f"{images.name}: {patches:,} patches of images of {height}x{width} for {centroids:,} centroids; "
            f"expected at least one patch per centroid, and {PATCH}x{PATCH} pixels"
        )
    settings: dict[str, Any] = {"images": images.name, "centroids": centroids, "patches": patches, "seed": seed}
    settings |= {"patch": PATCH, "zca": _ZCA, "iterations": _ITERATIONS}
    made_from = {"images_sha256": images.sha256}
    with write_artifact(target, settings=settings, made_from=made_from) as artifact:
        if not already_built(target, KIND, settings=settings, made_from=made_from, replace=True):
            _learn(artifact, training, centroids, patches, seed)
            artifact.finish(new_manifest(KIND, settings=settings, made_from=made_from))
    return target


def _learn(artifact: ArtifactWriter, images: np.ndarray, centroids: int, patches: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    sample = _normalise_in_chunks(sample_patches(images, patches, random))
    mean, whitening = zca(sample)
    sample = (sample - mean) @ whitening
    centers = sample[random.choice(patches, centroids, replace=False)]
    done, file = artifact.progress.get("iterations", 0), artifact.path / WEIGHTS
    if done:
        centers = load_dictionary(file)["centroids"].numpy()
    steps = range(done, _ITERATIONS, _STEP)
    for first in tqdm(steps, desc="k-means", unit=f"{_STEP} iterations", disable=None):
        centers = KMeans(centroids, init=centers, n_init=1, max_iter=_STEP, tol=0).fit(sample).cluster_centers_
        save_file({"patches_mean": _tensor(mean), "whitening": _tensor(whitening), "centroids": _tensor(centers)}, file)
        artifact.save(iterations=first + _STEP)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def sample_patches(images: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Patches from random places in random images, uint8 (count, 108)."""
    n, height, width = images.shape[:3]
    rows = np.sort(random.integers(0, n, count))
    tops, lefts = random.integers(0, height - PATCH + 1, count), random.integers(0, width - PATCH + 1, count)
    sample = np.empty((count, PATCH, PATCH, 3), np.uint8)
    for i, (row, top, left) in enumerate(zip(rows, tops, lefts, strict=True)):
        sample[i] = images[row, top : top + PATCH, left : left + PATCH]
    return sample.reshape(count, -1)


def _normalise_in_chunks(patches: np.ndarray) -> np.ndarray:
    parts = (patches[first : first + _CHUNK] for first in range(0, len(patches), _CHUNK))
    return np.concatenate([normalise_patches(torch.from_numpy(part).float()).numpy() for part in parts])


def zca(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and whitening (D, D) of patches (n, D): the inverse square root of their covariance + 0.1, float32."""
    eigenvalues, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    whitening = (vectors / np.sqrt(eigenvalues + _ZCA)) @ vectors.T
    return patches.mean(0), whitening.astype(np.float32)


def load_dictionary(path: Path) -> dict[str, Tensor]:
    """The arrays of a dictionary's file: `patches_mean`, `whitening` and `centroids`.

    Raises:
        ArtifactError: not a safetensors file.
    """
    return read_weights(path)


def _checked(arrays: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    expected = {"patches_mean": (_LENGTH,), "whitening": (_LENGTH, _LENGTH)}
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    centroids = shapes.pop("centroids", ())
    if shapes != expected or centroids[1:] != (_LENGTH,):
        raise ArtifactError(f"{path}: arrays {shapes}, centroids {centroids}; expected {expected} and (K, {_LENGTH})")
    refuse_not_finite(arrays, path)
    return arrays


def normalise_patches(patches: Tensor) -> Tensor:
    """Patches (n, 108) without brightness and contrast: (x - mean) / sqrt(var + 10) of pixels in 0..255."""
    centred = patches - patches.mean(1, keepdim=True)
    return centred / (patches.var(1, keepdim=True) + _CONTRAST).sqrt()


class TriangleCode(Network):
    """Images (N, 3, h, w) in 0..255 -> one layer "triangle", (N, 4 K).

    Each patch's max(0, mean distance - distance) to every centroid, summed over the image's quadrants: upper left,
    upper right, lower left, lower right.
    """

    default = ("triangle",)
    mean: Tensor
    whitening: Tensor
    products: Tensor
    squares: Tensor

    def __init__(self, dictionary: dict[str, Tensor]):
        super().__init__()
        centroids = dictionary["centroids"].float()
        self.register_buffer("mean", dictionary["patches_mean"].float())
        self.register_buffer("whitening", dictionary["whitening"].float())
        # |x - c|^2 = [x, |x|^2] [-2 c, 1] + |c|^2: one product
        self.register_buffer("products", torch.cat([-2 * centroids.T, torch.ones(1, len(centroids))]))
        self.register_buffer("squares", centroids.square().sum(1))

    def forward(
        self, images: Tensor, layers: Sequence[str] | None = None, reduce: Reduce | None = None
    ) -> dict[str, Tensor]:
        # one image at a time: its 729 x K distances stay in the cache
        rows = torch.stack([self._code(image.float()) for image in images])
        return {"triangle": reduce("triangle", rows) if reduce else rows}

    def _code(self, image: Tensor) -> Tensor:
        patches = image.permute(1, 2, 0).unfold(0, PATCH, 1).unfold(1, PATCH, 1)  # rows, columns, 3, 6, 6
        rows, columns = patches.shape[:2]
        x = normalise_patches(patches.permute(0, 1, 3, 4, 2).reshape(rows * columns, _LENGTH))
        x = (x - self.mean) @ self.whitening
        distances = torch.addmm(self.squares, torch.cat([x, x.square().sum(1, keepdim=True)], 1), self.products)
        distances.clamp_min_(0).sqrt_()
        code = torch.sub(distances.mean(1, keepdim=True), distances, out=distances).relu_()
        return (_quadrants(rows, columns, code.device) @ code).flatten()

    def batch_norms(self) -> dict[str, BatchNorm]:
        return {}

    def optimized_for_inference(self, layers: Sequence[str], *, precision: str, sample: Tensor) -> nn.Module:
        return self  # differences of close distances need float32


def _quadrants(rows: int, columns: int, device: torch.device) -> Tensor:
    """(4, rows x columns): 1 where a patch lies in a quadrant; the middle row and column belong to the first half."""
    down, across = (torch.arange(n, device=device) >= (n + 1) // 2 for n in (rows, columns))
    index = 2 * down[:, None].long() + across[None, :].long()
    return F.one_hot(index.flatten(), 4).T.float()
