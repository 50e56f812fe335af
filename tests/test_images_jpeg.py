"""simplejpeg's short way through a JPEG: the same bytes as without it, and no say in what is not a plain one."""

import io

import numpy as np
import pytest
from PIL import Image

from evalkit.errors import ImageError
from evalkit.images import decode as jpeg
from evalkit.images.decode import Decoded, ResizeOptions, decode_and_resize, reduced_jpeg

pytestmark = pytest.mark.skipif(jpeg.simplejpeg is None, reason="the extra [fast] is not installed")
SCALED = ResizeOptions(size=32, decode="scaled")


def photograph(height: int, width: int) -> Image.Image:
    """Smooth colors, edges and grain."""
    y, x = np.mgrid[:height, :width] / 60
    waves = np.stack([np.sin(x + 2 * y), np.cos(3 * x - y), np.sin(x * y)], axis=2)
    grain = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    return Image.fromarray((127 + 80 * waves + 40 * (x > 2)[..., None] + grain).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def both(content: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[Decoded, Decoded]:
    """What a file gives with simplejpeg and without."""
    first = decode_and_resize(content, SCALED)
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    return first, decode_and_resize(content, SCALED)


@pytest.mark.parametrize("height,width", [(64, 64), (127, 129), (257, 191), (512, 700), (33, 500), (20, 900)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode,progressive", [("RGB", False), ("RGB", True), ("L", False)])
def test_reference_simplejpeg_gives_the_bytes_of_pillow(height, width, subsampling, mode, progressive, monkeypatch):
    image = photograph(height, width).convert(mode)
    content = encoded(image, quality=80, subsampling=subsampling, progressive=progressive)
    assert reduced_jpeg(content, 64) is not None
    fast, pillows = both(content, monkeypatch)
    assert np.array_equal(fast.images[0], pillows.images[0])
    assert (fast.grey, fast.format) == (pillows.grey, pillows.format) == (mode == "L", "JPEG")


def test_value_the_factor_leaves_twice_the_size():
    for side, factor in ((127, 1), (128, 2), (255, 2), (256, 4), (511, 4), (512, 8), (1500, 8)):
        reduced = reduced_jpeg(encoded(photograph(side, side + 40)), 64)
        assert reduced is not None
        assert reduced.factor == factor
        assert reduced.image.size[1] == -(-side // factor)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


XMP = b"""<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>"""


@pytest.mark.parametrize("options", [{"exif": exif(6)}, {"exif": exif(1)}, {"xmp": XMP}])
def test_an_image_that_metadata_may_rotate_is_left_to_pillow(options, monkeypatch):
    content = encoded(photograph(300, 200), **options)
    assert reduced_jpeg(content, 64) is None
    fast, pillows = both(content, monkeypatch)
    assert np.array_equal(fast.images[0], pillows.images[0])


def test_a_file_of_two_images_is_left_to_pillow(monkeypatch):
    stream = io.BytesIO()
    photograph(300, 200).save(stream, "MPO", save_all=True, append_images=[photograph(200, 300)])
    assert reduced_jpeg(stream.getvalue(), 64) is None
    fast, pillows = both(stream.getvalue(), monkeypatch)
    assert fast.format == "JPEG"
    assert np.array_equal(fast.images[0], pillows.images[0])


def test_other_metadata_does_not_matter():
    for options in ({"icc_profile": bytes(3000)}, {"xmp": b"<x:xmpmeta/>"}, {"comment": b"\xff\xda Exif"}):
        assert reduced_jpeg(encoded(photograph(300, 200), **options), 64) is not None


@pytest.mark.parametrize("keep", [0, 1, 3, 20, 200, 700, -2000, -2])
def test_a_file_cut_short_is_handled_as_by_pillow(keep, monkeypatch):
    content = encoded(photograph(300, 200))[:keep]

    def outcome() -> object:
        try:
            return decode_and_resize(content, SCALED).images[0].tobytes()
        except ImageError as error:
            return str(error)

    assert reduced_jpeg(content, 64) is None
    first = outcome()
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert outcome() == first


def test_cmyk_png_and_too_many_pixels_are_left_to_pillow(monkeypatch):
    stream = io.BytesIO()
    photograph(300, 200).save(stream, "PNG")
    for content in (encoded(photograph(300, 200).convert("CMYK")), stream.getvalue(), b"\xff\xd8" * 50):
        assert reduced_jpeg(content, 64) is None
    monkeypatch.setattr(jpeg, "MOST_PIXELS", 1000)
    assert reduced_jpeg(encoded(photograph(300, 200)), 64) is None
