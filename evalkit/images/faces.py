"""Faces in photographs: OpenCV's cascade detector, one square per face. Needs the extra [faces].

Radford et al. 2016, sec. 4.2: "an OpenCV face detector" gave about 350,000 boxes; the paper does not say which
cascade and which thresholds, so those below are ours. The cascade comes with OpenCV's package (Intel's license, as in
its file). decode.py crops the boxes.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from evalkit.errors import EvalkitError
from evalkit.images.options import FaceOptions

_CASCADE = "haarcascade_frontalface_default.xml"
_STEP = 1.1  # ratio of the sizes that are tried; OpenCV's default
_NEIGHBORS = 3  # overlapping hits that count as a detection; OpenCV's default


def check_opencv() -> None:
    """Raises EvalkitError, before any work, if OpenCV or its cascade is missing."""
    _detector()


@lru_cache(maxsize=1)
def _detector() -> Any:
    try:
        cv2: Any = import_module("cv2")  # not a statement: the package and its stubs are optional
    except ImportError:
        raise EvalkitError("cropping faces needs OpenCV; pip install 'evalkit[faces]'") from None
    cv2.setNumThreads(1)  # prepare has one process per core
    detector = cv2.CascadeClassifier(cv2.data.haarcascades + _CASCADE)
    if detector.empty():  # the file is missing
        raise EvalkitError(f"OpenCV {cv2.__version__} lacks {_CASCADE}; pip install 'evalkit[faces]'")
    return detector


def face_boxes(image: Image.Image, faces: FaceOptions) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the faces in an RGB image, margins included, from left to right.

    A box that reaches beyond an edge is moved inside; a box larger than the image is cut to it.
    """
    gray = np.asarray(image.convert("L"))
    detections, _, weights = _detector().detectMultiScale3(
        gray,
        scaleFactor=_STEP,
        minNeighbors=_NEIGHBORS,
        minSize=(faces.smallest, faces.smallest),
        outputRejectLevels=True,
    )
    boxes = [box for box, weight in zip(detections, weights, strict=True) if weight >= faces.score]
    return sorted(_square_with_margin([int(n) for n in box], image.size, faces.margin) for box in boxes)


def _square_with_margin(box: Sequence[int], size: tuple[int, int], margin: float) -> tuple[int, int, int, int]:
    """A detection (left, top, width, height) as a square with its margin, inside an image of `size`."""
    left, top, width, height = box
    side = min(round(max(width, height) * (1 + 2 * margin)), *size)
    left = min(max(left + width // 2 - side // 2, 0), size[0] - side)
    top = min(max(top + height // 2 - side // 2, 0), size[1] - side)
    return left, top, left + side, top + side
