"""Artifacts on disk: growing .npy files, builds that resume, what is replaced and what is left alone, locks."""

import hashlib
import json
import multiprocessing
import os

import numpy as np
import pytest

from evalkit.artifacts import (
    already_built,
    atomic_file,
    copy_artifact,
    locked,
    new_manifest,
    read_json,
    read_manifest,
    safe_name,
    write_artifact,
)
from evalkit.errors import ArtifactError, EvalkitError, printable
from evalkit.npy import NpyWriter


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


def test_a_build_resumes_only_with_equal_settings_and_inputs(tmp_path):
    with write_artifact(tmp_path / "a", settings={"k": 1}, made_from={"s": 1}) as work:
        (work.path / "part").write_text("kept")
        work.save(rows=7)
    with write_artifact(tmp_path / "a", settings={"k": 1}, made_from={"s": 1}) as work:
        assert work.progress == {"rows": 7}
        assert (work.path / "part").read_text() == "kept"
    with write_artifact(tmp_path / "a", settings={"k": 2}, made_from={"s": 1}) as work:
        assert work.progress == {}
        assert not (work.path / "part").exists()


def write_thing(target, settings, content="x", made_from=None):
    inputs = {"settings": settings, "made_from": made_from or {}}
    with write_artifact(target, **inputs) as work:
        (work.path / "part").write_text(content)
        work.save(rows=1)
        work.finish(new_manifest("thing", **inputs))


