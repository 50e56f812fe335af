"""From codes to groups: equal codes by a hash table in linear time, near codes by bands that must agree somewhere.

Are two images the same but for brightness, encoding and a small shift? By their edges, and by their colours.

Edges confirm what the hashes propose: strangers under one sky or on one ground share their colours, not their edges.
report.py judges what was confirmed by both.
"""

from collections.abc import Callable, Iterator

import numpy as np

_AT_ONCE = 1 << 20  # codes compared, or unpacked, at a time
_HEADS = 8  # unlike images of one code that the next one is compared with; bounds the work on a code that says little
Alike = Callable[[int, int], bool]


def groups(codes: np.ndarray, distance: int = 0, *, alike: Alike | None = None) -> list[np.ndarray]:
    """Rows whose codes are equal, or joined by steps of at most `distance` bits; two or more rows a group.

    Args:
        codes: uint8 (N, W, bytes), packed bits; the first window of one image is compared with all of another.
        distance: bits in which neighbours may differ; 0 compares first windows alone.
        alike: has the last word on two rows that the codes would join; without it they do.

    Returns:
        Ascending rows of each group, groups by their first row.
    """
    alike = alike or (lambda a, b: True)
    parent = _joined_by_equal_codes(codes[:, 0], alike)
    if distance:
        firsts = np.flatnonzero(parent == np.arange(len(parent)))
        for a, b in firsts[_near_pairs(codes[firsts], distance)].tolist():
            low, high = sorted((_root(parent, a), _root(parent, b)))
            if low != high and alike(a, b):
                parent[high] = low  # the first row stands for the group
    roots = np.array([_root(parent, row) for row in range(len(parent))], np.int64)
    order = np.argsort(roots, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def _joined_by_equal_codes(codes: np.ndarray, alike: Alike) -> np.ndarray:
    """For each row the first one that has its code and is alike, or itself."""
    heads: dict[bytes, list[int]] = {}
    parent = np.arange(len(codes))
    for row, code in enumerate(codes):
        known = heads.setdefault(code.tobytes(), [])
        parent[row] = next((head for head in known if alike(head, row)), row)
        if parent[row] == row and len(known) < _HEADS:
            known.append(row)
    return parent


def _root(parent: np.ndarray, row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def _near_pairs(codes: np.ndarray, distance: int) -> np.ndarray:
    """Images of which a first window and any window are at most `distance` bits apart: (pairs, 2), ascending.

    Two such codes agree wholly in at least one of distance + 1 bands of their bits; only those that do are compared.
    """
    count, windows, _ = codes.shape
    flat = codes.reshape(count * windows, -1)
    words = np.ascontiguousarray(flat).view(np.uint64).T.copy()  # codes are of 8 or 16 bytes
    found = [np.empty((0, 2), np.int64)]
    for band in np.array_split(np.arange(8 * flat.shape[1]), distance + 1):
        keys = _keys(flat, band)
        order = np.argsort(keys, kind="stable")
        for a, b in _sharing(keys[order], order, windows):
            near = sum(np.bitwise_count(word[a] ^ word[b]) for word in words) <= distance
            pairs = np.stack([a[near] // windows, b[near] // windows], axis=1)
            found.append(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _keys(flat: np.ndarray, band: np.ndarray) -> np.ndarray:
    """The bits `band` of packed codes (n, bytes) as whole numbers (n,)."""
    weights = 1 << np.arange(len(band), dtype=np.int64)
    parts = (flat[first : first + _AT_ONCE] for first in range(0, len(flat), _AT_ONCE))
    return np.concatenate([np.unpackbits(part, axis=1)[:, band] @ weights for part in parts])


def _sharing(keys: np.ndarray, order: np.ndarray, windows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Codes that share a key (keys ascending, `order` their numbers): first windows beside all of the key's codes."""
    firsts = np.flatnonzero(order % windows == 0)
    start = np.searchsorted(keys, keys[firsts], side="left")
    count = np.searchsorted(keys, keys[firsts], side="right") - start
    done = np.cumsum(count)
    begin = 0
    while begin < len(firsts):
        before = done[begin] - count[begin]
        end = max(begin + 1, int(np.searchsorted(done, before + _AT_ONCE)))
        part = count[begin:end]
        within = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        yield np.repeat(order[firsts[begin:end]], part), order[np.repeat(start[begin:end], part) + within]
        begin = end


_SHIFT = 2  # pixels in each direction
# On Tiny ImageNet at 32x32, 400 random images: all copies encoded again at quality 75 reach 0.73, 99 of 100 copies
# 20 % brighter 0.95. Of the strangers that the hashes propose (benchmarks/dedup.py) hardly one reaches 0.65.
LIKE_EDGES = 0.7
LIKE_COLOURS = 0.85  # the same copies reach 0.91 and 0.97
_FLAT = 3.0  # of 255: below this spread there is nothing to correlate
_SAME_FLAT = 25.0  # of 255: flat images whose colours are this near count as alike


def like_edges(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two images, uint8 (H, W, 3), have their edges in common; where neither has any, their colours."""
    edges = _edges(a), _edges(b)
    if max(edges[0].std(), edges[1].std()) < _FLAT / 2:  # JPEG's own noise has 1 or 2
        return like_colours(a, b)
    return likeness(*edges) >= LIKE_EDGES


def like_colours(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two images, uint8 (H, W, 3), agree in what is light, dark and of which colour; flat ones in colour."""
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


def _edges(image: np.ndarray) -> np.ndarray:
    """The luma's differences downwards and to the right, float32 (H - 1, W - 1, 2)."""
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    return np.stack([luma[1:, 1:] - luma[:-1, 1:], luma[1:, 1:] - luma[1:, :-1]], axis=2)
