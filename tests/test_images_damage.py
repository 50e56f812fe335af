"""Damaged and hostile sources: one line, no traceback, no dead process, and no code of the current folder."""

import io
import os
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

import evalkit
from evalkit.errors import EvalkitError
from evalkit.images.prepare import prepare
from evalkit.images.sources.base import reading, reason

PACKAGE = str(Path(evalkit.__file__).parents[1])


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("module", ["pickle", "queue", "numpy", "signal"])
def test_workers_run_no_code_of_the_current_folder(tmp_path, module):
    for number in range(1100):
        (tmp_path / "set" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "a" / f"{number}.png").write_bytes(png(number % 3))
    owned = tmp_path / "owned"
    (tmp_path / "set" / f"{module}.py").write_text(f"open({str(owned)!r}, 'w')\n")
    code = (
        f"from evalkit.images.prepare import prepare; prepare('.', home={str(tmp_path / 'out')!r}, size=8, workers=2)"
    )
    environment = os.environ | {"PYTHONPATH": PACKAGE}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path / "set",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not owned.exists()


def sources(folder: Path) -> dict[str, Path]:
    """One small source of each format."""
    folder.mkdir()
    table = pyarrow.table({"image": [{"bytes": png(k), "path": "x"} for k in range(9)], "label": [0, 1, 2] * 3})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=4)
    with tarfile.open(folder / "a.tar", "w") as archive:
        for k in range(9):
            header = tarfile.TarInfo(f"cat/{k}.png")
            header.size = len(png(k))
            archive.addfile(header, io.BytesIO(png(k)))
    np.savez_compressed(folder / "a.npz", images=np.zeros((9, 8, 8, 3), np.uint8), labels=np.arange(9))
    (folder / "a.txt").write_text("".join(f"{k}.png {k}\n" for k in range(9)))
    return {name: folder / name for name in ("a.parquet", "a.tar", "a.npz", "a.txt")}


@pytest.mark.parametrize("name", ["a.parquet", "a.tar", "a.npz", "a.txt"])
def test_mutated_sources_end_in_one_line_or_an_image_set(tmp_path, name):
    source = sources(tmp_path / "in")[name]
    content = source.read_bytes()
    random = np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(content)
        for at in random.integers(0, len(content), 1 + trial % 8):
            damaged[at] = random.integers(256)
        source.write_bytes(damaged[: random.integers(len(content))] if trial % 3 == 0 else damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                prepare(source, size=8, workers=1)
            except EvalkitError as error:
                assert "\n" not in str(error)
                assert len(str(error)) < 800


def test_mutated_lmdb_ends_in_one_line_and_kills_no_process_of_ours(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    folder = tmp_path / "bedroom_train_lmdb"
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for row in range(60):
            transaction.put(f"{row:040x}".encode(), png(row % 3) * 30)
    content = (folder / "data.mdb").read_bytes()
    random = np.random.default_rng(0)
    failures = 0
    for _ in range(4):
        damaged = bytearray(content)
        for at in random.integers(0, len(content), 400):
            damaged[at] = random.integers(256)
        (folder / "data.mdb").write_bytes(damaged)
        try:
            prepare(folder, size=8, workers=1)
        except EvalkitError as error:
            failures += 1
            assert "\n" not in str(error)
    assert failures > 0


def test_failure_npz_with_two_members_of_one_name(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
            archive.writestr("images.npy", b"other")
    with pytest.raises(EvalkitError, match="a.npz: two members of the archive have one name; save it again"):
        prepare(tmp_path / "a.npz")


@pytest.mark.parametrize("error", [ValueError("a\x1b[31m\nb"), KeyError(3), OverflowError("x" * 999), RecursionError()])
def test_errors_of_libraries_become_one_line(error):
    with pytest.raises(EvalkitError) as raised, reading("some.tar", "tar"):
        raise error
    message = str(raised.value)
    assert message.startswith(f"some.tar: cannot be read as tar ({type(error).__name__}")
    assert message.isprintable()
    assert len(reason(error)) <= 300
