"""What a report is made of: the comparison, the run cards, and what the workspace has about the runs behind them.

It reads results.csv and its cards, and computes the series behind the plots (over C, labels and updates; layers;
confusions), which `plots` draws.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evalkit.artifacts import MANIFEST, read_manifest
from evalkit.errors import ArtifactError, EvalkitError, printable
from evalkit.evaluation.record import facts_of
from evalkit.latent.experiment import GalleryImage, gallery
from evalkit.pretrained.registry import find_pretrained
from evalkit.report.cards import check_predictions, checked_card, is_number, is_training, printable_json
from evalkit.report.tables import compare_with_published, printable_text
from evalkit.results import Bounds, Card, method_name, ordered, read_card, read_predictions, read_results, read_table
from evalkit.workspace import Workspace

_WEIGHTS = "pretrained:"
_GRID = re.compile(r"[^-]*-[0-9]{1,15}\.png")
_PROBE_NUMBERS: dict[str, Bounds] = {
    "d_updates": (int, 0, 10**15),
    "labels_per_class": (int, 0, 10**15),
    "validation_percent": (float, 0, 100),
}
_RUN = re.compile(r"(?P<run>[^ ]+)@(?P<updates>[0-9]{1,15})\b")  # an encoder's name: a run and how far it was trained


@dataclass(frozen=True)
class ResultWithCard:
    """A row of results.csv with the content of its run card; `card` and `predictions` are empty if there is none.

    Attributes:
        row: of results.csv.
        method: its name in tables.
        predictions: int64 (fits, test rows).
        labels: int64 (test rows,).
        training: how the encoder was trained, by the card, else by its run in the workspace; empty if neither says.
    """

    row: pd.Series
    method: str
    card: Card
    predictions: np.ndarray
    labels: np.ndarray
    training: dict[str, Any]

    @property
    def class_names(self) -> list[str]:
        """The names of the classes predicted; empty if the card has none."""
        return self.card.get("class_names", [])

    @property
    def trained(self) -> tuple[str, int]:
        """The run (or the pretrained weights) and its D updates; ("", 0) for encoders that are neither."""
        if self.row["encoder"].startswith(_WEIGHTS) and self.training.get("d_updates"):
            return self.row["encoder"], self.training["d_updates"] + self.training.get("d_updates_before", 0)
        return _run_and_updates(self.row["encoder"])


def _run_and_updates(encoder: str) -> tuple[str, int]:
    match = _RUN.match(encoder)
    return (match["run"], int(match["updates"])) if match else ("", 0)


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows.

    Attributes:
        table: measured and published results, from `compare_with_published`.
        measured: the measured ones with their run cards, in the order of results.csv.
        samples: run, or pretrained weights -> its grids of samples, fewest updates first.
        probes: likewise -> its probe.csv (accuracy while training).
        gallery: images of the experiments in the workspace's `latent`.
        folder: that of results.csv; names of run cards in `table` are relative to it.
        missing: why a card or its predictions are not in the report, one line each.
    """

    table: pd.DataFrame
    measured: list[ResultWithCard]
    samples: dict[str, list[Path]]
    probes: dict[str, pd.DataFrame]
    gallery: list[GalleryImage]
    folder: Path
    missing: list[str]


def gather_report_data(results: Path, workspace: Workspace) -> ReportData:
    """Reads the results, their run cards beside `results`, and the workspace's images of the runs measured.

    Raises:
        ArtifactError: `results` has other columns.
    """
    table = printable_text(read_results(results))
    missing: list[str] = []
    measured = [_with_card(results, row, workspace, missing) for _, row in ordered(table).iterrows()]
    folders = {name: _run_folder(name, workspace) for name in sorted({each.trained[0] for each in measured} - {""})}
    samples = {name: _sample_grids(at) for name, at in folders.items() if at}
    probes = {name: _probe(at / "probe.csv", missing) for name, at in folders.items() if at}
    return ReportData(
        table=compare_with_published(table),
        measured=measured,
        samples={name: paths for name, paths in samples.items() if paths},
        probes={name: probe for name, probe in probes.items() if len(probe)},
        gallery=gallery(workspace.home / "latent"),
        folder=results.parent,
        missing=[printable(line) for line in missing],
    )