def test_a_finished_artifact_has_hashes_and_leaves_nothing_beside_it(tmp_path):
    write_thing(tmp_path / "a", {})
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["manifest.json", "part"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # no lock, no .partial
    files = read_manifest(tmp_path / "a", "thing", check_hashes=True)["files"]
    assert files["part"] == {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}


def test_files_that_may_change_later_have_no_hash(tmp_path):
    with write_artifact(tmp_path / "a", settings={}, made_from={}) as work:
        (work.path / "card.md").write_text("x")
        work.finish(new_manifest("thing", settings={}, made_from={}), unhashed=("card.md",))
    assert (tmp_path / "a/card.md").exists()
    assert read_manifest(tmp_path / "a", "thing")["files"] == {}


def test_what_a_kill_leaves_of_a_half_written_record_is_not_part_of_the_artifact(tmp_path):
    with write_artifact(tmp_path / "a", settings={}, made_from={}) as work:
        (work.path / "part").write_text("x")
        work.save(rows=1)
    for name in ("manifest.json.tmp", "progress.json.tmp"):
        (tmp_path / "a.partial" / name).write_text("{")
    with write_artifact(tmp_path / "a", settings={}, made_from={}) as work:
        work.finish(new_manifest("thing", settings={}, made_from={}))
    assert list(read_manifest(tmp_path / "a", "thing", check_hashes=True)["files"]) == ["part"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["manifest.json", "part"]


def test_already_built_is_the_manifest_of_the_artifact_with_these_settings_and_inputs(tmp_path):
    target, wanted = tmp_path / "a", {"settings": {"size": (1, 2)}, "made_from": {"sha256": "s"}}
    assert already_built(target, "thing", **wanted, replace=False) is None
    write_thing(target, {"size": (1, 2)}, made_from={"sha256": "s"})
    manifest = already_built(target, "thing", **wanted, replace=False)
    assert manifest is not None
    assert manifest["settings"] == {"size": [1, 2]}


@pytest.mark.parametrize(
    ("settings", "made_from", "difference"),
    [
        ({"size": 64, "filter": "b"}, {"sha256": "s"}, r"\(size 32 -> 64\)"),
        ({"size": 32, "filter": "b"}, {"sha256": "t"}, r"\(made from sha256 s -> t\)"),
        ({"size": 32}, {"sha256": "s"}, r"\(filter b -> None\)"),
    ],
)
def test_another_artifact_is_kept_unless_it_may_be_replaced(tmp_path, settings, made_from, difference):
    write_thing(tmp_path / "a", {"size": 32, "filter": "b"}, made_from={"sha256": "s"})
    wanted = {"settings": settings, "made_from": made_from}
    with pytest.raises(EvalkitError, match=rf"a: holds another thing {difference}; choose another name"):
        already_built(tmp_path / "a", "thing", **wanted, replace=False)
    assert already_built(tmp_path / "a", "thing", **wanted, replace=True) is None


def test_a_broken_artifact_is_built_again_where_it_may_be_replaced(tmp_path):
    write_thing(tmp_path / "a", {})
    (tmp_path / "a/part").write_text("longer")
    with pytest.raises(ArtifactError, match="6 bytes, the manifest says 1 bytes"):
        already_built(tmp_path / "a", "thing", settings={}, made_from={}, replace=False)
    assert already_built(tmp_path / "a", "thing", settings={}, made_from={}, replace=True) is None


def test_only_the_settings_to_compare_have_to_be_equal(tmp_path):
    write_thing(tmp_path / "a", {"size": 32, "notes": "old"})
    wanted = {"settings": {"size": 32, "notes": "new"}, "made_from": {}, "replace": False}
    assert already_built(tmp_path / "a", "thing", **wanted, compared=["size"]) is not None
    with pytest.raises(EvalkitError, match="notes old -> new"):
        already_built(tmp_path / "a", "thing", **wanted)


@pytest.mark.parametrize("kind", ["feature set", "run", "checkpoint", "pretrained weights"])
def test_an_artifact_of_an_older_format_is_refused_in_one_line(tmp_path, kind):
    content = new_manifest(kind, settings={}, made_from={}) | {"files": {}, "format": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=rf"{kind} of format 1, this evalkit reads format 2; make it again$"):
        read_manifest(tmp_path, kind)


def test_failure_a_folder_in_the_way_that_is_not_an_unfinished_artifact_is_left_alone(tmp_path):
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(EvalkitError, match=r"a.partial: in the way of a, and not an unfinished artifact; move it away"):
        with write_artifact(tmp_path / "a", settings={}, made_from={}):
            pass
    assert (tmp_path / "a.partial" / "thesis.txt").read_text() == "years of work"


def test_failure_a_target_that_is_not_an_artifact_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/thesis.txt").write_text("years of work")
    with pytest.raises(EvalkitError, match="a: exists and is not an artifact of evalkit; move it away"):
        write_thing(tmp_path / "a", {})
    with pytest.raises(EvalkitError, match="a: exists and is not an artifact of evalkit"):
        already_built(tmp_path / "a", "thing", settings={}, made_from={}, replace=True)
    assert (tmp_path / "a/thesis.txt").read_text() == "years of work"


def test_failure_two_commands_building_one_artifact(tmp_path):
    with write_artifact(tmp_path / "a", settings={}, made_from={}):
        with pytest.raises(EvalkitError, match="another evalkit command is writing it"):
            with write_artifact(tmp_path / "a", settings={}, made_from={}):
                pass


def count_up(path):
    for _ in range(200):
        while True:
            try:
                with locked(path):
                    path.write_text(str(int(path.read_text()) + 1))
                break
            except EvalkitError:
                pass


def test_a_lock_that_is_removed_when_released_still_excludes(tmp_path):
    counter = tmp_path / "count"
    counter.write_text("0")
    processes = [multiprocessing.get_context("fork").Process(target=count_up, args=(counter,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert counter.read_text() == "600"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_a_copied_artifact_replaces_another(tmp_path):
    write_thing(tmp_path / "a", {}, content="new")
    write_thing(tmp_path / "b", {}, content="old")
    copy_artifact(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b/part").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        with atomic_file(path) as file:
            file.write(b"half")
            raise RuntimeError
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


# -- names and JSON from elsewhere


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc",
        "a\\b",
        ".hidden",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "\u202eexe",
        "\ud800",
        "x" * 201,
    ]
    + [None, 7, ["a"]],
)
def test_names_that_are_not_one_file_in_a_folder_are_refused(name):
    with pytest.raises(ArtifactError, match="is no name for a run; give one without slashes"):
        safe_name(name, "run")


@pytest.mark.parametrize("name", ["a", "imagenet32@800", "a b", "π-猫", "x.y", "-", "x" * 200])
def test_other_names_are_taken_as_they_are(name):
    assert safe_name(name, "run") == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' * 200_000, "nested too deeply"),
        (b'"' + b"x" * 2000 + b'"', "larger than 1,000 bytes"),
        (b"1" * 900 + b"}", "Extra data"),
        (b"\xff\xfe\x00", "codec can't decode|Expecting value"),
        (b"", "Expecting value"),
    ],
)
def test_damaged_json_is_a_value_error(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "x.json", most_bytes=1000 if len(content) < 5000 else 10**7)


def test_json_is_read_from_files_only(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")  # reading it would wait for ever
    with pytest.raises(ValueError, match="not a file"):
        read_json(tmp_path / "pipe.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nowhere.json")
    (tmp_path / "x.json").write_text('{"π": [1]}')
    assert read_json(tmp_path / "x.json") == {"π": [1]}


def test_text_for_messages_stays_on_one_line():
    assert printable("a\x1b[31m\nb\u202e\ud800\x00") == r"a\x1b[31m\nb\u202e\ud800\x00"
    assert printable("π-猫 $\\foo$") == "π-猫 $\\foo$"
