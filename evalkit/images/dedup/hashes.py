"""Codes of images for finding duplicates: packed bits, uint8 (N, W, bytes), with W windows per image, the middle first.

Equal or near codes mean similar images. The further windows show the image shifted by one pixel: a shifted copy has a
window in common with its original. There are three kinds: a digest of the pixels, a cosine hash, and the paper's hash,
a denoising ReLU autoencoder with dropout, 3072-128-3072 on 32x32 center crops, whose code is thresholded (Radford et
al. 2016, sec. 4.3). dedup.py calls them; matching.py groups the codes.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from evalkit.errors import EvalkitError
from evalkit.images.imageset import Rows

ImageRows = np.ndarray | Rows
CHUNK = 2048  # images: 25 MB in float32 at 32x32
OFFSETS = [(1, 1)] + [(down, across) for down in range(3) for across in range(3) if (down, across) != (1, 1)]


def encode_in_chunks(images: ImageRows, encode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The codes of all images, read and encoded CHUNK at a time."""
    chunks = (np.asarray(images[first : first + CHUNK]) for first in range(0, len(images), CHUNK))
    return np.concatenate([encode(chunk) for chunk in chunks])


def exact(part: np.ndarray) -> np.ndarray:
    """128 bits of BLAKE2b over the pixels of an image, (n, 1, 16): equal for equal images, and only for those."""
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in part)
    return np.frombuffer(digests, np.uint8).reshape(len(part), 1, 16)


def perceptual(part: np.ndarray) -> np.ndarray:
    """64 bits per window, (n, 9, 8): which of the luma's 8 x 8 lowest cosine coefficients are above their median.

    The mean is left out: brightness and contrast change nothing, and encoding again changes a bit or two. The nine
    windows are one pixel smaller than the image on each side, shifted by up to one pixel, so that a shift of the image
    by one pixel is another window of it.
    """
    luma = part @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    height, width = luma.shape[1] - 2, luma.shape[2] - 2
    vertical, horizontal = _cosines(8, height), _cosines(8, width)
    windows = []
    for y, x in OFFSETS:
        coefficients = vertical @ luma[:, y : y + height, x : x + width] @ horizontal.T
        low = coefficients.reshape(len(part), 64)
        bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
        bits[:, 0] = False
        windows.append(np.packbits(bits, axis=1))
    return np.stack(windows, axis=1)


def _cosines(count: int, length: int) -> np.ndarray:
    """The first rows of the type-II discrete cosine transform, float32 (count, length)."""
    return np.cos(np.pi * np.arange(count)[:, None] * (np.arange(length) + 0.5) / length).astype(np.float32)


HIDDEN = 128  # Radford et al. 2016, sec. 4.3
_MIN_STD = 2.0  # of 255: a flatter image has no detail but rounding


@dataclass(frozen=True)
class AutoencoderOptions:
    """How to train the hash. The paper gives the network but none of these values; they are ours."""

    images: int = 300_000  # in training, a minute or two on one core; repeats a small set, covers a part of a large one
    batch_size: int = 256
    learning_rate: float = 1e-3
    # Standard deviation; that of the pixels is 1. Of 100 copies at JPEG quality 75, 25, 31, 38 and 46 keep their code
    # at 0.5, 1, 2 and 4; at 4 ten times as many unrelated images are within 8 bits, at 8 four of five equal codes are
    # wrong.
    noise: float = 2.0
    dropout: float = 0.5  # applied to the code

    def __post_init__(self) -> None:
        if self.images < self.batch_size or self.batch_size < 2 or not 0 <= self.dropout < 1 or self.noise < 0:
            raise EvalkitError(f"autoencoder: {self} is not valid; give at least one batch, dropout below 1")


class Autoencoder(nn.Module):
    """Images (N, P) of mean 0 and standard deviation 1 -> code before its ReLU (N, 128), and back."""

    def __init__(self, pixels: int, dropout: float):
        super().__init__()
        self.encode = nn.Linear(pixels, HIDDEN)
        self.decode = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(HIDDEN, pixels))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The images reconstructed from their codes."""
        return self.decode(self.encode(images))


def train_autoencoder(
    images: ImageRows, options: AutoencoderOptions, *, seed: int, device: torch.device
) -> tuple[Autoencoder, float]:
    """Fits the autoencoder to `images`, uint8 (N, H, W, 3); returns it and the mean error of its last 100 updates."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # dropout takes no generator
        torch.manual_seed(seed)
        return _train(images, options, np.random.default_rng(seed), device)


def _train(
    images: ImageRows, options: AutoencoderOptions, generator: np.random.Generator, device: torch.device
) -> tuple[Autoencoder, float]:
    model = Autoencoder(int(np.prod(images.shape[1:])), options.dropout).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    errors: deque[torch.Tensor] = deque(maxlen=100)
    for _ in range(options.images // options.batch_size):
        # Sorted rows are read faster; the choice of rows is random all the same.
        rows = np.sort(generator.integers(0, len(images), options.batch_size))
        clean = _flat(np.asarray(images[rows]), device)
        loss = (model(clean + options.noise * torch.randn_like(clean)) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.detach())
    return model.eval(), float(torch.stack(tuple(errors)).mean())


def _flat(part: np.ndarray, device: torch.device) -> torch.Tensor:
    """Images, uint8 (n, H, W, 3), as (n, P), standardized per image: brightness must not change a code."""
    flat = torch.from_numpy(part.reshape(len(part), -1)).to(device).float()
    flat -= flat.mean(dim=1, keepdim=True)
    return flat / flat.std(dim=1, keepdim=True).clamp_min(_MIN_STD)


@torch.no_grad()
def autoencoder_codes(model: Autoencoder, images: ImageRows, device: torch.device, *, shifted: bool) -> np.ndarray:
    """Packed bits, uint8 (N, 1, 16): which units of the code are active.

    If `shifted`, (N, 9, 16): for the image itself, then for shifts by one pixel in the eight directions.
    """

    def encode(part: np.ndarray) -> np.ndarray:
        height, width = part.shape[1:3]
        padded = np.pad(part, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        windows = [padded[:, y : y + height, x : x + width] for y, x in (OFFSETS if shifted else OFFSETS[:1])]
        active = [(model.encode(_flat(window, device)) > 0).cpu().numpy() for window in windows]
        return np.packbits(np.stack(active, axis=1), axis=2)

    return encode_in_chunks(images, encode)
