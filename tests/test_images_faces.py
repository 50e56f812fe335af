"""Face crops: boxes of drawn faces, margins computed by hand, counts of images with no, one and several faces."""

import io
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from evalkit.errors import EvalkitError
from evalkit.images.faces import _square_with_margin, face_boxes
from evalkit.images.options import FaceOptions
from evalkit.images.prepare import prepare, summary

needs_opencv = pytest.mark.skipif(find_spec("cv2") is None, reason="the extra [faces] is not installed")


def with_faces(*centers: int) -> Image.Image:
    """A gray photograph, 400 x 200, with a drawn face of about 100 pixels at each center."""
    image = Image.new("RGB", (400, 200), (90, 90, 90))
    draw = ImageDraw.Draw(image)
    for x in centers:
        draw.ellipse((x - 45, 35, x + 45, 165), fill=(225, 190, 165))
        for side in (-20, 20):
            draw.ellipse((x + side - 12, 72, x + side + 12, 84), fill=(60, 40, 30))
            draw.rectangle((x + side - 14, 60, x + side + 14, 66), fill=(80, 50, 40))
        draw.polygon(((x, 85), (x - 9, 112), (x + 9, 112)), fill=(195, 155, 130))
        draw.ellipse((x - 20, 126, x + 20, 136), fill=(140, 60, 60))
    return image.filter(ImageFilter.GaussianBlur(2))


@needs_opencv
def test_value_boxes_surround_the_faces():
    boxes = face_boxes(with_faces(100, 290), FaceOptions(score=0.0))
    assert len(boxes) == 2
    for (left, top, right, bottom), center in zip(boxes, (100, 290), strict=True):
        assert abs((left + right) / 2 - center) < 12
        assert 60 < right - left == bottom - top < 150
        assert left < center - 20
        assert center + 20 < right
        assert top < 78 < bottom  # both eyes are inside
    assert face_boxes(with_faces(100, 290), FaceOptions(score=1e9)) == []


def test_value_margins_and_edges():
    assert _square_with_margin((50, 40, 20, 20), (200, 100), 0.0) == (50, 40, 70, 60)
    assert _square_with_margin((50, 40, 20, 20), (200, 100), 0.5) == (40, 30, 80, 70)
    assert _square_with_margin((0, 80, 20, 20), (200, 100), 0.5) == (0, 60, 40, 100)  # moved inside
    assert _square_with_margin((185, 40, 10, 10), (200, 100), 1.0) == (170, 30, 200, 60)  # from the right, too
    assert _square_with_margin((50, 0, 90, 90), (200, 100), 1.0) == (45, 0, 145, 100)  # cut to the image


@needs_opencv
def test_prepare_crops_one_image_per_face_and_counts(tmp_path):
    for name, image in {"a": with_faces(100, 290), "b": with_faces(), "c": with_faces(200)}.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        image.save(tmp_path / "in" / name / "1.png")
    faces = FaceOptions(score=0.0)
    images = prepare(tmp_path / "in", home=tmp_path / "out", size=64, workers=1, crop="faces", face_score=0.0)
    assert images.images.shape == (3, 64, 64, 3)
    assert images.labels.tolist() == [0, 0, 2]
    box = face_boxes(with_faces(200), faces)[0]
    crop = with_faces(200).crop(box).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(images.images[2], crop)
    assert images.manifest["faces"] == {"none": 1, "one": 1, "several": 1}
    assert "faces per image: none 1, one 1, several 1" in summary(images)
    assert (
        prepare(tmp_path / "in", home=tmp_path / "out", size=64, crop="faces", face_score=0.0).sha256 == images.sha256
    )
    with pytest.raises(EvalkitError, match="holds another image set .*faces"):
        prepare(tmp_path / "in", home=tmp_path / "out", size=64, crop="faces", face_score=2.0)


def test_failure_missing_opencv_is_reported_before_any_work(tmp_path, monkeypatch):
    import sys

    from evalkit.images.faces import _detector

    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    _detector.cache_clear()
    stream = io.BytesIO()
    with_faces(200).save(stream, "PNG")
    (tmp_path / "1.png").write_bytes(stream.getvalue())
    with pytest.raises(EvalkitError, match=r"needs OpenCV; pip install 'evalkit\[faces\]'"):
        prepare(tmp_path, home=tmp_path / "out", crop="faces")
    _detector.cache_clear()
    assert not list((tmp_path / "out").glob("images/*"))


def test_failure_settings():
    with pytest.raises(EvalkitError, match="margin 3.0, smallest 32; expected 0 to 2"):
        FaceOptions(margin=3.0)
