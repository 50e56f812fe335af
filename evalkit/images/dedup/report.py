"""What dedup found, for people: groups.csv, a picture of the largest groups, an estimate of the false positives."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evalkit.artifacts import write_atomically
from evalkit.images.dedup.likeness import like_colours, like_edges

GROUPS, LARGEST = "groups.csv", "largest.png"
COLUMNS = ("group", "set", "row", "label", "class")
_JUDGED = 200  # pairs; none unlike among 200 bounds the rate at 1.9 % (Wilson, 95 %)
_SHOWN = 12  # groups, and pictures of each
_Z = 1.96  # of a 95 % interval

Picture = Callable[[int], np.ndarray]


def write_groups(
    path: Path, groups: Sequence[np.ndarray], describe: Callable[[int], tuple[str, int, int, str]]
) -> None:
    """A line a picture: its group, set, row there, label and class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((number, *describe(int(row))) for number, group in enumerate(groups) for row in group)
    write_atomically(path, text.getvalue())


def write_largest(path: Path, groups: Sequence[np.ndarray], picture: Picture) -> None:
    """A line of pictures a group, the largest group first."""
    chosen = sorted(groups, key=len, reverse=True)[:_SHOWN]
    if not chosen:
        return
    high, wide, _ = picture(int(chosen[0][0])).shape
    sheet = np.full((len(chosen) * (high + 2), _SHOWN * (wide + 2), 3), 255, np.uint8)
    for down, group in enumerate(chosen):
        for across, row in enumerate(group[:_SHOWN]):
            y, x = down * (high + 2), across * (wide + 2)
            sheet[y : y + high, x : x + wide] = picture(int(row))
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def false_positives(groups: Sequence[np.ndarray], picture: Picture, *, seed: int) -> dict[str, Any]:
    """How many of up to 200 random pairs within groups differ in edges or colours; 95 % bounds of their share."""
    generator = np.random.default_rng(seed)
    pairs = [generator.permutation(group)[:2] for group in groups for _ in range(len(group) - 1)]
    chosen = [pairs[k] for k in generator.permutation(len(pairs))[:_JUDGED]]
    sampled = [(picture(int(a)), picture(int(b))) for a, b in chosen]
    unlike = sum(not (like_edges(a, b) and like_colours(a, b)) for a, b in sampled)
    low, high = _wilson(unlike, len(chosen))
    share = 100 * unlike / len(chosen) if chosen else 0.0
    bounds = {"low_percent": round(low, 2), "high_percent": round(high, 2)}
    return {"pairs_judged": len(chosen), "unlike": unlike, "false_positive_percent": round(share, 2), **bounds}


def _wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share, in percent."""
    if not n:
        return 0.0, 100.0
    share, weight = hits / n, 1 + _Z**2 / n
    middle = (share + _Z**2 / (2 * n)) / weight
    half = _Z / weight * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
    return max(0.0, 100 * (middle - half)), min(100.0, 100 * (middle + half))
