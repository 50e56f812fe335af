"""prepare from end to end: counts, names, determinism, resuming after kill -9, and errors."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evalkit
from evalkit.errors import EvalkitError, ImageError
from evalkit.images import load_images
from evalkit.images.prepare import prepare, summary
from evalkit.images.workers import _Worker
from evalkit.workspace import Workspace

RNG = np.random.default_rng(0)


def write_image(path: Path, *, side: int = 8, grey: bool = False) -> np.ndarray:
    """A lossless random image; returns its pixels as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (side, side) if grey else (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels[:, :, None].repeat(3, axis=2) if grey else pixels


def contents(directory: Path) -> dict[str, bytes]:
    """The bytes that must not depend on workers or interruptions: everything but the manifest's time stamp."""
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "manifest.json"}
    manifest = json.loads((directory / "manifest.json").read_text())
    return files | {"manifest.json": json.dumps(manifest | {"created": ""}).encode()}


@pytest.fixture
def pets(tmp_path) -> Path:
    """Two classes, one grayscale image, a text file and a truncated JPEG with image names, and a text file."""
    source = tmp_path / "pets"
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        write_image(source / name, grey=name == "cat/2.png")
    (source / "cat" / "text.jpg").write_text("not an image")
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, "JPEG")
    (source / "dog" / "cut.jpg").write_bytes(stream.getvalue()[:900])
    (source / "README.txt").write_text("ignored")
    return source


def test_value_rows_labels_counts_and_names(pets, tmp_path):
    images = prepare(pets, home=tmp_path / "out", size=8, workers=1)
    wanted = [np.asarray(Image.open(pets / name).convert("RGB")) for name in ("cat/1.png", "cat/2.png", "dog/1.png")]
    assert np.array_equal(images.images, wanted)
    assert images.labels.tolist() == [0, 0, 1]
    assert images.class_names == ["cat", "dog"]
    assert images.name == "pets"
    assert images.splits == {"train": (0, 3)}
    assert images.manifest["counts"] == {"read": 5, "written": 3, "grey": 1, "skipped": 2}
    assert images.manifest["formats"] == {"PNG": 3}
    rows = (images.directory / "skipped.csv").read_text().splitlines()
    assert rows[0] == "name,reason"
    assert rows[1].startswith("cat/text.jpg,not an image")
    assert rows[2].startswith("dog/cut.jpg,broken image")


def test_summary_names_the_skipped_images(pets, tmp_path):
    for number in range(30):
        (pets / "dog" / f"bad{number:02}.jpg").write_text("x")
    lines = summary(prepare(pets, home=tmp_path / "out", size=8))
    assert lines[0] == "pets: 3 images of 8 x 8 (train 3), 2 classes: cat, dog"
    assert lines[1] == "read 35 (PNG 3), converted 1 from grayscale, skipped 32"
    assert lines[2] == "left out, no images: 1 file (README.txt)"
    assert len(lines) == 3 + 20 + 1
    assert lines[-1] == "and 12 more, all in skipped.csv"


def test_failure_strict_stops_at_the_first_bad_image(pets, tmp_path):
    with pytest.raises(ImageError, match=r"^cat/text.jpg: not an image .*; --strict stops at it$"):
        prepare(pets, home=tmp_path / "out", size=8, strict=True)
    assert not (tmp_path / "out/images/pets").exists()
    prepare(pets, home=tmp_path / "out", size=8)
    with pytest.raises(ImageError, match="cat/text.jpg: .* --strict stops"):
        prepare(pets, home=tmp_path / "out", size=8, strict=True)


def test_a_finished_set_is_returned_without_work_and_a_changed_source_noticed(pets, tmp_path):
    first = prepare(pets, home=tmp_path / "out", size=8)
    before = (first.directory / "images.npy").stat()
    assert prepare(pets, home=tmp_path / "out", size=8).sha256 == first.sha256
    assert (first.directory / "images.npy").stat().st_ino == before.st_ino
    with pytest.raises(EvalkitError, match="holds another image set .size 8 -> 16.; choose another name, or replace"):
        prepare(pets, home=tmp_path / "out", size=16)
    write_image(pets / "dog" / "1.png")
    with pytest.raises(EvalkitError, match="holds another image set .made from sha256 [0-9a-f]{12} -> "):
        prepare(pets, home=tmp_path / "out", size=8)
    assert prepare(pets, home=tmp_path / "out", size=8, replace=True).sha256 != first.sha256


