"""What runs logged on the way to a checkpoint: hours, samples, the probe's curve; over all runs that it came from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evalkit.artifacts import Manifest
from evalkit.gan.start import updates_before


@dataclass(frozen=True)
class Stage:
    """A run on the way to some weights: its folder (there or not), and its D updates by its own count and before it."""

    run: Path
    d_updates: int
    before: int


def stages(run: Path, checkpoint: Manifest) -> list[Stage]:
    """The run of a checkpoint, last, after those that it started from, which lie beside it if they are here."""
    made_from = {"d_updates": checkpoint["settings"]["d_updates"], **checkpoint["made_from"]}
    return _stages(run, made_from)


def _stages(run: Path, made_from: dict[str, Any]) -> list[Stage]:
    start = made_from.get("start")
    earlier = _stages(run.parent / start["run"], start) if start else []
    return [*earlier, Stage(run, made_from["d_updates"], updates_before({"made_from": made_from}))]


def hours(way: list[Stage]) -> str:
    """Hours of training in all; runs that are not here are named."""
    logs = {stage.run.name: _logged(stage, "metrics.csv") for stage in way}
    missing = [name for name, log in logs.items() if log.empty]
    if len(missing) == len(way):
        return "not logged"
    total = sum(float(log["seconds"].max()) for log in logs.values() if not log.empty) / 3600
    return f"{total:.1f}" + (f", without {', '.join(missing)}" if missing else "")


def evidence(way: list[Stage]) -> dict[str, bytes]:
    """Files to hand on with the weights: the last samples and the probe's curve, both by D updates in all."""
    found, last = {}, way[-1]
    grid = last.run / "samples" / f"d-{last.d_updates:08d}.png"
    if grid.is_file():
        found[f"samples-{last.before + last.d_updates:08d}.png"] = grid.read_bytes()
    curves = [(stage, _logged(stage, "probe.csv")) for stage in way]
    probes = [log.assign(d_updates=log["d_updates"] + stage.before) for stage, log in curves if not log.empty]
    if probes:
        curve = pd.concat(probes).drop_duplicates(["d_updates", "dataset", "labels_per_class"])
        found["probe.csv"] = curve.to_csv(index=False, lineterminator="\n").encode()
    return found


def _logged(stage: Stage, file: str) -> pd.DataFrame:
    """A run's log up to the checkpoint that it gave; empty if it is not here."""
    path = stage.run / file
    if not path.is_file():
        return pd.DataFrame()
    log = pd.read_csv(path)
    return log[log["d_updates"] <= stage.d_updates]
