"""From a picture file's bytes to uint8 RGB, and from any size to the square that a network wants.

Called by prepare's workers for every picture; what it refuses is skipped and named, or stops a strict run.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from evalkit.errors import EvalkitError, PictureError

FILTERS = ("antialias", "bilinear-noaa")

# No EPS (it would start Ghostscript) and nothing that is not met as a data set's picture.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000")
_MOST_PIXELS = 100_000_000  # 300 MB once decoded; ImageNet's largest picture has a tenth of it
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
class Fit:
    """How a picture becomes a square: shorter side to `size`, then the centre (Radford et al. 2016, sec. 4.3).

    Attributes:
        size: side of the square in pixels.
        filter: "antialias" is Pillow's BILINEAR, whose support grows with the reduction; "bilinear-noaa" samples four
            neighbours whatever the reduction, as OpenCV's INTER_LINEAR does and with it the authors' release.
    """

    size: int = 32
    filter: str = "antialias"

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise EvalkitError(f"no filter {self.filter!r}; choose from {', '.join(FILTERS)}")
        if not 1 <= self.size <= 4096:
            raise EvalkitError(f"size {self.size}: expected 1 to 4096 pixels")


@dataclass(frozen=True)
class Decoded:
    """A picture as uint8 (size, size, 3), the format it came in, and whether it had one channel."""

    image: np.ndarray
    format: str
    grey: bool


def fitted(content: bytes | np.ndarray, fit: Fit) -> Decoded:
    """A picture file's bytes, or a uint8 array (H, W), (H, W, 1) or (H, W, 3), as a square of RGB.

    Raises:
        PictureError: the bytes are no whole picture; the message is the reason alone, the caller knows the name.
    """
    if isinstance(content, np.ndarray):
        grey = content.ndim == 2 or content.shape[2] == 1
        rgb = np.repeat(content.reshape(*content.shape[:2], 1), 3, axis=2) if grey else content
        return Decoded(_squared(rgb, fit), "array", grey)
    with warnings.catch_warnings():  # Pillow warns of odd metadata; such a picture is fine
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                return _decoded(picture, fit)
        except (PictureError, MemoryError):
            raise
        except Image.UnidentifiedImageError:
            raise PictureError(f"not a picture ({_first_bytes(content)})") from None
        except Exception as error:  # a broken file can raise anything inside Pillow's parsers
            raise PictureError(f"broken picture ({error or type(error).__name__})") from None


def _first_bytes(content: bytes) -> str:
    return f"begins with {content[:8]!r}" if content else "the file is empty"


def _decoded(picture: Image.Image, fit: Fit) -> Decoded:
    width, height = picture.size
    if width * height > _MOST_PIXELS:
        raise PictureError(f"{width} x {height} pixels, more than the {_MOST_PIXELS:,} allowed (decompression bomb?)")
    name = "JPEG" if picture.format == "MPO" else str(picture.format)  # MPO: a camera's JPEG with a second picture
    grey = picture.mode.startswith(_GREY)
    rgb = _rgb(picture)
    turn = _UPRIGHT.get(_orientation(picture))
    return Decoded(_squared(rgb if turn is None else rgb.transpose(turn), fit), name, grey)


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata: the pixels are still good
        return 1


def _rgb(picture: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB: what is transparent shows white, 16 bits are scaled to 8."""
    if picture.mode.startswith("I"):
        return _scaled_to_8_bits(picture).convert("RGB")
    if picture.mode == "F":
        raise PictureError("floating-point pixels, whose range is not known; save it with 8 or 16 bits a channel")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def _scaled_to_8_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise PictureError(f"pixels from {values.min()} to {values.max()}, expected 0 to 65535")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 / 255 = 257; rounded


def _squared(picture: Image.Image | np.ndarray, fit: Fit) -> np.ndarray:
    """Shorter side to `size`, the other rounded half up, centre crop, as the release's min_resize and center_crop."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(np.ascontiguousarray(picture))
    width, height = picture.size
    if min(width, height) < 1:
        raise PictureError(f"{width} x {height} pixels")
    shorter = min(width, height)
    wide, high = ((2 * side * fit.size + shorter) // (2 * shorter) for side in (width, height))
    left, top = (wide - fit.size + 1) // 2, (high - fit.size + 1) // 2
    if fit.filter == "bilinear-noaa":
        return _sampled(np.asarray(picture), (high, wide), (top, left), fit.size)
    if (wide, high) != (width, height):
        picture = picture.resize((wide, high), Image.Resampling.BILINEAR)
    return np.asarray(picture.crop((left, top, left + fit.size, top + fit.size)))


def _sampled(pixels: np.ndarray, full: tuple[int, int], offset: tuple[int, int], size: int) -> np.ndarray:
    """The crop at `offset` of `pixels` resized to `full` = (height, width) by plain bilinear sampling."""
    y, x = (
        np.clip((np.arange(first, first + size) + 0.5) * (old / new) - 0.5, 0, old - 1)
        for first, old, new in zip(offset, pixels.shape, full, strict=False)
    )
    y0, x0 = y.astype(int), x.astype(int)
    y1, x1 = np.minimum(y0 + 1, pixels.shape[0] - 1), np.minimum(x0 + 1, pixels.shape[1] - 1)
    down, right = (y - y0)[:, None, None], (x - x0)[None, :, None]
    upper = pixels[y0][:, x0] * (1 - right) + pixels[y0][:, x1] * right
    lower = pixels[y1][:, x0] * (1 - right) + pixels[y1][:, x1] * right
    return np.floor(upper * (1 - down) + lower * down + 0.5).astype(np.uint8)