def test_failure_a_target_that_is_something_else_is_left_alone(pets, tmp_path):
    thesis = tmp_path / "out/images/pets/thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    with pytest.raises(EvalkitError, match="out/images/pets: exists and is not an artifact of evalkit"):
        prepare(pets, home=tmp_path / "out", size=8, replace=True)
    assert thesis.read_text() == "years of work"
    (tmp_path / "empty/images/pets").mkdir(parents=True)
    assert len(prepare(pets, home=tmp_path / "empty", size=8)) == 3


def test_failure_when_no_image_can_be_read(tmp_path):
    (tmp_path / "a.jpg").write_text("x")
    with pytest.raises(ImageError, match="not one image of 1 could be read; the first: a.jpg: not an image"):
        prepare(tmp_path, home=tmp_path / "out", name="bad")
    assert not (tmp_path / "out/images/bad").exists()


@pytest.mark.parametrize("source,message", [("missing", "no such file or folder"), (".", "no image in this folder")])
def test_failure_nothing_there(tmp_path, source, message):
    with pytest.raises(EvalkitError, match=message):
        prepare(tmp_path / source, home=tmp_path / "out")


def test_the_set_is_written_to_the_workspace_by_its_name(pets, tmp_path):
    prepare(pets, home=Workspace(tmp_path / "home"), size=8)
    assert load_images(tmp_path / "home" / "images" / "pets").name == "pets"


@pytest.mark.parametrize("quality,name", [(None, "cifar10"), (75, "cifar10-jpeg")])
def test_lossy_images_of_a_lossless_data_set_get_the_suffix_jpeg(tmp_path, quality, name):
    source = tmp_path / "cifar10"
    write_image(source / "a" / "1.png", side=32)
    if quality:
        Image.open(source / "a" / "1.png").save(source / "a" / "1.jpg", quality=quality)
        (source / "a" / "1.png").unlink()
    images = prepare(source, home=Workspace(tmp_path / "home"))
    assert images.name == name
    assert ("officially lossless" in "".join(summary(images))) == bool(quality)


@pytest.fixture
def many(tmp_path) -> Path:
    """1,200 images in two splits, a tenth of them bad: three shards of images."""
    source = tmp_path / "many"
    for number in range(1200):
        path = source / ("train" if number % 3 else "test") / str(number % 7) / f"{number}.png"
        if number % 10:
            write_image(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(number))
    return source


def test_invariance_any_number_of_workers_gives_the_same_bytes(many, tmp_path):
    prepare(many, home=tmp_path / "one", size=4, workers=1)
    for workers in (2, 3):
        prepare(many, home=tmp_path / "more", size=4, workers=workers, replace=True)
        assert contents(tmp_path / "more/images/many") == contents(tmp_path / "one/images/many")
        shutil.rmtree(tmp_path / "more")
    assert load_images(tmp_path / "one/images/many").splits == {"train": (0, 720), "test": (720, 1080)}


# A record after every shard of 5, so that kills fall between them. Forks after the imports: a kill costs what the run
# had done, not Python's start.
KILL_AT_RANDOM = """
import os, random, signal, sys, time
from evalkit.images.prepare import prepare
sys.modules["evalkit.images.prepare"].SAVE_SECONDS = 0.0
sys.modules["evalkit.images.sources.files"].SHARD = 5
source, whole, killed, workers = sys.argv[1:]
start = time.monotonic()
prepare(source, home=whole, size=4, workers=int(workers))
seconds = time.monotonic() - start
moments = random.Random(int(workers))
for _ in range(10):
    child = os.fork()
    if not child:
        prepare(source, home=killed, size=4, workers=int(workers))
        os._exit(0)
    time.sleep(moments.uniform(0, seconds / 2))
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1])
prepare(source, home=killed, size=4, workers=int(workers))
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_at_ten_random_moments_and_run_again_gives_the_same_bytes(tmp_path, workers):
    for number in range(240):
        write_image(tmp_path / "many" / str(number % 3) / f"{number}.png")
    places = [str(tmp_path / name) for name in ("many", "whole", "killed")]
    environment = os.environ | {"PYTHONPATH": str(Path(evalkit.__file__).parents[1])}
    command = [sys.executable, "-c", KILL_AT_RANDOM, *places, workers]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.returncode == 0
    assert run.stdout.split().count("9") >= 3  # on a busy machine some end before they are killed
    assert contents(tmp_path / "killed/images/many") == contents(tmp_path / "whole/images/many")
    assert not (tmp_path / "killed/images/many.partial").exists()


def test_failure_a_decoding_process_that_dies_is_one_clear_line(many, tmp_path):
    worker = _Worker()
    worker._process.kill()
    worker._process.wait()
    with pytest.raises(EvalkitError, match="ended with status -9 .*run again, it resumes"):
        worker.answer(None)  # type: ignore[arg-type]
    worker.end()
