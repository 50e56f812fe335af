"""JPEGs decoded at a fraction of their size by simplejpeg (extra [fast]): Pillow's pixels in a tenth less time.

Both are libjpeg-turbo with its default methods; Pillow spends more around it. decode.py does without where it is not
installed.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from PIL import Image

try:
    simplejpeg: Any = import_module("simplejpeg")  # not a statement: it has no types, and may not be there
except ImportError:
    simplejpeg = None

MOST_PIXELS = 100_000_000  # 300 MB once decoded; ImageNet's largest picture has a tenth of it
_FACTORS = (8, 4, 2, 1)
_SCAN = 0xDA  # the marker before the pixels
_ODD = {*range(0xC3, 0xD0)} - {0xC4}  # neither baseline nor progressive; C4 are tables
_TELLING, _TURNING = (0xE1, 0xE2), (b"Exif", b"Orientation", b"MPF")  # EXIF or XMP, which may turn it; a second picture


@dataclass(frozen=True)
class Reduced:
    """A picture of width x height decoded smaller by `factor`, in RGB; `grey` if the file has one channel."""

    picture: Image.Image
    width: int
    height: int
    factor: int
    grey: bool


def reduced_jpeg(content: bytes, least: int) -> Reduced | None:
    """A JPEG file decoded as small as may be with `least` pixels or more on each side, or whole if it has fewer.

    None for what is Pillow's to decode or refuse: no plain JPEG, metadata that may turn it, too large, broken, or no
    simplejpeg here.
    """
    if simplejpeg is None or not _plain(content):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if width * height > MOST_PIXELS or colours in ("CMYK", "YCCK"):
            return None
        factor = next(factor for factor in _FACTORS if min(width, height) >= factor * least or factor == 1)
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=-(-height // factor), min_width=-(-width // factor))
    except ValueError:
        return None
    return Reduced(Image.fromarray(pixels), width, height, factor, colours == "Gray")


def _plain(content: bytes) -> bool:
    """Whether the bytes begin as a baseline or progressive JPEG without metadata that may turn it."""
    at = 2
    while content[:2] == b"\xff\xd8" and content[at : at + 1] == b"\xff" and at + 1 < len(content):
        kind, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4])
        if kind == _SCAN:
            return True
        if kind in _ODD or kind in _TELLING and any(content.find(word, at, end) >= 0 for word in _TURNING):
            return False
        at = end
    return False
