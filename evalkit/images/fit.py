"""How a picture of any size becomes the square that a network wants: geometry and filters, after decoding."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from evalkit.errors import EvalkitError, PictureError

FILTERS = ("antialias", "bilinear-noaa")
DECODES = ("scaled", "exact")
_LONGEST = 20  # times the shorter side


@dataclass(frozen=True)
class Fit:
    """Shorter side to `size`, then the centre (Radford et al. 2016, sec. 4.3).

    Attributes:
        size: side of the square in pixels.
        filter: "antialias" is Pillow's BILINEAR, whose support grows with the reduction; "bilinear-noaa" samples four
            neighbours whatever the reduction, as OpenCV's INTER_LINEAR does and with it the authors' release.
        decode: "scaled" lets a large JPEG be decoded at 1/2, 1/4 or 1/8 of its size, at least twice `size`: twice as
            fast, and 0.5 of 255 from "exact" in the mean (benchmarks/results/prepare-speed.csv). Only with antialias.
    """

    size: int = 32
    filter: str = "antialias"
    decode: str = "exact"

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise EvalkitError(f"no filter {self.filter!r}; choose from {', '.join(FILTERS)}")
        if self.decode not in DECODES:
            raise EvalkitError(f"no decoding {self.decode!r}; choose from {', '.join(DECODES)}")
        if self.decode == "scaled" and self.filter != "antialias":
            raise EvalkitError(f"scaled decoding averages pixels, which {self.filter} must not; choose --decode exact")
        if not 1 <= self.size <= 4096:
            raise EvalkitError(f"size {self.size}: expected 1 to 4096 pixels")


@dataclass(frozen=True)
class Geometry:
    """The whole picture's size after resizing, and where the crop begins in it."""

    wide: int
    high: int
    left: int
    top: int


def geometry(width: int, height: int, size: int) -> Geometry:
    """Shorter side to `size`, the other rounded half up, centre crop, as the release's min_resize and center_crop.

    Raises:
        PictureError: there are no pixels.
    """
    shorter = min(width, height)
    if shorter < 1:
        raise PictureError(f"{width} x {height} pixels")
    wide, high = ((2 * side * size + shorter) // (2 * shorter) for side in (width, height))
    return Geometry(wide, high, (wide - size + 1) // 2, (high - size + 1) // 2)


def squared(picture: Image.Image, fit: Fit) -> np.ndarray:
    """An RGB picture as uint8 (size, size, 3)."""
    where = geometry(*picture.size, fit.size)
    if fit.filter == "bilinear-noaa":
        return _sampled(np.asarray(picture), where, fit.size)
    if max(picture.size) > _LONGEST * min(picture.size):  # resized whole, a line of pixels would fill the memory
        return squared_from_reduced(picture, *picture.size, 1.0, fit)
    if (where.wide, where.high) != picture.size:
        picture = picture.resize((where.wide, where.high), Image.Resampling.BILINEAR)
    return np.asarray(picture.crop((where.left, where.top, where.left + fit.size, where.top + fit.size)))


def squared_from_reduced(reduced: Image.Image, width: int, height: int, reduction: float, fit: Fit) -> np.ndarray:
    """A width x height picture, decoded smaller by `reduction`, as uint8 (size, size, 3).

    The crop is laid out on the whole picture and read at fractions of the reduced one's pixels; to round it to whole
    ones costs more accuracy than the reduction itself (mean difference from exact 1.24 instead of 0.49).
    """
    where = geometry(width, height, fit.size)
    across, down = width / where.wide / reduction, height / where.high / reduction
    box = (
        where.left * across,
        where.top * down,
        min((where.left + fit.size) * across, reduced.width),
        min((where.top + fit.size) * down, reduced.height),
    )
    return np.asarray(reduced.resize((fit.size, fit.size), Image.Resampling.BILINEAR, box=box))


def _sampled(pixels: np.ndarray, where: Geometry, size: int) -> np.ndarray:
    """The crop of `pixels` resized by plain bilinear sampling, in floating point, rounded at the end."""
    rows = (where.top, pixels.shape[0], where.high), (where.left, pixels.shape[1], where.wide)
    y, x = (np.clip((np.arange(first, first + size) + 0.5) * (old / new) - 0.5, 0, old - 1) for first, old, new in rows)
    y0, x0 = y.astype(int), x.astype(int)
    y1, x1 = np.minimum(y0 + 1, pixels.shape[0] - 1), np.minimum(x0 + 1, pixels.shape[1] - 1)
    down, right = (y - y0)[:, None, None], (x - x0)[None, :, None]
    upper = pixels[y0][:, x0] * (1 - right) + pixels[y0][:, x1] * right
    lower = pixels[y1][:, x0] * (1 - right) + pixels[y1][:, x1] * right
    return np.floor(upper * (1 - down) + lower * down + 0.5).astype(np.uint8)
