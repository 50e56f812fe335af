"""Fixtures that several test files share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from helpers import striped_arrays, write_image_set

from evalkit.cli import main
from evalkit.images.imageset import ImageSet

torch.set_num_threads(2)


@pytest.fixture
def striped(tmp_path: Path) -> ImageSet:
    """240 training and 120 test images of 3 classes, striped in the direction of the class."""
    images, labels = striped_arrays(360)
    return write_image_set(
        tmp_path / "striped", images, labels.astype(np.int64), {"train": (0, 240), "test": (240, 360)}
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A workspace with the image set `striped`: 120 training and 60 test images of 3 classes."""
    images, labels = striped_arrays(180)
    write_image_set(tmp_path / "images/striped", images, labels, {"train": (0, 120), "test": (120, 180)})
    return tmp_path


@pytest.fixture
def run(home: Path) -> Callable[..., Result]:
    """Runs `evalkit --home HOME ...` in this process."""

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["--home", str(home), *map(str, arguments)])

    return invoke
