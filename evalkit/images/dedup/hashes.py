"""Codes of images for finding duplicates: packed bits, uint8 (N, W, bytes), W windows an image, the middle first.

Equal or near codes mean like images. The further windows are the image a pixel aside: a copy shifted by a pixel has
one of them in common with its original.

The paper's hash: a denoising, dropout-regularised ReLU autoencoder whose thresholded code is the key.

Radford et al. 2016, sec. 4.3: 3072-128-3072 on 32x32 centre crops; the code's ReLU activations are thresholded.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from evalkit.errors import EvalkitError
from evalkit.images.imageset import Rows

ImageRows = np.ndarray | Rows
CHUNK = 2048  # images at a time: 25 MB in float32 at 32x32
OFFSETS = [(1, 1)] + [(down, across) for down in range(3) for across in range(3) if (down, across) != (1, 1)]


def coded(images: ImageRows, code: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The codes of all images, read and coded CHUNK at a time."""
    return np.concatenate([code(part) for part in _chunks(images)])


def _chunks(images: ImageRows) -> Iterator[np.ndarray]:
    for first in range(0, len(images), CHUNK):
        yield np.asarray(images[first : first + CHUNK])


def exact(part: np.ndarray) -> np.ndarray:
    """128 bits of BLAKE2b over an image's pixels, (n, 1, 16): equal for equal images, and only for those."""
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in part)
    return np.frombuffer(digests, np.uint8).reshape(len(part), 1, 16)


def perceptual(part: np.ndarray) -> np.ndarray:
    """64 bits a window, (n, 9, 8): which of the luma's 8 x 8 lowest cosine coefficients are above their median.

    The mean is left out: brightness and contrast change nothing, encoding again a bit or two. The windows lie at the
    nine places that leave a pixel at the edge, so a shift by one pixel is another window of the same image.
    """
    luma = part @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    high, wide = luma.shape[1] - 2, luma.shape[2] - 2
    down, across = _cosines(8, high), _cosines(8, wide)
    windows = []
    for y, x in OFFSETS:
        low = (down @ luma[:, y : y + high, x : x + wide] @ across.T).reshape(len(part), 64)
        bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
        bits[:, 0] = False
        windows.append(np.packbits(bits, axis=1))
    return np.stack(windows, axis=1)


def _cosines(count: int, length: int) -> np.ndarray:
    """The first rows of the type-II cosine transform, float32 (count, length)."""
    return np.cos(np.pi * np.arange(count)[:, None] * (np.arange(length) + 0.5) / length).astype(np.float32)


HIDDEN = 128  # Radford et al. 2016, sec. 4.3
_LEAST_SPREAD = 2.0  # of 255: what is flatter has no detail but rounding


@dataclass(frozen=True)
class AutoencoderOptions:
    """How to train the hash. The paper gives the network and no value below; these are ours."""

    images: int = 300_000  # shown in training, a minute or two on a core; repeats small sets, covers a part of large
    batch_size: int = 256
    learning_rate: float = 1e-3
    # Standard deviation; the pixels' is 1. Of 100 copies at JPEG quality 75, 25, 31, 38 and 46 keep their code at 0.5,
    # 1, 2 and 4; at 4 ten times as many strangers lie within 8 bits, at 8 four of five equal codes are wrong.
    noise: float = 2.0
    dropout: float = 0.5  # of the code

    def __post_init__(self) -> None:
        if self.images < self.batch_size or self.batch_size < 2 or not 0 <= self.dropout < 1 or self.noise < 0:
            raise EvalkitError(f"autoencoder: {self} makes no sense; give at least one batch, dropout below 1")


class Autoencoder(nn.Module):
    """Images (N, P) of mean 0 and spread 1 -> code before its ReLU (N, 128), and back."""

    def __init__(self, pixels: int, dropout: float):
        super().__init__()
        self.encode = nn.Linear(pixels, HIDDEN)
        self.decode = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(HIDDEN, pixels))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The images drawn from their codes."""
        return self.decode(self.encode(images))


def train_autoencoder(
    images: ImageRows, options: AutoencoderOptions, *, seed: int, device: torch.device
) -> tuple[Autoencoder, float]:
    """Fits the autoencoder to `images`, uint8 (N, H, W, 3); returns it with the squared error of its last 100 steps."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # dropout knows no generator
        torch.manual_seed(seed)
        return _trained(images, options, np.random.default_rng(seed), device)


def _trained(
    images: ImageRows, options: AutoencoderOptions, generator: np.random.Generator, device: torch.device
) -> tuple[Autoencoder, float]:
    model = Autoencoder(int(np.prod(images.shape[1:])), options.dropout).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    errors: deque[torch.Tensor] = deque(maxlen=100)
    for _ in range(options.images // options.batch_size):
        # Sorted rows are read faster; which rows they are is random all the same.
        rows = np.sort(generator.integers(0, len(images), options.batch_size))
        clean = _flat(np.asarray(images[rows]), device)
        loss = (model(clean + options.noise * torch.randn_like(clean)) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.detach())
    return model.eval(), float(torch.stack(tuple(errors)).mean())


def _flat(part: np.ndarray, device: torch.device) -> torch.Tensor:
    """Images, uint8 (n, H, W, 3), as (n, P) less their mean, over their spread: brightness must not change a code."""
    flat = torch.from_numpy(part.reshape(len(part), -1)).to(device).float()
    flat -= flat.mean(dim=1, keepdim=True)
    return flat / flat.std(dim=1, keepdim=True).clamp_min(_LEAST_SPREAD)


@torch.no_grad()
def autoencoder_codes(model: Autoencoder, images: ImageRows, device: torch.device, *, shifted: bool) -> np.ndarray:
    """Packed bits, uint8 (N, 1, 16): which units of the code are active.

    With `shifted` (N, 9, 16): those of the image as it is, then shifted by a pixel in the eight directions.
    """

    def code(part: np.ndarray) -> np.ndarray:
        high, wide = part.shape[1:3]
        padded = np.pad(part, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        windows = [padded[:, y : y + high, x : x + wide] for y, x in (OFFSETS if shifted else OFFSETS[:1])]
        active = [(model.encode(_flat(window, device)) > 0).cpu().numpy() for window in windows]
        return np.packbits(np.stack(active, axis=1), axis=2)

    return coded(images, code)