def _run_folder(trained: str, workspace: Workspace) -> Path | None:
    """Where a run, or the pretrained weights made from one, has its samples and its probe's curve, if it is here."""
    with contextlib.suppress(EvalkitError):
        if trained.startswith(_WEIGHTS):
            return find_pretrained(trained.removeprefix(_WEIGHTS), workspace, download=False)
        return workspace.path_of("run", trained)
    return None


def _sample_grids(run: Path) -> list[Path]:
    """The sample grids in a run's folder, fewest updates first; links are none of its own."""
    own = [run] if (run / "samples").is_symlink() else [run / "samples", run]
    paths = [path for folder in own for path in sorted(folder.glob("*.png")) if _GRID.fullmatch(path.name)]
    return [path for path in paths if not path.is_symlink()]


def _probe(path: Path, missing: list[str]) -> pd.DataFrame:
    """The rows of a probe.csv; empty if there is none, or one that is damaged, which `missing` says."""
    try:
        return printable_text(_read_probe(path)) if path.is_file() else pd.DataFrame()
    except ArtifactError as error:
        missing.append(str(error))
        return pd.DataFrame()


def _read_probe(path: Path) -> pd.DataFrame:
    return read_table(path, texts=("dataset",), numbers=_PROBE_NUMBERS, further=True)


def _with_card(results: Path, row: pd.Series, workspace: Workspace, missing: list[str]) -> ResultWithCard:
    """The row with its card; a card that is missing or was changed is named in `missing` instead."""
    card: Card = {}
    predictions, labels = np.empty((0, 0), np.int64), np.empty(0, np.int64)
    if row["card"]:
        try:
            card = printable_json(checked_card(read_card(results, row["card"]), row["card"]))
            predictions, labels = read_predictions(results, row["card"], card)
            check_predictions(card, row["card"], predictions, labels)
        except ArtifactError as error:
            predictions, labels = np.empty((0, 0), np.int64), np.empty(0, np.int64)
            missing.append(str(error))
    training = card.get("training") or _training_of_run(row["encoder"], workspace, missing)
    return ResultWithCard(row, method_name(row), card, predictions, labels, training)


def _training_of_run(encoder: str, workspace: Workspace, missing: list[str]) -> dict[str, Any]:
    """How the run in the workspace was trained, if it is there; what is wrong with its manifest goes to `missing`."""
    run, updates = _run_and_updates(encoder)
    folder = _run_folder(run, workspace) if run and not run.startswith(_WEIGHTS) else None
    if folder is None or not (folder / MANIFEST).exists():
        return {}
    try:
        facts = facts_of(read_manifest(folder, "run"), workspace) | {"d_updates": updates}
        if is_training(facts):
            return printable_json(facts)
        missing.append(f"{folder / MANIFEST}: not what evalkit writes of a run; train it again")
    except ArtifactError as error:
        missing.append(str(error))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):  # readable, but with other entries
        missing.append(f"{folder / MANIFEST}: not what evalkit writes of a run; train it again")
    return {}


def group_by_table(report: ReportData) -> dict[tuple[str, str], list[ResultWithCard]]:
    """The measured results by (data set, protocol), in their order."""
    groups: dict[tuple[str, str], list[ResultWithCard]] = {}
    for each in report.measured:
        groups.setdefault((each.row["dataset"], each.row["protocol"]), []).append(each)
    return groups


def best_result(group: Sequence[ResultWithCard]) -> ResultWithCard:
    """The highest accuracy, or the lowest error, of a group; results selected on test rows are passed over."""
    fair = [each for each in group if each.row["select_on"] != "test"] or list(group)
    return max(fair, key=lambda each: each.row["value"] * (-1 if "error" in each.row["metric"] else 1))


