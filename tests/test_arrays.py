"""Growing .npy files and resumable artifacts: numpy reads what was written; a killed run's tail does not count."""

import numpy as np
import pytest

from evalkit.artifacts import PROGRESS, NpyWriter, new_manifest, read_manifest, write_artifact
from evalkit.errors import EvalkitError


@pytest.mark.parametrize("shape,dtype", [((), "int64"), ((3,), "float16"), ((2, 2, 3), "uint8")])
def test_round_trip_of_rows_appended_in_parts(tmp_path, shape, dtype):
    rows = np.arange(int(np.prod(shape)) * 1001).reshape(1001, *shape).astype(dtype)
    writer = NpyWriter(tmp_path / "a.npy", shape, dtype)
    for part in (rows[:0], rows[:1], rows[1:]):
        writer.append(part)
    writer.close()
    assert np.array_equal(np.load(tmp_path / "a.npy"), rows)


def test_an_unrecorded_tail_is_cut_off(tmp_path):
    first = NpyWriter(tmp_path / "a.npy", (2,), "int64")
    first.append(np.arange(10).reshape(5, 2))
    first.sync()
    first._file.write(b"half a row")
    first._file.close()
    second = NpyWriter(tmp_path / "a.npy", (2,), "int64", rows=3)
    second.append(np.array([[100, 101]]))
    second.close()
    assert np.load(tmp_path / "a.npy").tolist() == [[0, 1], [2, 3], [4, 5], [100, 101]]


def test_failure_rows_of_another_shape(tmp_path):
    writer = NpyWriter(tmp_path / "a.npy", (2,), "int64")
    with pytest.raises(ValueError, match=r"rows of shape \(3,\)"):
        writer.append(np.zeros((1, 3)))
    writer.close()


def test_building_resumes_only_with_equal_settings_and_inputs(tmp_path):
    with write_artifact(tmp_path / "a", settings={"k": 1}, made_from={"s": 1}) as work:
        (work.path / "part").write_text("kept")
        work.save(rows=7)
    with write_artifact(tmp_path / "a", settings={"k": 1}, made_from={"s": 1}) as work:
        assert work.progress == {"rows": 7} and (work.path / "part").read_text() == "kept"
    with write_artifact(tmp_path / "a", settings={"k": 2}, made_from={"s": 1}) as work:
        assert work.progress == {} and not (work.path / "part").exists()


def test_building_finished_is_whole_and_has_hashes(tmp_path):
    with write_artifact(tmp_path / "a", settings={}, made_from={}) as work:
        (work.path / "part").write_text("x")
        work.save(rows=1)
        work.finish(new_manifest("thing", settings={}, made_from={}))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["manifest.json", "part"]
    assert not (tmp_path / "a.partial").exists() and not (tmp_path / "a" / PROGRESS).exists()
    assert read_manifest(tmp_path / "a", "thing", check_hashes=True)["files"]["part"]["bytes"] == 1


def test_what_a_kill_leaves_of_a_half_written_record_is_no_part_of_the_artifact(tmp_path):
    with write_artifact(tmp_path / "a", settings={}, made_from={}) as work:
        (work.path / "part").write_text("x")
        work.save(rows=1)
    for name in ("manifest.json.tmp", "progress.json.tmp"):
        (tmp_path / "a.partial" / name).write_text("{")
    with write_artifact(tmp_path / "a", settings={}, made_from={}) as work:
        work.finish(new_manifest("thing", settings={}, made_from={}))
    assert list(read_manifest(tmp_path / "a", "thing", check_hashes=True)["files"]) == ["part"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["manifest.json", "part"]


def test_failure_a_folder_in_the_way_that_is_no_unfinished_artifact_is_left_alone(tmp_path):
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(EvalkitError, match=r"a.partial: in the way of a, and no unfinished artifact; move it away"):
        with write_artifact(tmp_path / "a", settings={}, made_from={}):
            pass
    assert (tmp_path / "a.partial" / "thesis.txt").read_text() == "years of work"


def test_failure_two_commands_building_one_artifact(tmp_path):
    with write_artifact(tmp_path / "a", settings={}, made_from={}):
        with pytest.raises(EvalkitError, match="another evalkit command is writing it"):
            with write_artifact(tmp_path / "a", settings={}, made_from={}):
                pass
