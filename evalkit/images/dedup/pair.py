"""The pictures that dedup compares, of one set or of two, by row; and the comparison of two of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from evalkit.images.dedup.likeness import like_edges
from evalkit.images.imageset import ImageSet


@dataclass(frozen=True)
class Pair:
    """The pictures of a set, followed by those of a split of another one, if any, as one run of rows."""

    images: ImageSet
    other: ImageSet | None
    split: str

    @property
    def others(self) -> Any:
        """The other set's pictures, or None."""
        return self.other.split(self.split) if self.other else None

    def picture(self, row: int) -> np.ndarray:
        """One picture, uint8 (H, W, 3)."""
        inside = row < len(self.images)
        return np.asarray(self.images.images[row] if inside else self.others[row - len(self.images)])

    def describe(self, row: int) -> tuple[str, int, int, str]:
        """(set, row in that set, label, class)."""
        source = self.images
        if row >= len(source):
            assert self.other is not None
            source, row = self.other, row - len(source) + self.other.splits[self.split][0]
        label = int(source.labels[row])
        return source.name, row, label, source.class_names[label] if label >= 0 else ""


class Confirming:
    """Compares the pictures that like codes propose, and counts."""

    def __init__(self, pair: Pair):
        self._pair = pair
        self.counts = {"pairs_proposed": 0, "pairs_confirmed": 0}

    def __call__(self, a: int, b: int) -> bool:
        alike = like_edges(self._pair.picture(a), self._pair.picture(b))
        self.counts["pairs_proposed"] += 1
        self.counts["pairs_confirmed"] += alike
        return alike
