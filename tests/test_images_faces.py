"""Face crops: boxes of a face drawn here, margins by hand, counts of images with none, one and several."""

import io
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from evalkit.errors import EvalkitError
from evalkit.images import Faces, prepare, summary
from evalkit.images.faces import _widened, face_boxes

needs_opencv = pytest.mark.skipif(find_spec("cv2") is None, reason="the extra [faces] is not installed")


def with_faces(*centres: int) -> Image.Image:
    """A grey photograph, 400 x 200, with a drawn face of about 100 pixels at each centre."""
    image = Image.new("RGB", (400, 200), (90, 90, 90))
    draw = ImageDraw.Draw(image)
    for x in centres:
        draw.ellipse((x - 45, 35, x + 45, 165), fill=(225, 190, 165))
        for side in (-20, 20):
            draw.ellipse((x + side - 12, 72, x + side + 12, 84), fill=(60, 40, 30))
            draw.rectangle((x + side - 14, 60, x + side + 14, 66), fill=(80, 50, 40))
        draw.polygon(((x, 85), (x - 9, 112), (x + 9, 112)), fill=(195, 155, 130))
        draw.ellipse((x - 20, 126, x + 20, 136), fill=(140, 60, 60))
    return image.filter(ImageFilter.GaussianBlur(2))


@needs_opencv
def test_value_boxes_lie_around_the_faces():
    boxes = face_boxes(with_faces(100, 290), Faces(score=0.0))
    assert len(boxes) == 2
    for (left, top, right, bottom), centre in zip(boxes, (100, 290), strict=True):
        assert abs((left + right) / 2 - centre) < 12 and 60 < right - left == bottom - top < 150
        assert left < centre - 20 and centre + 20 < right and top < 78 < bottom  # both eyes are inside
    assert face_boxes(with_faces(100, 290), Faces(score=1e9)) == []


def test_value_margins_and_edges():
    assert _widened((50, 40, 20, 20), (200, 100), 0.0) == (50, 40, 70, 60)
    assert _widened((50, 40, 20, 20), (200, 100), 0.5) == (40, 30, 80, 70)
    assert _widened((0, 80, 20, 20), (200, 100), 0.5) == (0, 60, 40, 100)  # moved inside
    assert _widened((185, 40, 10, 10), (200, 100), 1.0) == (170, 30, 200, 60)  # from the right, too
    assert _widened((50, 0, 90, 90), (200, 100), 1.0) == (45, 0, 145, 100)  # cut to the image


@needs_opencv
def test_prepare_gives_a_image_a_face_and_counts(tmp_path):
    for name, image in {"a": with_faces(100, 290), "b": with_faces(), "c": with_faces(200)}.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        image.save(tmp_path / "in" / name / "1.png")
    faces = Faces(score=0.0)
    images = prepare(tmp_path / "in", tmp_path / "out", size=64, workers=1, faces=faces)
    assert images.images.shape == (3, 64, 64, 3) and images.labels.tolist() == [0, 0, 2]
    box = face_boxes(with_faces(200), faces)[0]
    crop = with_faces(200).crop(box).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(images.images[2], crop)
    assert images.manifest["faces"] == {"none": 1, "one": 1, "several": 1}
    assert "faces in an image: none 1, one 1, several 1" in summary(images)
    assert prepare(tmp_path / "in", tmp_path / "out", size=64, faces=faces).sha256 == images.sha256
    with pytest.raises(EvalkitError, match="holds another image set .*faces"):
        prepare(tmp_path / "in", tmp_path / "out", size=64, faces=Faces(score=2.0))


def test_failure_without_opencv_is_told_before_any_work(tmp_path, monkeypatch):
    import sys

    from evalkit.images.faces import _detector

    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    _detector.cache_clear()
    stream = io.BytesIO()
    with_faces(200).save(stream, "PNG")
    (tmp_path / "1.png").write_bytes(stream.getvalue())
    with pytest.raises(EvalkitError, match=r"needs OpenCV; pip install 'evalkit\[faces\]'"):
        prepare(tmp_path, tmp_path / "out", faces=Faces())
    _detector.cache_clear()
    assert not (tmp_path / "out").exists()


def test_failure_settings():
    with pytest.raises(EvalkitError, match="margin 3.0, smallest 32; expected 0 to 2"):
        Faces(margin=3.0)
