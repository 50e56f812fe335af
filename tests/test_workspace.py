"""The workspace: where artifacts are, which is the latest, names that are refused, temporary workspaces."""

import gc
from pathlib import Path

import pytest

from evalkit.artifacts import new_manifest, write_artifact
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.workspace import Workspace


def write_run(workspace, name):
    with write_artifact(workspace.path_of("run", name), settings={}, made_from={}) as artifact:
        artifact.finish(new_manifest("run", settings={}, made_from={}))


def test_the_latest_artifact_is_the_one_finished_or_marked_last(tmp_path):
    workspace = Workspace(tmp_path)
    for name in ("b", "a"):
        write_run(workspace, name)
    assert workspace.latest("run") == tmp_path / "runs/a"
    workspace.mark_latest(tmp_path / "runs/b")
    assert workspace.latest("run") == tmp_path / "runs/b"
    assert [path.name for path in workspace.artifacts("run")] == ["a", "b"]


def test_an_unfinished_artifact_is_not_listed(tmp_path):
    (tmp_path / "runs/a.partial").mkdir(parents=True)
    (tmp_path / "runs/a.partial/manifest.json").write_text("{}")
    assert Workspace(tmp_path).artifacts("run") == []


def test_an_artifact_is_found_by_name_and_by_path(tmp_path):
    workspace = Workspace(tmp_path)
    write_run(workspace, "a")
    assert workspace.find("run", "a") == tmp_path / "runs/a"
    assert workspace.find("run", str(tmp_path / "runs/a")) == tmp_path / "runs/a"
    with pytest.raises(ArtifactError, match=r"b: no such run; in .*: a$"):
        workspace.find("run", "b")


def test_an_empty_workspace_names_the_command_that_makes_an_artifact(tmp_path):
    with pytest.raises(ArtifactError, match="no run in this workspace; make one with `evalkit train-gan`"):
        Workspace(tmp_path).latest("run")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "/a"])
def test_a_name_that_is_a_path_or_hidden_is_refused(tmp_path, name):
    with pytest.raises(EvalkitError, match="is no name for a run; give one without slashes"):
        Workspace(tmp_path).path_of("run", name)


def test_a_temporary_workspace_is_deleted_along_with_its_object():
    workspace = Workspace.of(None)
    write_run(workspace, "a")
    home = workspace.home
    assert workspace.is_temporary
    assert (home / "runs/a").is_dir()
    del workspace
    gc.collect()
    assert not home.exists()


def test_a_workspace_and_a_path_are_taken_as_they_are(tmp_path):
    workspace = Workspace(tmp_path)
    assert Workspace.of(workspace) is workspace
    assert Workspace.of(str(tmp_path)) == Workspace(Path(tmp_path))
    assert not Workspace.of(tmp_path).is_temporary
