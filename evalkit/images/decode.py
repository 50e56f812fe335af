"""From an image file's bytes to uint8 RGB of the wanted size: formats, modes, orientation.

Called by prepare's workers for every image; what it refuses is skipped and named, or stops a strict run.

How an image of any size becomes the square that a network wants: geometry and filters, after decoding.

JPEGs decoded at a fraction of their size by simplejpeg (extra [fast]): Pillow's pixels in a tenth less time.

Both are libjpeg-turbo with its default methods; Pillow spends more around it. decode.py does without where it is not
installed.
"""

import io
import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from evalkit.errors import EvalkitError, ImageError
from evalkit.images.faces import face_boxes
from evalkit.images.options import FaceOptions, ResizeOptions

# No EPS (it would start Ghostscript) and nothing that is not met as a data set's image.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000")
_GREY = ("1", "L", "LA", "La", "I", "F")
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Decoded:
    """What an image gave, uint8 (size, size, 3) each; the format it came in, and whether it had one channel."""

    images: list[np.ndarray]
    format: str
    grey: bool


def _first_bytes(content: bytes) -> str:
    return f"begins with {content[:8]!r}" if content else "the file is empty"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata: the pixels are still good
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB: what is transparent shows white, 16 bits are scaled to 8."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _scaled_to_8_bits(image).convert("RGB")
    if image.mode == "F":
        raise ImageError("floating-point pixels, whose range is not known; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(f"pixels from {values.min()} to {values.max()}, expected 0 to 65535")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 / 255 = 257; rounded


_LONGEST = 20  # times the shorter side


def decode_and_resize(content: bytes | np.ndarray, fit: ResizeOptions, faces: FaceOptions | None = None) -> Decoded:
    """An image file's bytes, or a uint8 array (H, W), (H, W, 1) or (H, W, 3), as a square of RGB, or one a face.

    Raises:
        ImageError: the bytes are no whole image; the message is the reason alone, the caller knows the name.
    """
    if isinstance(content, np.ndarray):
        grey = content.ndim == 2 or content.shape[2] == 1
        rgb = np.repeat(content.reshape(*content.shape[:2], 1), 3, axis=2) if grey else content
        return Decoded(_squares(Image.fromarray(np.ascontiguousarray(rgb)), fit, faces), "array", grey)
    if fit.decode == "scaled" and faces is None and (reduced := reduced_jpeg(content, 2 * fit.size)):
        return Decoded([_from_reduced(reduced, fit)], "JPEG", reduced.grey)
    with warnings.catch_warnings():  # Pillow warns of odd metadata; such an image is fine
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                return _decoded(image, fit, faces)
        except (EvalkitError, MemoryError):
            raise
        except Image.UnidentifiedImageError:
            raise ImageError(f"not an image ({_first_bytes(content)})") from None
        except Exception as error:  # a broken file can raise anything inside Pillow's parsers
            raise ImageError(f"broken image ({error or type(error).__name__})") from None


def _decoded(image: Image.Image, fit: ResizeOptions, faces: FaceOptions | None) -> Decoded:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(f"{width} x {height} pixels, more than the {MOST_PIXELS:,} allowed (decompression bomb?)")
    name = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a camera's JPEG with a second image
    grey = image.mode.startswith(_GREY)
    turn = _UPRIGHT.get(_orientation(image))
    if fit.decode == "scaled" and image.format == "JPEG" and turn is None and faces is None:
        return Decoded([_from_reduced(_drafted(image, 2 * fit.size), fit)], name, grey)
    rgb = to_rgb(image)
    return Decoded(_squares(rgb if turn is None else rgb.transpose(turn), fit, faces), name, grey)


def _squares(rgb: Image.Image, fit: ResizeOptions, faces: FaceOptions | None) -> list[np.ndarray]:
    if faces is None:
        return [squared(rgb, fit)]
    return [squared(rgb.crop(box), fit) for box in face_boxes(rgb, faces)]


@dataclass(frozen=True)
class Geometry:
    """The whole image's size after resizing, and where the crop begins in it."""

    wide: int
    high: int
    left: int
    top: int


def geometry(width: int, height: int, size: int) -> Geometry:
    """Shorter side to `size`, the other rounded half up, centre crop, as the release's min_resize and center_crop.

    Raises:
        ImageError: there are no pixels.
    """
    shorter = min(width, height)
    if shorter < 1:
        raise ImageError(f"{width} x {height} pixels")
    wide, high = ((2 * side * size + shorter) // (2 * shorter) for side in (width, height))
    return Geometry(wide, high, (wide - size + 1) // 2, (high - size + 1) // 2)


def squared(image: Image.Image, fit: ResizeOptions) -> np.ndarray:
    """An RGB image as uint8 (size, size, 3)."""
    where = geometry(*image.size, fit.size)
    if fit.filter == "bilinear-noaa":
        return _sampled(np.asarray(image), where, fit.size)
    if max(image.size) > _LONGEST * min(image.size):  # resized whole, a line of pixels would fill the memory
        return squared_from_reduced(image, *image.size, 1.0, fit)
    if (where.wide, where.high) != image.size:
        image = image.resize((where.wide, where.high), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((where.left, where.top, where.left + fit.size, where.top + fit.size)))


def squared_from_reduced(
    reduced: Image.Image, width: int, height: int, reduction: float, fit: ResizeOptions
) -> np.ndarray:
    """A width x height image, decoded smaller by `reduction`, as uint8 (size, size, 3).

    The crop is laid out on the whole image and read at fractions of the reduced one's pixels; to round it to whole
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


try:
    simplejpeg: Any = import_module("simplejpeg")  # not a statement: it has no types, and may not be there
except ImportError:
    simplejpeg = None
MOST_PIXELS = 100_000_000  # 300 MB once decoded; ImageNet's largest image has a tenth of it
_FACTORS = (8, 4, 2, 1)
_SCAN = 0xDA  # the marker before the pixels
_ODD = {*range(0xC3, 0xD0)} - {0xC4}  # neither baseline nor progressive; C4 are tables
_TELLING, _TURNING = (0xE1, 0xE2), (b"Exif", b"Orientation", b"MPF")  # EXIF or XMP, which may turn it; a second image


@dataclass(frozen=True)
class Reduced:
    """An image of width x height decoded smaller by `factor`, in RGB; `grey` if the file has one channel."""

    image: Image.Image
    width: int
    height: int
    factor: int
    grey: bool


def _from_reduced(reduced: Reduced, fit: ResizeOptions) -> np.ndarray:
    if reduced.factor == 1:
        return squared(reduced.image, fit)
    return squared_from_reduced(reduced.image, reduced.width, reduced.height, reduced.factor, fit)


def _drafted(image: Image.Image, least: int) -> Reduced:
    """A JPEG decoded by Pillow as `reduced_jpeg` does it."""
    width, height = image.size
    drafted = image.draft(None, (least, least))  # None: keep the mode
    factor = round(width / drafted[1][2]) if drafted else 1
    return Reduced(to_rgb(image), width, height, factor, grey=False)


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
