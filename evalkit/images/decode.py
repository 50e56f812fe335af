"""From the bytes of an image file to uint8 RGB of the wanted size: formats, modes, orientation, resizing, cropping.

The workers of prepare call `decode_and_resize` for every image; the images that it refuses are skipped and named, or
stop a strict run. JPEGs are decoded at a fraction of their size by simplejpeg (extra [fast]) where it is installed:
the same pixels as Pillow's in a tenth less time. Both are libjpeg-turbo with its default methods; Pillow adds more.
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
from evalkit.images.formats import HEAD, READ, format_of
from evalkit.images.options import FaceOptions, ResizeOptions

try:
    simplejpeg: Any = import_module("simplejpeg")  # not a statement: it has no types and may be missing
except ImportError:
    simplejpeg = None

Image.init()  # Pillow opens no format that it does not know
_FORMATS = tuple(name for name in READ if name in Image.OPEN)
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
_LONGEST = 20  # ratio of the sides
MOST_PIXELS = 100_000_000  # 300 MB when decoded; the largest image of ImageNet has a tenth of this
_FACTORS = (8, 4, 2, 1)
_SCAN = 0xDA  # the marker before the pixels
_UNSUPPORTED = {*range(0xC3, 0xD0)} - {0xC4}  # neither baseline nor progressive; C4 marks tables
_METADATA = (0xE1, 0xE2)  # the markers of EXIF, XMP and MPF
_ROTATING = (b"Exif", b"Orientation", b"MPF")  # metadata that may rotate the image; MPF: a second image


@dataclass(frozen=True)
class Decoded:
    """The decoded image, or one per face, uint8 (size, size, 3); the file format; whether it had one channel."""

    images: list[np.ndarray]
    format: str
    grey: bool


def decode_and_resize(content: bytes | np.ndarray, resize: ResizeOptions, faces: FaceOptions | None = None) -> Decoded:
    """The bytes of an image file, or a uint8 array (H, W), (H, W, 1) or (H, W, 3), as an RGB square or one per face.

    Raises:
        ImageError: the bytes are not a complete image; the message is only the reason, the caller knows the name.
    """
    if isinstance(content, np.ndarray):
        grey = content.ndim == 2 or content.shape[2] == 1
        rgb = np.repeat(content.reshape(*content.shape[:2], 1), 3, axis=2) if grey else content
        return Decoded(_crops(Image.fromarray(np.ascontiguousarray(rgb)), resize, faces), "array", grey)
    if resize.decode == "scaled" and faces is None and (reduced := reduced_jpeg(content, 2 * resize.size)):
        return Decoded([_from_reduced(reduced, resize)], "JPEG", reduced.grey)
    with warnings.catch_warnings():  # Pillow warns of unusual metadata; such an image is fine
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                return _decode_with_pillow(image, resize, faces)
        except (EvalkitError, MemoryError):
            raise
        except Image.UnidentifiedImageError:
            raise ImageError(_unreadable(content)) from None
        except Exception as error:  # a broken file can raise anything in Pillow's parsers
            raise ImageError(f"broken image ({error or type(error).__name__})") from None


def _decode_with_pillow(image: Image.Image, resize: ResizeOptions, faces: FaceOptions | None) -> Decoded:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(f"{width} x {height} pixels, more than the {MOST_PIXELS:,} allowed (decompression bomb?)")
    name = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG of a camera with a second image
    grey = image.mode.startswith(_GREY)
    if name != "JPEG":
        image.load()  # Pillow turns a TIFF upright while it loads, and takes the orientation away
    rotation = _UPRIGHT.get(_orientation(image))
    if resize.decode == "scaled" and image.format == "JPEG" and rotation is None and faces is None:
        return Decoded([_from_reduced(_drafted(image, 2 * resize.size), resize)], name, grey)
    rgb = to_rgb(image)
    return Decoded(_crops(rgb if rotation is None else rgb.transpose(rotation), resize, faces), name, grey)


def _unreadable(content: bytes) -> str:
    """Why Pillow knows no format for these bytes."""
    if format := format_of(content[:HEAD]):
        return f"broken, or an image in a format that is not read here: {format}"
    return f"not an image ({f'begins with {content[:8]!r}' if content else 'the file is empty'})"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata: the pixels are still good
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any Pillow mode as RGB: transparent pixels become white, 16 bits are scaled to 8."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _scaled_to_8_bits(image).convert("RGB")
    if image.mode == "F":
        raise ImageError("floating-point pixels of unknown range; save it with 8 or 16 bits per channel")
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


def _crops(rgb: Image.Image, resize: ResizeOptions, faces: FaceOptions | None) -> list[np.ndarray]:
    if faces is None:
        return [resize_and_crop(rgb, resize)]
    return [resize_and_crop(rgb.crop(box), resize) for box in face_boxes(rgb, faces)]


@dataclass(frozen=True)
class Geometry:
    """The size of the whole image after resizing, and the corner of the crop in it."""

    width: int
    height: int
    left: int
    top: int


def geometry(width: int, height: int, size: int) -> Geometry:
    """Shorter side to `size`, the other rounded half up, center crop, as min_resize and center_crop of the release.

    Raises:
        ImageError: the image has no pixels.
    """
    shorter = min(width, height)
    if shorter < 1:
        raise ImageError(f"{width} x {height} pixels")
    new_width, new_height = ((2 * side * size + shorter) // (2 * shorter) for side in (width, height))
    return Geometry(new_width, new_height, (new_width - size + 1) // 2, (new_height - size + 1) // 2)


def resize_and_crop(image: Image.Image, resize: ResizeOptions) -> np.ndarray:
    """An RGB image as uint8 (size, size, 3)."""
    target = geometry(*image.size, resize.size)
    if resize.filter == "bilinear-noaa":
        return _sample_bilinear(np.asarray(image), target, resize.size)
    if max(image.size) > _LONGEST * min(image.size):  # resizing all of a very long image would fill the memory
        return resize_and_crop_reduced(image, *image.size, 1.0, resize)
    if (target.width, target.height) != image.size:
        image = image.resize((target.width, target.height), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((target.left, target.top, target.left + resize.size, target.top + resize.size)))


def resize_and_crop_reduced(
    reduced: Image.Image, width: int, height: int, reduction: float, resize: ResizeOptions
) -> np.ndarray:
    """An image of width x height, decoded smaller by the factor `reduction`, as uint8 (size, size, 3).

    The crop is computed on the whole image and read at fractions of the pixels of the reduced one; rounding it to whole
    pixels costs more accuracy than the reduction itself (mean difference from exact 1.24 instead of 0.49).
    """
    target = geometry(width, height, resize.size)
    scale_x, scale_y = width / target.width / reduction, height / target.height / reduction
    box = (
        target.left * scale_x,
        target.top * scale_y,
        min((target.left + resize.size) * scale_x, reduced.width),
        min((target.top + resize.size) * scale_y, reduced.height),
    )
    return np.asarray(reduced.resize((resize.size, resize.size), Image.Resampling.BILINEAR, box=box))


def _sample_bilinear(pixels: np.ndarray, target: Geometry, size: int) -> np.ndarray:
    """The crop of `pixels`, resized by plain bilinear sampling in floating point and rounded at the end."""
    rows = (target.top, pixels.shape[0], target.height), (target.left, pixels.shape[1], target.width)
    y, x = (np.clip((np.arange(first, first + size) + 0.5) * (old / new) - 0.5, 0, old - 1) for first, old, new in rows)
    y0, x0 = y.astype(int), x.astype(int)
    y1, x1 = np.minimum(y0 + 1, pixels.shape[0] - 1), np.minimum(x0 + 1, pixels.shape[1] - 1)
    down, right = (y - y0)[:, None, None], (x - x0)[None, :, None]
    upper = pixels[y0][:, x0] * (1 - right) + pixels[y0][:, x1] * right
    lower = pixels[y1][:, x0] * (1 - right) + pixels[y1][:, x1] * right
    return np.floor(upper * (1 - down) + lower * down + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class Reduced:
    """An RGB image of width x height, decoded smaller by `factor`; `grey` if the file has one channel."""

    image: Image.Image
    width: int
    height: int
    factor: int
    grey: bool


def _from_reduced(reduced: Reduced, resize: ResizeOptions) -> np.ndarray:
    if reduced.factor == 1:
        return resize_and_crop(reduced.image, resize)
    return resize_and_crop_reduced(reduced.image, reduced.width, reduced.height, reduced.factor, resize)


def _drafted(image: Image.Image, least: int) -> Reduced:
    """A JPEG decoded by Pillow in the way of `reduced_jpeg`."""
    width, height = image.size
    drafted = image.draft(None, (least, least))  # None: keep the mode
    factor = round(width / drafted[1][2]) if drafted else 1
    return Reduced(to_rgb(image), width, height, factor, grey=False)


def reduced_jpeg(content: bytes, least: int) -> Reduced | None:
    """A JPEG file decoded as small as possible with `least` pixels or more on each side, or in full if it has fewer.

    None if Pillow has to decode or refuse it: not a plain JPEG, metadata that may rotate it, too large, broken, or
    simplejpeg is not installed.
    """
    if simplejpeg is None or not _plain(content):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        if width * height > MOST_PIXELS or colors in ("CMYK", "YCCK"):
            return None
        factor = next(factor for factor in _FACTORS if min(width, height) >= factor * least or factor == 1)
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=-(-height // factor), min_width=-(-width // factor))
    except ValueError:
        return None
    return Reduced(Image.fromarray(pixels), width, height, factor, colors == "Gray")


def _plain(content: bytes) -> bool:
    """Whether the bytes start like a baseline or progressive JPEG without metadata that may rotate it."""
    at = 2
    while content[:2] == b"\xff\xd8" and content[at : at + 1] == b"\xff" and at + 1 < len(content):
        kind, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4])
        if kind == _SCAN:
            return True
        if kind in _UNSUPPORTED or kind in _METADATA and any(content.find(word, at, end) >= 0 for word in _ROTATING):
            return False
        at = end
    return False
