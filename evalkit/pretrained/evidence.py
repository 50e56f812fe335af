"""What runs logged on the way to a checkpoint: hours, samples, the probe's curve; over all runs that it came from."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from evalkit.artifacts import Manifest, read_manifest
from evalkit.errors import ArtifactError
from evalkit.gan.checkpoint import RUN_KIND, stored_recipe
from evalkit.gan.start import updates_before


@dataclass(frozen=True)
class Stage:
    """A run on the way to some weights: its folder (None: not here), its D updates by its own count and before it."""

    name: str
    run: Path | None
    d_updates: int
    before: int


def stages(run: Path, checkpoint: Manifest) -> list[Stage]:
    """The run of a checkpoint, last, after those that it started from, which lie beside it if they are here."""
    last = Stage(run.name, run, checkpoint["settings"]["d_updates"], updates_before(checkpoint))
    return [*_earlier(run, checkpoint["made_from"]), last]


def _earlier(last: Path, made_from: dict[str, Any]) -> list[Stage]:
    start = made_from.get("start")
    if not start:
        return []
    run = last.parent / start["run"]
    found = run if run != last and _is_of(run, start) else None
    stage = Stage(start["run"], found, start["d_updates"], updates_before({"made_from": start}))
    return [*_earlier(last, start), stage]


def _is_of(run: Path, start: dict[str, Any]) -> bool:
    """Whether a folder holds the run started from, not another of its name: recipe, pictures and own start agree."""
    try:
        manifest = read_manifest(run, RUN_KIND)
    except ArtifactError:
        return False
    recipes = [replace(stored_recipe(each), d_updates=1) for each in (manifest, {"settings": start})]
    same = all(manifest["made_from"].get(key) == start.get(key) for key in ("images_sha256", "start"))
    return same and recipes[0] == recipes[1]


def hours(way: list[Stage]) -> str:
    """Hours of training in all; runs that are not here are named."""
    logs = [_logged(stage, "metrics.csv") for stage in way]
    missing = [stage.name for stage, log in zip(way, logs, strict=True) if log.empty]
    if len(missing) == len(way):
        return "not logged"
    total = sum(float(log["seconds"].max()) for log in logs if not log.empty) / 3600
    return f"{total:.1f}" + (f", without {', '.join(missing)}" if missing else "")


def evidence(way: list[Stage]) -> dict[str, bytes]:
    """Files to hand on with the weights: the last samples and the probe's curve, both by D updates in all."""
    found, last = {}, way[-1]
    grid = last.run / "samples" / f"d-{last.d_updates:08d}.png" if last.run else None
    if grid and grid.is_file():
        found[f"samples-{last.before + last.d_updates:08d}.png"] = grid.read_bytes()
    curves = [(stage, _logged(stage, "probe.csv")) for stage in way]
    probes = [log.assign(d_updates=log["d_updates"] + stage.before) for stage, log in curves if not log.empty]
    if probes:
        curve = pd.concat(probes).drop_duplicates(["d_updates", "dataset", "labels_per_class"])
        found["probe.csv"] = curve.to_csv(index=False, lineterminator="\n").encode()
    return found


def _logged(stage: Stage, file: str) -> pd.DataFrame:
    """A run's log up to the checkpoint that it gave; empty if it is not here."""
    if not stage.run or not (stage.run / file).is_file():
        return pd.DataFrame()
    log = pd.read_csv(stage.run / file)
    return log[log["d_updates"] <= stage.d_updates]
