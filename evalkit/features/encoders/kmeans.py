"""kmeans:NAME, single-layer K-means features (Coates, Lee & Ng 2011), the baseline of the paper's CIFAR-10 table.

`evalkit.features.kmeans` learns the dictionary that this encoder loads. Its features want standardising.
"""

from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.artifacts import read_manifest
from evalkit.errors import ArtifactError
from evalkit.features.encoders.encoder import BatchNorm, Encoder, Network, Preprocessing, Reduce
from evalkit.workspace import Workspace

KIND = "k-means dictionary"
WEIGHTS = "kmeans.safetensors"
PATCH = 6  # pixels a side [the authors' demo, as is the next]
_CONTRAST = 10.0  # added to a patch's variance, of pixels in 0..255
_LENGTH = PATCH * PATCH * 3


def kmeans_encoder(rest: str, workspace: Workspace) -> Encoder:
    """The dictionary of that name or path.

    Raises:
        ArtifactError: no dictionary there, or one of other shapes.
    """
    path = workspace.find(KIND, rest)
    manifest = read_manifest(path, KIND, check_hashes=True)
    weights = path / WEIGHTS
    network = TriangleCode(_checked(load_dictionary(weights), str(weights)))
    sha256, images = manifest["files"][WEIGHTS]["sha256"], manifest["made_from"]["images_sha256"]
    return Encoder(
        f"kmeans:{path.name}", network, Preprocessing(range=(0.0, 255.0)), sha256, str(weights.resolve()), images
    )


def load_dictionary(path: object) -> dict[str, Tensor]:
    """The arrays of a dictionary's file.

    Raises:
        ArtifactError: no safetensors file.
    """
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: not readable as a K-means dictionary ({error})") from None


def _checked(found: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    expected = {"patches_mean": (_LENGTH,), "whitening": (_LENGTH, _LENGTH)}
    shapes = {name: tuple(array.shape) for name, array in found.items()}
    centroids = shapes.pop("centroids", ())
    if shapes != expected or centroids[1:] != (_LENGTH,):
        raise ArtifactError(f"{where}: arrays {shapes}, centroids {centroids}; expected {expected} and (K, {_LENGTH})")
    return found


def normalised(patches: Tensor) -> Tensor:
    """Brightness and contrast taken out: (x - mean) / sqrt(var + 10) of pixels in 0..255, (n, 108)."""
    centred = patches - patches.mean(1, keepdim=True)
    return centred / (patches.var(1, keepdim=True) + _CONTRAST).sqrt()


class TriangleCode(Network):
    """Pictures (N, 3, h, w) in 0..255 -> one layer "triangle", (N, 4 K).

    Each patch's max(0, mean distance - distance) to every centroid, summed over the picture's quadrants: upper left,
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
        self, pictures: Tensor, layers: Sequence[str] | None = None, reduce: Reduce | None = None
    ) -> dict[str, Tensor]:
        # one picture at a time: its 729 x K distances stay in the cache
        rows = torch.stack([self._code(picture.float()) for picture in pictures])
        return {"triangle": reduce("triangle", rows) if reduce else rows}

    def _code(self, picture: Tensor) -> Tensor:
        patches = picture.permute(1, 2, 0).unfold(0, PATCH, 1).unfold(1, PATCH, 1)  # rows, columns, 3, 6, 6
        rows, columns = patches.shape[:2]
        x = normalised(patches.permute(0, 1, 3, 4, 2).reshape(rows * columns, _LENGTH))
        x = (x - self.mean) @ self.whitening
        distances = torch.addmm(self.squares, torch.cat([x, x.square().sum(1, keepdim=True)], 1), self.products)
        distances.clamp_min_(0).sqrt_()
        code = torch.sub(distances.mean(1, keepdim=True), distances, out=distances).relu_()
        return (_quadrants(rows, columns, code.device) @ code).flatten()

    def norms(self) -> dict[str, BatchNorm]:
        return {}

    def lowered(self, layers: Sequence[str], *, precision: str, sample: Tensor) -> nn.Module:
        return self  # differences of near distances want float32


def _quadrants(rows: int, columns: int, device: torch.device) -> Tensor:
    """1 where a patch lies in a quadrant, (4, rows x columns); the middle row and column belong to the first half."""
    down, across = (torch.arange(n, device=device) >= (n + 1) // 2 for n in (rows, columns))
    index = 2 * down[:, None].long() + across[None, :].long()
    return F.one_hot(index.flatten(), 4).T.float()
