"""Faces out of photographs: OpenCV's cascade detector, one square a face. Needs the extra [faces].

Radford et al. 2016, sec. 4.2: "an OpenCV face detector" gave about 350,000 boxes; which cascade and which thresholds is
not told, so those below are ours. The cascade's data come with OpenCV's package (Intel's licence, as in its file).
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
_STEP = 1.1  # between the sizes that are tried; OpenCV's default
_NEIGHBOURS = 3  # overlapping hits that make a detection; OpenCV's default


def check_opencv() -> None:
    """Raises EvalkitError, before any work, if OpenCV or its cascade is missing."""
    _detector()


@lru_cache(maxsize=1)
def _detector() -> Any:
    try:
        cv2: Any = import_module("cv2")  # not a statement: its stubs are there or not, as the package is
    except ImportError:
        raise EvalkitError("cropping faces needs OpenCV; pip install 'evalkit[faces]'") from None
    cv2.setNumThreads(1)  # the pool has a process a core
    detector = cv2.CascadeClassifier(cv2.data.haarcascades + _CASCADE)
    if detector.empty():  # the file was not found
        raise EvalkitError(f"OpenCV {cv2.__version__} lacks {_CASCADE}; pip install 'evalkit[faces]'")
    return detector


def face_boxes(image: Image.Image, faces: FaceOptions) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the faces in an RGB image, margins included, from left to right.

    A box that would reach over the edge is moved inside; one larger than the image is cut to it.
    """
    grey = np.asarray(image.convert("L"))
    found, _, weights = _detector().detectMultiScale3(
        grey,
        scaleFactor=_STEP,
        minNeighbors=_NEIGHBOURS,
        minSize=(faces.smallest, faces.smallest),
        outputRejectLevels=True,
    )
    boxes = [box for box, weight in zip(found, weights, strict=True) if weight >= faces.score]
    return sorted(_square_with_margin([int(n) for n in box], image.size, faces.margin) for box in boxes)


def _square_with_margin(box: Sequence[int], size: tuple[int, int], margin: float) -> tuple[int, int, int, int]:
    """A detection (left, top, width, height) as a square with its margin, inside an image of `size`."""
    left, top, wide, high = box
    side = min(round(max(wide, high) * (1 + 2 * margin)), *size)
    left = min(max(left + wide // 2 - side // 2, 0), size[0] - side)
    top = min(max(top + high // 2 - side // 2, 0), size[1] - side)
    return left, top, left + side, top + side