@dataclass(frozen=True)
class Line:
    """Points of one method: x, percent, half width of the uncertainty (0 if there is none), and the x selected."""

    name: str
    x: tuple[float, ...]
    percent: tuple[float, ...]
    uncertainty: tuple[float, ...]
    selected: float | None = None


def lines_over_C(group: Sequence[ResultWithCard]) -> list[Line]:
    """Validation accuracy at every C tried, from the run cards of one data set and protocol."""
    lines = []
    for each in group:
        points = each.card.get("validation_curve", [])
        if (
            len(points) > 1
            and all(is_number(x) for x, _ in points)
            and str(each.row["hyperparameter"]).startswith("C ")
        ):
            x, percent = zip(*points, strict=True)
            lines.append(Line(each.method, x, percent, (0.0,) * len(x), float(each.row["C"])))
    return lines


def lines_over_labels(group: Sequence[ResultWithCard]) -> list[Line]:
    """Test results on one data set against the number of training labels; methods with one number are left out."""
    return _lines(group, lambda each: each.method, lambda each: float(each.row["n_train"]))


def lines_over_updates(group: Sequence[ResultWithCard]) -> list[Line]:
    """Test results of one data set and protocol against a run's D updates; runs with one checkpoint are left out."""
    trained = [each for each in group if each.trained[0]]
    return _lines(trained, _method_of_run, lambda each: float(each.trained[1]))


def _method_of_run(each: ResultWithCard) -> str:
    run, updates = each.trained
    return each.method.replace(f"{run}@{updates}", run, 1)


def _lines(
    group: Sequence[ResultWithCard], name: Callable[[ResultWithCard], str], x: Callable[[ResultWithCard], float]
) -> list[Line]:
    """One line per name, points in the order of x; a name with a single x gives none."""
    points: dict[str, dict[float, ResultWithCard]] = {}
    for each in group:
        points.setdefault(name(each), {})[x(each)] = each
    lines = []
    for method, by_x in sorted(points.items()):
        xs = tuple(sorted(by_x))
        if len(xs) > 1:
            rows = [by_x[value].row for value in xs]
            percent, uncertainty = (tuple(float(row[key]) for row in rows) for key in ("value", "uncertainty"))
            lines.append(Line(method, xs, percent, uncertainty))
    return lines


def probe_lines(run: str, probe: pd.DataFrame) -> list[Line]:
    """Validation accuracy against D updates, as a run probed itself during training; one line per data set."""
    return [
        Line(
            f"{run}, {labels} labels per class of {dataset}",
            tuple(rows["d_updates"].astype(float)),
            tuple(rows["validation_percent"].astype(float)),
            (0.0,) * len(rows),
        )
        for (dataset, labels), rows in probe.sort_values("d_updates").groupby(["dataset", "labels_per_class"])
    ]


def results_by_layer(group: Sequence[ResultWithCard]) -> dict[str, list[tuple[str, float, float]]]:
    """Encoder and classifier -> (layers, percent, uncertainty) of one data set and protocol, "all" last."""
    by_method: dict[str, dict[str, tuple[str, float, float]]] = {}
    for each in group:  # of several results of one method, the one with most fits, which comes last
        name = f"{each.row['encoder']} + {each.row['classifier']}"
        layers = each.row["layers"] or "all"
        by_method.setdefault(name, {})[layers] = (layers, float(each.row["value"]), float(each.row["uncertainty"]))
    in_order = {n: sorted(rows.values(), key=lambda row: (row[0] == "all", row[0])) for n, rows in by_method.items()}
    return {name: rows for name, rows in in_order.items() if any(layers != "all" for layers, _, _ in rows)}


def confusion_percent(each: ResultWithCard) -> np.ndarray:
    """Percent of the images of each class (row) that are predicted as each class (column), over all fits; (K, K)."""
    classes = len(each.class_names)
    truth = np.broadcast_to(each.labels, each.predictions.shape)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (truth.ravel(), each.predictions.ravel()), 1)
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
