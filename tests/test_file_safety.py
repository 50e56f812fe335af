"""Nothing of the user's is removed, written through a link, or read as something it is not; damage is noticed."""

import errno
import fcntl
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from example_results import RESULT
from helpers import SMALL_RECIPE, TRAIN_OPTIONS

from evalkit.artifacts import MANIFEST, already_built, locked, new_manifest, read_manifest, verify_files, write_artifact
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.featureset import load_features
from evalkit.files import remove_discarded
from evalkit.gan.run_dir import checkpoints
from evalkit.gan.train import train
from evalkit.npy import NpyWriter
from evalkit.results import add_result, read_results

SETTINGS, MADE_FROM = {"name": "small"}, {"source": "arrays"}


def build(path, kind="image set", images=b"images"):
    """A finished artifact."""
    about = {"class_names": ["a"], "splits": {"train": [0, 1]}}
    with write_artifact(path, settings=SETTINGS, made_from=MADE_FROM) as work:
        (work.path / "images.npy").write_bytes(images)
        (work.path / "labels.npy").write_bytes(b"labels")
        work.finish(new_manifest(kind, settings=SETTINGS, made_from=MADE_FROM) | about)
    return path


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def flip(path):
    """One bit of the last byte: size and header stay."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_run_without_its_manifest_is_refused_and_its_checkpoints_stay(striped, tmp_path, damage):
    train(striped, tmp_path / "run", SMALL_RECIPE, options=TRAIN_OPTIONS)
    manifest = tmp_path / "run" / MANIFEST
    if damage == "missing":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:50])
    before = contents(tmp_path / "run")
    assert checkpoints(tmp_path / "run")
    with pytest.raises(ArtifactError, match=MANIFEST):
        train(striped, tmp_path / "run", SMALL_RECIPE, options=TRAIN_OPTIONS)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("foreign", ["manifest of others", "further files", "another kind", "no manifest"])
def test_replace_leaves_what_evalkit_did_not_make(tmp_path, foreign):
    target = tmp_path / "thesis"
    if foreign in ("manifest of others", "no manifest"):
        target.mkdir()
        (target / "thesis.tex").write_text("years")
    else:
        build(target)
    if foreign == "manifest of others":
        (target / MANIFEST).write_text('{"name": "a web page"}')
    if foreign == "further files":
        (target / "notes.txt").write_text("by hand")
    before = contents(target)
    kind = "feature set" if foreign == "another kind" else "image set"
    with pytest.raises(EvalkitError, match="move"):
        already_built(target, kind, settings={"name": "other"}, made_from=MADE_FROM, replace=True)
    with pytest.raises(EvalkitError, match="move"):
        build(target, kind)
    assert contents(target) == before


def test_an_artifact_is_replaced_by_one_of_its_kind(tmp_path):
    build(tmp_path / "small", images=b"old")
    build(tmp_path / "small", images=b"new")
    assert (tmp_path / "small/images.npy").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_what_a_kill_between_two_renames_leaves_comes_back(tmp_path, monkeypatch):
    build(tmp_path / "small", images=b"old")
    rename = os.rename

    def killed(source, target):
        if str(source).endswith(".partial"):
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "rename", killed)
        build(tmp_path / "small", images=b"new")
    assert not (tmp_path / "small").exists()
    remove_discarded(tmp_path)
    assert (tmp_path / "small/images.npy").read_bytes() == b"old"


def test_a_linked_file_of_an_unfinished_artifact_is_not_written_through(tmp_path):
    photos = tmp_path / "photos.npy"
    photos.write_bytes(b"precious")
    with pytest.raises(KeyboardInterrupt), write_artifact(tmp_path / "set", settings={}, made_from={}) as work:
        work.save(rows=1)
        raise KeyboardInterrupt
    (work.path / "images.npy").symlink_to(photos)
    with pytest.raises(EvalkitError, match=r"images\.npy: a link"):
        NpyWriter(work.path / "images.npy", (2,), np.uint8)
    with (
        pytest.raises(EvalkitError, match=r"images\.npy: a link"),
        write_artifact(tmp_path / "set", settings={}, made_from={}),
    ):
        pass
    assert photos.read_bytes() == b"precious"


def test_a_flipped_bit_in_the_features_is_noticed_by_evaluate(home, run):
    assert run("extract", "--dataset", "striped", "--encoder", "pixels", "--device", "cpu").exit_code == 0
    (folder,) = (home / "features").iterdir()
    load_features(folder)
    flip(folder / "features.npy")
    result = run("svm", "--features", folder, "--device", "cpu")
    assert result.exit_code == 1
    assert "features.npy: damaged or edited" in result.output, result.output
    assert read_results(home / "results.csv").empty


def test_a_large_file_is_hashed_again_only_after_it_changed(tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.verified.SMALL", 0)
    folder = build(tmp_path / "small")
    manifest = read_manifest(folder, "image set")
    with monkeypatch.context() as patched:
        patched.setattr("evalkit.verified.sha256_file", lambda path: pytest.fail(f"{path} hashed again"))
        verify_files(folder, manifest)
    flip(folder / "images.npy")
    with pytest.raises(ArtifactError, match=r"images\.npy: damaged or edited"):
        verify_files(folder, manifest)


def test_one_command_at_a_time_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "set"):
        with pytest.raises(EvalkitError, match="another evalkit command"), locked(tmp_path / "set"):
            pass
    with locked(tmp_path / "set"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../../../x", "/etc/x", "..", ".hidden", "a\nb"])
@pytest.mark.parametrize("place", ["file", "name", "split"])
def test_names_in_a_manifest_stay_inside_the_folder(tmp_path, name, place):
    folder = build(tmp_path / "small")
    manifest = json.loads((folder / MANIFEST).read_text())
    if place == "file":
        manifest["files"][name] = manifest["files"]["images.npy"]
    elif place == "name":
        manifest["settings"]["name"] = name
    else:
        manifest["splits"] = {name: [0, 1]}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="is no name for a file") as refusal:
        read_manifest(folder, "image set")
    assert len(str(refusal.value).splitlines()) == 1


def test_the_command_line_says_so_on_one_line(home, run):
    path = home / "images/striped" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": {"../../../x": [0, 1]}}))
    result = run("extract", "--dataset", "striped", "--encoder", "pixels")
    assert result.exit_code == 1 and "is no name for a file" in result.output
    assert "Traceback" not in result.output


def test_a_result_waits_for_a_results_csv_that_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.results._WAIT", 0)
    path = tmp_path / "results.csv"
    with locked(path):
        add_result(path, RESULT)
    assert not path.exists()
    add_result(path, replace(RESULT, encoder="another"))
    assert len(read_results(path)) == 2
    assert [each.name for each in tmp_path.rglob("*.json")] == []
