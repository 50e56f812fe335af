"""Are two pictures the same but for brightness, encoding and a small shift? By their edges, and by their colours.

Edges confirm what the hashes propose: strangers under one sky or on one ground share their colours, not their edges.
report.py judges what was confirmed by both.
"""

import numpy as np

_SHIFT = 2  # pixels in each direction
# On Tiny ImageNet at 32x32, 400 random pictures: all copies encoded again at quality 75 reach 0.73, 99 of 100 copies
# 20 % brighter 0.95. Of the strangers that the hashes propose (benchmarks/dedup.py) hardly one reaches 0.65.
LIKE_EDGES = 0.7
LIKE_COLOURS = 0.85  # the same copies reach 0.91 and 0.97
_FLAT = 3.0  # of 255: below this spread there is nothing to correlate
_SAME_FLAT = 25.0  # of 255: flat pictures whose colours are this near count as alike


def like_edges(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two pictures, uint8 (H, W, 3), have their edges in common; where neither has any, their colours."""
    edges = _edges(a), _edges(b)
    if max(edges[0].std(), edges[1].std()) < _FLAT / 2:  # JPEG's own noise has 1 or 2
        return like_colours(a, b)
    return likeness(*edges) >= LIKE_EDGES


def like_colours(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two pictures, uint8 (H, W, 3), agree in what is light, dark and of which colour; flat ones in colour."""
    means = a.mean(axis=(0, 1), dtype=np.float32), b.mean(axis=(0, 1), dtype=np.float32)
    one, other = a - means[0], b - means[1]
    if max(one.std(), other.std()) < _FLAT:
        return bool(np.abs(means[0] - means[1]).max() < _SAME_FLAT)
    return likeness(one, other) >= LIKE_COLOURS


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The best correlation of two arrays, float32 (H, W, C), over shifts of up to two pixels."""
    height, width, _ = (n - 2 * _SHIFT for n in a.shape)
    middle = a[_SHIFT : _SHIFT + height, _SHIFT : _SHIFT + width]
    moved = np.lib.stride_tricks.sliding_window_view(b, middle.shape).reshape(-1, middle.size)
    one = middle.reshape(-1) - middle.mean()
    others = moved - moved.mean(axis=1, keepdims=True)
    return float(np.max(others @ one / one.size / np.maximum(others.std(axis=1) * one.std(), 1e-9)))


def _edges(picture: np.ndarray) -> np.ndarray:
    """The luma's differences downwards and to the right, float32 (H - 1, W - 1, 2)."""
    luma = picture @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    return np.stack([luma[1:, 1:] - luma[:-1, 1:], luma[1:, 1:] - luma[1:, :-1]], axis=2)
