"""What a narrower type on disk, or narrower arithmetic, loses of the features: measured on what is written.

A classifier sees how features vary between images, so the error is compared with that variation: an offset common to
all images costs precision, as do numbers too large or too small for the type. No import of torch: `xp` is `numpy` or
`torch`, whose functions have the same names.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

LARGEST_ERROR = 0.01  # of the variation of all columns; float16 and features of a mean near their std: 0.0003 to 0.0007
LARGEST_COLUMN_ERROR = 0.25  # of one column's variation: 2 of 8 significant bits are left
LARGEST_ARITHMETIC_ERROR = 0.1  # of the variation of all columns; bfloat16 and the paper's network: 0.01 to 0.03
NOISE = 1e-6  # of a network in float32
_FEWEST_ROWS = 8  # among fewer, some columns are nearly constant by chance
_TINY = 1e-30


@dataclass(frozen=True)
class Rounding:
    """The largest errors of some rows: of all columns and of one column, as a part of the variation between rows."""

    error: float = 0.0
    column_error: float = 0.0

    @property
    def is_lossy(self) -> bool:
        """Whether a classifier could see the difference; NaN, of numbers that became infinite, is a loss."""
        return not (self.error <= LARGEST_ERROR and self.column_error <= LARGEST_COLUMN_ERROR)

    def describe(self) -> str:
        """The error in words."""
        if self.error != self.error:
            return "numbers too large for it"
        if self.error > LARGEST_ERROR:
            return f"an error of {100 * self.error:.2g} % of their variation between images"
        return f"an error of {100 * self.column_error:.2g} % of a column's variation between images"


def measure(xp: Any, exact: Any, rounded: Any, *, noise: float) -> Any:
    """[error, error of the worst column] of rows (n, D) that were rounded; zeros for one row, NaN for overflow.

    Args:
        xp: numpy or torch.
        exact: the numbers before.
        rounded: the numbers after, in the type of `exact`.
        noise: columns whose std is below this part of their mean are constant but for the noise of their computation.
    """
    scale = xp.abs(exact).max(0)
    scale = (scale.values if hasattr(scale, "values") else scale) + _TINY  # torch's max has indices, too
    values, errors = exact / scale, (rounded - exact) / scale
    variation, error = xp.var(values, 0, correction=0), xp.var(errors, 0, correction=0)
    counts = variation > (noise * xp.abs(values.mean(0))) ** 2
    share = scale / scale.max()
    total = ((variation * share**2) * counts).sum()
    whole = (((error * share**2) * counts).sum() / (total + _TINY * (total == 0))) ** 0.5
    column = (xp.where(counts, error, 0 * error) / xp.where(counts, variation, 1 + 0 * variation)).max() ** 0.5
    return xp.stack([whole, column * (len(exact) >= _FEWEST_ROWS)])


def worst(roundings: Any) -> Rounding:
    """The worst of several measurements, each two numbers; NaN is worst of all."""
    pairs = [(float(error), float(column)) for error, column in roundings]
    wrong = any(number != number for pair in pairs for number in pair)
    return Rounding(float("nan"), float("nan")) if wrong else Rounding(*map(max, zip(*pairs, strict=True)))


def say_rounding(given: np.ndarray, stored: np.ndarray, name: str) -> bool:
    """Warns of rows (n, D) of which the type on disk keeps too little; returns whether it did.

    Args:
        given: the rows as they came.
        stored: the same rows, finite, in the type on disk.
        name: what the message calls the features.
    """
    if np.can_cast(given.dtype, stored.dtype):
        return False
    # NumPy's longest floats hold every int64
    wide = np.longdouble if given.dtype.kind in "iu" and given.dtype.itemsize > 4 else np.float64
    noise = {"f4": NOISE, "f8": 1e-14}.get(given.dtype.str[1:], 0.0)
    rounding = worst([measure(np, given.astype(wide), stored.astype(wide), noise=noise)])
    if rounding.is_lossy:
        hint = "subtract the columns' means, or scale them, before" if stored.dtype == np.float32 else "use float32"
        logger.warning("%s: %s become %s with %s; %s", name, given.dtype, stored.dtype, rounding.describe(), hint)
    return rounding.is_lossy
