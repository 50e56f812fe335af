"""Decoding and fitting of one image: values worked by hand, and torch or Pillow as the other implementation."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from evalkit.errors import EvalkitError, ImageError
from evalkit.images.decode import ResizeOptions, decode_and_resize

RNG = np.random.default_rng(0)


def random_rgb(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, format, **options)
    return stream.getvalue()


def square(content: bytes | np.ndarray, size: int = 4, filter: str = "antialias") -> np.ndarray:
    return decode_and_resize(content, ResizeOptions(size=size, filter=filter)).images[0]


@pytest.mark.parametrize("filter", ["antialias", "bilinear-noaa"])
def test_an_image_of_the_right_size_is_unchanged(filter):
    pixels = random_rgb(4, 4)
    assert np.array_equal(square(encoded(pixels), filter=filter), pixels)


@pytest.mark.parametrize("filter", ["antialias", "bilinear-noaa"])
@pytest.mark.parametrize("long,first", [(5, 1), (6, 1), (7, 2), (9, 3)])
def test_value_crop_starts_at_half_the_difference_rounded_up(long, first, filter):
    pixels = random_rgb(4, long)
    assert np.array_equal(square(encoded(pixels), filter=filter), pixels[:, first : first + 4])
    transposed = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    assert np.array_equal(square(encoded(transposed), filter=filter), transposed[first : first + 4])


def test_value_longer_side_is_rounded_half_up():
    pixels = random_rgb(8, 10)  # 8 -> 4, so 10 -> 5, and 8 x 9 -> 4 x 4.5 -> 4 x 5
    for width in (10, 9):
        image = Image.fromarray(np.ascontiguousarray(pixels[:, :width]))
        wanted = image.resize((5, 4), Image.Resampling.BILINEAR).crop((1, 0, 5, 4))
        assert np.array_equal(square(encoded(image)), np.asarray(wanted))


def resized_by_torch(pixels: np.ndarray, side: int, antialias: bool) -> np.ndarray:
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    out = torch.nn.functional.interpolate(batch, (side, side), mode="bilinear", antialias=antialias)
    return out[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("side", [64, 77, 20])
def test_reference_bilinear_without_antialias_is_torchs(side):
    pixels = random_rgb(side, side)
    result = square(encoded(pixels), size=32, filter="bilinear-noaa")
    wanted = resized_by_torch(pixels, 32, antialias=False)
    assert np.abs(result - wanted).max() <= 0.5 + 1e-6  # rounding to whole numbers, nothing else


@pytest.mark.parametrize("side", [64, 77, 20])
def test_reference_antialias_is_torchs(side):
    pixels = random_rgb(side, side)
    wanted = resized_by_torch(pixels, 32, antialias=True)
    # Pillow rounds between its two passes, to 0.5, and the second pass averages that error before rounding again.
    assert np.abs(square(encoded(pixels), size=32) - wanted).max() <= 1.0


def test_value_noaa_samples_two_by_two_means_at_half_size():
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1).repeat(3, axis=2) * 10
    result = square(encoded(pixels), size=2, filter="bilinear-noaa")[:, :, 0]
    assert result.tolist() == [[25, 45], [105, 125]]  # (0 + 10 + 40 + 50) / 4 and so on


def test_noaa_crop_is_the_center_of_the_resized_image():
    wide = random_rgb(40, 75)  # 32 x 60: the crop starts at column 14
    whole = np.clip((np.arange(60) + 0.5) * 75 / 60 - 0.5, 0, 74)
    column = whole[14].astype(int), whole[14] % 1
    row = 0.5 * 40 / 32 - 0.5
    top = wide[0, column[0]] * (1 - column[1]) + wide[0, column[0] + 1] * column[1]
    below = wide[1, column[0]] * (1 - column[1]) + wide[1, column[0] + 1] * column[1]
    result = square(encoded(wide), size=32, filter="bilinear-noaa")[0, 0]
    assert np.array_equal(result, np.floor(top * (1 - row) + below * row + 0.5))


def test_value_grayscale_has_three_equal_channels_and_is_counted():
    grey = RNG.integers(0, 256, (4, 4), dtype=np.uint8)
    decoded = decode_and_resize(encoded(grey), ResizeOptions(size=4))
    assert decoded.grey
    assert decoded.format == "PNG"
    assert np.array_equal(decoded.images[0], grey[:, :, None].repeat(3, axis=2))
    assert not decode_and_resize(encoded(random_rgb(4, 4)), ResizeOptions(size=4)).grey


def test_value_transparent_pixels_become_white():
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[:, :, 0], layer[:, :2, 3], layer[0, 0, 3] = 200, 255, 51
    result = square(encoded(layer))
    assert result[0, 3].tolist() == [255, 255, 255]
    assert result[1, 1].tolist() == [200, 0, 0]
    assert result[0, 0].tolist() == [244, 204, 204]  # a fifth of (200, 0, 0), four fifths of white


def test_value_palette_with_a_transparent_color():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    result = square(encoded(image, transparency=0))
    assert result[0, 0].tolist() == [255, 255, 255]
    assert result[3, 3].tolist() == [40, 50, 60]
    assert square(encoded(image))[0, 0].tolist() == [10, 20, 30]


def test_value_grayscale_with_alpha_and_black_and_white():
    layer = np.zeros((4, 4, 2), np.uint8)
    layer[0, 0] = 90, 255
    result = square(encoded(Image.merge("LA", _bands(layer))))
    assert result[0, 0].tolist() == [90] * 3
    assert result[1, 1].tolist() == [255] * 3
    assert square(encoded(Image.new("1", (4, 4), 1))).min() == 255


def _bands(layer: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(np.ascontiguousarray(layer[:, :, k])) for k in range(layer.shape[2])]


def test_value_cmyk():
    inks = np.zeros((4, 4, 4), np.uint8)
    inks[:, :2] = 255, 0, 0, 0
    inks[:, 2:] = 0, 0, 0, 255
    result = square(encoded(Image.merge("CMYK", _bands(inks)), "TIFF"))
    assert result[0, 0].tolist() == [0, 255, 255]
    assert result[0, 3].tolist() == [0, 0, 0]
    jpeg = square(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), size=16)
    assert np.abs(jpeg.astype(int) - [255, 0, 0]).max() <= 2  # JPEG's rounding of a flat red


def test_value_16_bits_are_scaled_not_clipped():
    deep = np.array([[0, 257 * 100], [65535, 257 * 200 + 129]], np.uint16)
    result = decode_and_resize(encoded(deep), ResizeOptions(size=2))
    assert result.images[0][:, :, 1].tolist() == [[0, 100], [255, 201]]
    assert result.grey


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reference_exif_orientation_is_pillows(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(random_rgb(5, 4), exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    wanted = upright[1:] if upright.shape[0] == 5 else upright[:, 1:]
    assert np.array_equal(square(content), wanted)


_TURNED = {  # how a camera stores an upright image by each orientation
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "format,options",
    [
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
@pytest.mark.parametrize("decode", ["exact", "scaled"])
def test_value_every_orientation_is_applied_once_in_every_format(format, options, orientation, decode):
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {format}")
    upright = np.kron(random_rgb(4, 4), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(np.ascontiguousarray(_TURNED[orientation](upright)), format, exif=exif, **options)
    result = decode_and_resize(content, ResizeOptions(size=64, decode=decode)).images[0]
    difference = np.abs(result.astype(int) - upright)
    assert difference.mean() < (3 if format in ("JPEG", "AVIF") else 1e-9)  # lossy: rounding of colors


def test_value_exif_orientation_6_turns_clockwise():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = random_rgb(4, 4)
    assert np.array_equal(square(encoded(pixels, exif=exif)), np.rot90(pixels, -1))


def test_value_arrays_of_one_and_three_channels():
    pixels = random_rgb(4, 4)
    assert np.array_equal(square(pixels), pixels)
    one = decode_and_resize(pixels[:, :, :1], ResizeOptions(size=4))
    assert one.grey
    assert np.array_equal(one.images[0], pixels[:, :, :1].repeat(3, axis=2))


def _png_claiming(width: int, height: int) -> bytes:
    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")


@pytest.mark.parametrize(
    "content,reason",
    [
        (b"hello, world", "not an image"),
        (b"", "the file is empty"),
        (encoded(random_rgb(64, 64), "JPEG")[:700], "truncated"),
        (encoded(random_rgb(64, 64))[:700], "broken image"),
        (_png_claiming(12_000, 12_000), "decompression bomb"),
        (_png_claiming(60_000, 60_000), "decompression bomb"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "format that is not read here: EPS"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
)
def test_failure_bytes_that_are_not_an_image_are_refused_with_the_reason(content, reason):
    with pytest.raises(ImageError, match=reason):
        square(content)


def scenery(height: int, width: int) -> np.ndarray:
    """Smooth colors with edges, as photographs have them."""
    y, x = np.mgrid[:height, :width] / 90
    waves = np.stack([np.sin(x + 2 * y), np.cos(3 * x - y), np.sin(x * y)], axis=2)
    return (127 + 80 * waves + 40 * (x + y > 3)[..., None]).astype(np.uint8)


@pytest.mark.parametrize("height,width", [(375, 500), (501, 333), (130, 997), (256, 256)])
@pytest.mark.parametrize("size", [16, 32])
def test_scaled_decoding_is_near_exact_decoding(height, width, size):
    content = encoded(scenery(height, width), "JPEG", quality=95)
    exact = decode_and_resize(content, ResizeOptions(size=size)).images[0].astype(int)
    scaled = decode_and_resize(content, ResizeOptions(size=size, decode="scaled")).images[0]
    # A crop that is off by a tenth of a pixel of the result differs by 2 at these edges.
    assert 0 < np.abs(scaled - exact).mean() < 0.5


def test_scaled_decoding_leaves_small_png_and_rotated_images_to_exact_decoding():
    exif = Image.Exif()
    exif[0x0112] = 6
    for content in (
        encoded(scenery(120, 140), "JPEG"),
        encoded(scenery(375, 500)),
        encoded(scenery(375, 500), "JPEG", exif=exif),
    ):
        exact, scaled = (
            decode_and_resize(content, ResizeOptions(size=64, decode=decode)).images[0]
            for decode in ("exact", "scaled")
        )
        assert np.array_equal(exact, scaled)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_scaled_decoding_of_grayscale_and_cmyk(mode):
    content = encoded(Image.fromarray(scenery(375, 500)).convert(mode), "JPEG", quality=95)
    exact, scaled = (
        decode_and_resize(content, ResizeOptions(size=32, decode=decode)) for decode in ("exact", "scaled")
    )
    assert exact.grey == scaled.grey == (mode == "L")
    assert np.abs(exact.images[0].astype(int) - scaled.images[0]).mean() < 0.5


def test_a_very_long_image_does_not_fill_the_memory():
    line = np.zeros((1, 100_000, 3), np.uint8)
    line[0, 50_000:] = 255
    result = square(encoded(line), size=32)  # resized whole it would have 32 x 3,200,000 pixels
    assert result.min() <= 4
    assert result.max() >= 251
    assert np.array_equal(result[0], result[31])  # the step, enlarged


def test_failure_unknown_filter_lists_the_choices():
    with pytest.raises(EvalkitError, match="'lanczos'; choose from antialias, bilinear-noaa"):
        ResizeOptions(filter="lanczos")
    with pytest.raises(EvalkitError, match="scaled decoding averages pixels, .*choose --decode exact"):
        ResizeOptions(filter="bilinear-noaa", decode="scaled")
    with pytest.raises(EvalkitError, match="size 0"):
        ResizeOptions(size=0)
