"""From codes to groups: equal codes by a hash table in linear time, near codes by bands that must agree somewhere."""

from collections.abc import Callable, Iterator

import numpy as np

_AT_ONCE = 1 << 20  # codes compared, or unpacked, at a time
_HEADS = 8  # unlike pictures of one code that the next one is compared with; bounds the work on a code that says little

Alike = Callable[[int, int], bool]


def groups(codes: np.ndarray, distance: int = 0, *, alike: Alike | None = None) -> list[np.ndarray]:
    """Rows whose codes are equal, or joined by steps of at most `distance` bits; two or more rows a group.

    Args:
        codes: uint8 (N, W, bytes), packed bits; the first window of one picture is compared with all of another.
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
    """Pictures of which a first window and any window are at most `distance` bits apart: (pairs, 2), ascending.

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
