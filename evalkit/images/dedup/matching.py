"""From codes to groups: equal codes by a hash table in linear time, near codes by bands of bits, one of which agrees.

Edges then confirm what the codes propose, over small shifts: unrelated images with a similar sky or ground share their
colors, but not their edges. dedup.py samples the confirmed pairs and judges them by edges and colors.
"""

from collections.abc import Callable, Iterator

import numpy as np

_CHUNK = 1 << 20  # codes that are compared, or unpacked, together
_HEADS = 8  # dissimilar images with one code that the next is compared with; bounds the work on uninformative codes
SameImage = Callable[[int, int], bool]


def groups(codes: np.ndarray, distance: int = 0, *, same: SameImage | None = None) -> list[np.ndarray]:
    """Groups of two or more rows whose codes are equal, or connected by steps of at most `distance` bits.

    Args:
        codes: uint8 (N, W, bytes), packed bits; the first window of one image is compared with all of another.
        distance: bits in which neighbors may differ; 0 compares only first windows.
        same: decides whether two rows with near codes belong together; by default they do.

    Returns:
        The rows of each group, ascending; groups in the order of their first row.
    """
    same = same or (lambda a, b: True)
    parent = _joined_by_equal_codes(codes[:, 0], same)
    if distance:
        firsts = np.flatnonzero(parent == np.arange(len(parent)))
        for a, b in firsts[_near_pairs(codes[firsts], distance)].tolist():
            low, high = sorted((_root(parent, a), _root(parent, b)))
            if low != high and same(a, b):
                parent[high] = low  # the first row represents the group
    roots = np.array([_root(parent, row) for row in range(len(parent))], np.int64)
    order = np.argsort(roots, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def _joined_by_equal_codes(codes: np.ndarray, same: SameImage) -> np.ndarray:
    """For each row the first row with its code and the same image, or itself."""
    heads: dict[bytes, list[int]] = {}
    parent = np.arange(len(codes))
    for row, code in enumerate(codes):
        known = heads.setdefault(code.tobytes(), [])
        parent[row] = next((head for head in known if same(head, row)), row)
        if parent[row] == row and len(known) < _HEADS:
            known.append(row)
    return parent


def _root(parent: np.ndarray, row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def _near_pairs(codes: np.ndarray, distance: int) -> np.ndarray:
    """Pairs of images, (pairs, 2), ascending, whose first window and any window differ in at most `distance` bits.

    Two such codes agree in at least one whole band, of distance + 1 bands of their bits; only such codes are compared.
    """
    count, windows, _ = codes.shape
    flat = codes.reshape(count * windows, -1)
    words = np.ascontiguousarray(flat).view(np.uint64).T.copy()  # codes have 8 or 16 bytes
    all_pairs = [np.empty((0, 2), np.int64)]
    for band in np.array_split(np.arange(8 * flat.shape[1]), distance + 1):
        keys = _keys(flat, band)
        order = np.argsort(keys, kind="stable")
        for a, b in _sharing(keys[order], order, windows):
            near = sum(np.bitwise_count(word[a] ^ word[b]) for word in words) <= distance
            pairs = np.stack([a[near] // windows, b[near] // windows], axis=1)
            all_pairs.append(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1))
    return np.unique(np.concatenate(all_pairs), axis=0)


def _keys(flat: np.ndarray, band: np.ndarray) -> np.ndarray:
    """The bits `band` of packed codes (n, bytes) as whole numbers (n,)."""
    weights = 1 << np.arange(len(band), dtype=np.int64)
    parts = (flat[first : first + _CHUNK] for first in range(0, len(flat), _CHUNK))
    return np.concatenate([np.unpackbits(part, axis=1)[:, band] @ weights for part in parts])


def _sharing(keys: np.ndarray, order: np.ndarray, windows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of codes with equal keys (keys ascend, `order` numbers the codes): a first window and any window."""
    firsts = np.flatnonzero(order % windows == 0)
    start = np.searchsorted(keys, keys[firsts], side="left")
    count = np.searchsorted(keys, keys[firsts], side="right") - start
    done = np.cumsum(count)
    begin = 0
    while begin < len(firsts):
        before = done[begin] - count[begin]
        end = max(begin + 1, int(np.searchsorted(done, before + _CHUNK)))
        part = count[begin:end]
        within = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        yield np.repeat(order[firsts[begin:end]], part), order[np.repeat(start[begin:end], part) + within]
        begin = end


_SHIFT = 2  # pixels in each direction
# On Tiny ImageNet at 32x32, 400 random images: all copies encoded again at quality 75 reach 0.73, 99 of 100 copies
# that are 20 % brighter 0.95. Of the unrelated images that the hashes propose (benchmarks/dedup.py) hardly one reaches
# 0.65.
MIN_EDGE_CORRELATION = 0.7
MIN_COLOR_CORRELATION = 0.85  # the same copies reach 0.91 and 0.97
_FLAT = 3.0  # of 255: with a smaller standard deviation there is nothing to correlate
_SAME_FLAT = 25.0  # of 255: flat images whose colors differ by less count as similar


def similar_edges(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two images, uint8 (H, W, 3), have the same edges; if neither has edges, the same colors."""
    edges = _edges(a), _edges(b)
    if max(edges[0].std(), edges[1].std()) < _FLAT / 2:  # JPEG noise alone has 1 or 2
        return similar_colors(a, b)
    return max_correlation(*edges) >= MIN_EDGE_CORRELATION


def similar_colors(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two images, uint8 (H, W, 3), have similar pixels up to brightness and contrast."""
    means = a.mean(axis=(0, 1), dtype=np.float32), b.mean(axis=(0, 1), dtype=np.float32)
    centered_a, centered_b = a - means[0], b - means[1]
    if max(centered_a.std(), centered_b.std()) < _FLAT:
        return bool(np.abs(means[0] - means[1]).max() < _SAME_FLAT)
    return max_correlation(centered_a, centered_b) >= MIN_COLOR_CORRELATION


def max_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The largest correlation of two arrays, float32 (H, W, C), over shifts of up to two pixels."""
    height, width, _ = (n - 2 * _SHIFT for n in a.shape)
    middle = a[_SHIFT : _SHIFT + height, _SHIFT : _SHIFT + width]
    shifted = np.lib.stride_tricks.sliding_window_view(b, middle.shape).reshape(-1, middle.size)
    centered = middle.reshape(-1) - middle.mean()
    others = shifted - shifted.mean(axis=1, keepdims=True)
    covariance = others @ centered / centered.size
    return float(np.max(covariance / np.maximum(others.std(axis=1) * centered.std(), 1e-9)))


def _edges(image: np.ndarray) -> np.ndarray:
    """The vertical and horizontal differences of the luma, float32 (H - 1, W - 1, 2)."""
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    return np.stack([luma[1:, 1:] - luma[:-1, 1:], luma[1:, 1:] - luma[1:, :-1]], axis=2)
