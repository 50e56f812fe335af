"""From codes to groups: equal codes by a hash table in linear time, near codes by bands that must agree somewhere."""

from collections.abc import Iterator

import numpy as np

_BITS = np.array([bin(value).count("1") for value in range(256)], np.uint8)
_BLOCK = 256  # codes compared with all others of their bucket at a time


def groups(codes: np.ndarray, distance: int = 0) -> list[np.ndarray]:
    """Rows whose codes are equal, or joined by steps of at most `distance` bits; two or more rows a group.

    Args:
        codes: uint8 (N, W, bytes), packed bits; the first window of one picture is compared with all of another.
        distance: bits in which neighbours may differ; 0 compares first windows alone.

    Returns:
        Ascending rows of each group, groups by their first row.
    """
    first: dict[bytes, int] = {}
    parent = np.array([first.setdefault(code.tobytes(), row) for row, code in enumerate(codes[:, 0])], np.int64)
    if distance:
        firsts = np.array(list(first.values()), np.int64)
        for a, b in _near_pairs(codes[firsts], distance):
            _join(parent, firsts[a], firsts[b])
    roots = np.array([_root(parent, row) for row in range(len(parent))], np.int64)
    order = np.argsort(roots, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def _root(parent: np.ndarray, row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def _join(parent: np.ndarray, a: int, b: int) -> None:
    low, high = sorted((_root(parent, a), _root(parent, b)))
    parent[high] = low  # the first row stands for the group


def _near_pairs(codes: np.ndarray, distance: int) -> Iterator[tuple[int, int]]:
    """Pairs of pictures of which a first window and any window are at most `distance` bits apart.

    Two such codes agree wholly in at least one of distance + 1 bands of their bits; only those that do are compared.
    """
    count, windows, _ = codes.shape
    flat = codes.reshape(count * windows, -1)
    bits = np.unpackbits(flat, axis=1)
    for band in np.array_split(np.arange(bits.shape[1]), distance + 1):
        _, bucket = np.unique(np.packbits(bits[:, band], axis=1), axis=0, return_inverse=True)
        order = np.argsort(bucket.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(bucket.reshape(-1)))
        for start, end in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
            inside = order[start:end]
            yield from _near_in(flat, inside[inside % windows == 0], inside, windows, distance)


def _near_in(
    flat: np.ndarray, firsts: np.ndarray, all_windows: np.ndarray, windows: int, distance: int
) -> Iterator[tuple[int, int]]:
    for start in range(0, len(firsts), _BLOCK):
        block = firsts[start : start + _BLOCK]
        apart = _BITS[flat[block][:, None] ^ flat[all_windows][None]].sum(axis=2, dtype=np.int32)
        near = (apart <= distance) & (block[:, None] // windows != all_windows[None] // windows)
        a, b = np.nonzero(near)
        yield from zip((block[a] // windows).tolist(), (all_windows[b] // windows).tolist(), strict=True)
