"""Files are images by their content: unusual endings, none, formats that cannot be read, links to nowhere."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from evalkit.errors import EvalkitError, ImageError
from evalkit.images import ImageSet
from evalkit.images.formats import READ, format_of
from evalkit.images.prepare import prepare, summary

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20)
SAVED = ["PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", "QOI", "ICO", "SGI"]
SAVED += ["AVIF"] * features.check("avif")


def encoded(pixels: np.ndarray, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def write(root: Path, files: dict[str, bytes], form: str = "folder") -> Path:
    """The files in a folder, or in a tar; returns the source."""
    if form == "folder":
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        return root
    with tarfile.open(root.with_suffix(".tar"), "w") as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return root.with_suffix(".tar")


def prepared(source: Path, **options: object) -> ImageSet:
    return prepare(source, size=8, workers=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", SAVED)
def test_the_first_bytes_tell_every_format_that_is_read(format):
    assert format in READ
    assert format_of(encoded(PIXELS[0], format)[:32]) != ""


@pytest.mark.parametrize(
    "content", [b"", b"hello, world", b"PK\x03\x04", b"%PDF-1.7", b"\x7fELF", b"# title\n", bytes(64)]
)
def test_other_files_are_no_images(content):
    assert format_of(content) == ""


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("name", ["cat/noending", "cat/1.JFIF", "cat/1.jpg_large", "cat/1.png.download", "cat/1.qoi"])
def test_images_of_unusual_endings_are_read_and_named(tmp_path, name, form):
    files = {"cat/0.png": encoded(PIXELS[0]), name: encoded(PIXELS[1]), "cat/notes.md": b"# cats"}
    images = prepared(write(tmp_path / "set", files, form), strict=True)
    assert np.array_equal(images.images, PIXELS[:2])
    assert f"1 file of unusual endings taken for images ({name})" in summary(images)
    assert "left out, no images: 1 file (cat/notes.md)" in summary(images)


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("format", SAVED)
def test_every_format_is_read_whatever_its_ending(tmp_path, format, form):
    files = {"cat/0.jpg": encoded(PIXELS[0], format), "cat/1": encoded(PIXELS[1], format)}
    images = prepared(write(tmp_path / "set", files, form), strict=True)
    assert images.manifest["formats"] == {format: 2}
    if format not in ("JPEG", "WEBP", "JPEG2000", "AVIF", "GIF"):
        assert np.array_equal(images.images, PIXELS[:2])


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize(
    "name,content,format",
    [
        ("phone.heic", HEIC, "HEIC"),
        ("phone", HEIC, "HEIC"),
        ("a.jxl", JXL, "JPEG XL"),
        ("b.png", b"8BPS" + bytes(60), "PSD"),
        ("c.svg", b"<svg xmlns='x'/>", "SVG"),
    ],
)
def test_formats_that_are_not_read_are_skipped_by_name_and_stop_a_strict_run(tmp_path, name, content, format, form):
    source = write(tmp_path / "set", {"a/0.png": encoded(PIXELS[0]), f"b/{name}": content}, form)
    images = prepared(source)
    reason = f"broken, or an image in a format that is not read here: {format}"
    assert images.manifest["first_skipped"] == [[f"b/{name}", reason]]
    assert summary(images)[0].endswith("2 classes: a, b; no image of b")
    with pytest.raises(ImageError, match=f"b/{name}: broken, or an image in a format that is not read here"):
        prepared(source, strict=True)


@pytest.mark.parametrize("target", ["/nowhere/.git/annex/objects/x.png", "missing.png", "loop.png"])
@pytest.mark.parametrize("name", ["loop.png", "link"])
def test_links_to_nowhere_are_skipped_by_name(tmp_path, target, name):
    root = write(tmp_path / "set", {"a/1.png": encoded(PIXELS[0]), "b/1.png": encoded(PIXELS[1])})
    (root / "a" / name).symlink_to(target)
    images = prepared(root)
    assert np.array_equal(images.images, PIXELS[:2])
    assert images.manifest["first_skipped"] == [[f"a/{name}", "no such file"]]
    with pytest.raises(ImageError, match="no such file; --strict stops at it"):
        prepared(root, strict=True)


def test_a_folder_that_is_a_link_to_nowhere_a_pipe_and_a_socket_do_no_harm(tmp_path):
    root = write(tmp_path / "set", {"a/1.png": encoded(PIXELS[0])})
    (root / "b").symlink_to("/nowhere/folder")
    os.mkfifo(root / "a" / "pipe.png")
    os.mkfifo(root / "a" / "pipe")
    images = prepared(root)
    assert np.array_equal(images.images, PIXELS[:1])
    assert ["a/pipe.png", "not a regular file"] in images.manifest["first_skipped"]


def test_failure_a_folder_without_images_counts_what_it_holds(tmp_path):
    write(tmp_path / "set", {"a.doc": b"x", "b.txt": b"y"})
    with pytest.raises(EvalkitError, match="no image in this folder; .*it holds 2 other files"):
        prepared(tmp_path / "set")
