"""Codes of pictures for finding duplicates: packed bits, uint8 (N, W, bytes), W windows a picture, the middle first.

Equal or near codes mean like pictures. The further windows are the picture a pixel aside: a copy shifted by a pixel has
one of them in common with its original.
"""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from evalkit.images.view import Rows

Pictures = np.ndarray | Rows
CHUNK = 2048  # pictures at a time: 25 MB in float32 at 32x32
OFFSETS = [(1, 1)] + [(down, across) for down in range(3) for across in range(3) if (down, across) != (1, 1)]


def coded(images: Pictures, code: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The codes of all pictures, read and coded CHUNK at a time."""
    return np.concatenate([code(part) for part in _chunks(images)])


def _chunks(images: Pictures) -> Iterator[np.ndarray]:
    for first in range(0, len(images), CHUNK):
        yield np.asarray(images[first : first + CHUNK])


def exact(part: np.ndarray) -> np.ndarray:
    """128 bits of BLAKE2b over a picture's pixels, (n, 1, 16): equal for equal pictures, and only for those."""
    digests = b"".join(hashlib.blake2b(picture.tobytes(), digest_size=16).digest() for picture in part)
    return np.frombuffer(digests, np.uint8).reshape(len(part), 1, 16)


def perceptual(part: np.ndarray) -> np.ndarray:
    """64 bits a window, (n, 9, 8): which of the luma's 8 x 8 lowest cosine coefficients are above their median.

    The mean is left out: brightness and contrast change nothing, encoding again a bit or two. The windows lie at the
    nine places that leave a pixel at the edge, so a shift by one pixel is another window of the same picture.
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
