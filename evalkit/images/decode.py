"""From a picture file's bytes to uint8 RGB of the wanted size: formats, modes, orientation.

Called by prepare's workers for every picture; what it refuses is skipped and named, or stops a strict run.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from evalkit.errors import EvalkitError, PictureError
from evalkit.images.faces import Faces, face_boxes
from evalkit.images.fit import Fit, squared, squared_from_reduced
from evalkit.images.jpeg import MOST_PIXELS, Reduced, reduced_jpeg

# No EPS (it would start Ghostscript) and nothing that is not met as a data set's picture.
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
    """What a picture gave, uint8 (size, size, 3) each; the format it came in, and whether it had one channel."""

    images: list[np.ndarray]
    format: str
    grey: bool


def fitted(content: bytes | np.ndarray, fit: Fit, faces: Faces | None = None) -> Decoded:
    """A picture file's bytes, or a uint8 array (H, W), (H, W, 1) or (H, W, 3), as a square of RGB, or one a face.

    Raises:
        PictureError: the bytes are no whole picture; the message is the reason alone, the caller knows the name.
    """
    if isinstance(content, np.ndarray):
        grey = content.ndim == 2 or content.shape[2] == 1
        rgb = np.repeat(content.reshape(*content.shape[:2], 1), 3, axis=2) if grey else content
        return Decoded(_squares(Image.fromarray(np.ascontiguousarray(rgb)), fit, faces), "array", grey)
    if fit.decode == "scaled" and faces is None and (reduced := reduced_jpeg(content, 2 * fit.size)):
        return Decoded([_from_reduced(reduced, fit)], "JPEG", reduced.grey)
    with warnings.catch_warnings():  # Pillow warns of odd metadata; such a picture is fine
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                return _decoded(picture, fit, faces)
        except (EvalkitError, MemoryError):
            raise
        except Image.UnidentifiedImageError:
            raise PictureError(f"not a picture ({_first_bytes(content)})") from None
        except Exception as error:  # a broken file can raise anything inside Pillow's parsers
            raise PictureError(f"broken picture ({error or type(error).__name__})") from None


def _first_bytes(content: bytes) -> str:
    return f"begins with {content[:8]!r}" if content else "the file is empty"


def _decoded(picture: Image.Image, fit: Fit, faces: Faces | None) -> Decoded:
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise PictureError(f"{width} x {height} pixels, more than the {MOST_PIXELS:,} allowed (decompression bomb?)")
    name = "JPEG" if picture.format == "MPO" else str(picture.format)  # MPO: a camera's JPEG with a second picture
    grey = picture.mode.startswith(_GREY)
    turn = _UPRIGHT.get(_orientation(picture))
    if fit.decode == "scaled" and picture.format == "JPEG" and turn is None and faces is None:
        return Decoded([_from_reduced(_drafted(picture, 2 * fit.size), fit)], name, grey)
    rgb = _rgb(picture)
    return Decoded(_squares(rgb if turn is None else rgb.transpose(turn), fit, faces), name, grey)


def _squares(rgb: Image.Image, fit: Fit, faces: Faces | None) -> list[np.ndarray]:
    if faces is None:
        return [squared(rgb, fit)]
    return [squared(rgb.crop(box), fit) for box in face_boxes(rgb, faces)]


def _from_reduced(reduced: Reduced, fit: Fit) -> np.ndarray:
    if reduced.factor == 1:
        return squared(reduced.picture, fit)
    return squared_from_reduced(reduced.picture, reduced.width, reduced.height, reduced.factor, fit)


def _drafted(picture: Image.Image, least: int) -> Reduced:
    """A JPEG decoded by Pillow as `reduced_jpeg` does it."""
    width, height = picture.size
    drafted = picture.draft(None, (least, least))  # None: keep the mode
    factor = round(width / drafted[1][2]) if drafted else 1
    return Reduced(_rgb(picture), width, height, factor, grey=False)


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata: the pixels are still good
        return 1


def _rgb(picture: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB: what is transparent shows white, 16 bits are scaled to 8."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
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
