"""Where a run keeps its checkpoints: finding, keeping and deleting them.

RUN/manifest.json                       recipe, seed, precision, pictures
RUN/checkpoints/d-00000800/             the state after 800 D updates, whole or absent
RUN/metrics.csv, RUN/samples/*.png      what the run logged
RUN/best/                               the checkpoint that a probe found best, where one watched
"""

import json
import re
import shutil
from pathlib import Path

from evalkit.artifacts import MANIFEST, read_manifest
from evalkit.errors import ArtifactError
from evalkit.gan.checkpoint import KIND, RUN_KIND
from evalkit.workspace import Workspace


def checkpoints(run: Path) -> list[Path]:
    """A run's whole checkpoints, fewest D updates first."""
    found = [path for path in run.glob("checkpoints/d-*") if re.fullmatch(r"d-\d+", path.name)]
    return sorted(found)


def latest_checkpoint(run: Path) -> Path:
    """A run's checkpoint with the most D updates.

    Raises:
        ArtifactError: it has none yet.
    """
    found = checkpoints(run)
    if not found:
        raise ArtifactError(f"{run}: no checkpoint yet; go on training with `evalkit train-gan`")
    return found[-1]


def best_checkpoint(run: Path) -> Path:
    """Where the checkpoint is kept that a probe found best."""
    return run / "best"


def find_checkpoint(name: str, workspace: Workspace) -> Path:
    """A checkpoint by its path, a run's last one by the run's path or name, or one of a run's by NAME@UPDATES.

    NAME@best is the one that a probe found best.

    "latest" is the workspace's latest run.

    Raises:
        EvalkitError: nothing of that name; the message lists the names there are.
    """
    if name == "latest":
        return latest_checkpoint(workspace.latest(RUN_KIND))
    path = Path(name)
    if not (path / MANIFEST).is_file():
        run, at, updates = name.partition("@")
        path = workspace.find(RUN_KIND, run)
        if at:
            return _checkpoint_at(path, updates)
    kind = RUN_KIND if (path / "checkpoints").is_dir() else KIND
    read_manifest(path, kind)
    return latest_checkpoint(path) if kind == RUN_KIND else path


def _checkpoint_at(run: Path, updates: str) -> Path:
    found = {str(int(path.name.removeprefix("d-"))): path for path in checkpoints(run)}
    if best_checkpoint(run).is_dir():
        found["best"] = best_checkpoint(run)
    if updates not in found:
        raise ArtifactError(f"{run}: no checkpoint after {updates} D updates; it has {', '.join(found) or 'none'}")
    return found[updates]


def run_of(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def checkpoint_before(run: Path, d_updates: int) -> Path:
    """A run's last checkpoint of at most that many D updates, else its first.

    Raises:
        ArtifactError: it has none.
    """
    latest_checkpoint(run)
    found = checkpoints(run)
    good = [path for path in found if int(path.name.removeprefix("d-")) <= d_updates]
    return good[-1] if good else found[0]


def remove_old(run: Path, *, keep: int, milestones: int) -> None:
    """Deletes all but the last `keep` checkpoints and those at multiples of `milestones` D updates (0: none)."""
    for path in checkpoints(run)[:-keep]:
        updates = json.loads((path / "manifest.json").read_text())["settings"]["d_updates"]
        if not milestones or updates % milestones:
            shutil.rmtree(path)


def remove_after(run: Path, checkpoint: Path) -> None:
    """Deletes a run's checkpoints of more D updates than `checkpoint`."""
    for path in checkpoints(run):
        if path.name > checkpoint.name:
            shutil.rmtree(path)
