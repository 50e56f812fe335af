"""Label efficiency: a figure for each number of labels a class, as CSV and PNG."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from evalkit.artifacts import write_atomically
from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import Progress
from evalkit.evaluation.label_subsets import check_labels
from evalkit.evaluation.measure import features_path, measure_on, measured_row, quiet
from evalkit.evaluation.protocol import Protocol
from evalkit.features.featureset import FeatureSet, load_features
from evalkit.results import Result, method_name
from evalkit.workspace import Workspace

_STEPS = (1, 2, 5)
_INTERVAL = ("interval_low", "interval_high", "interval_type")
_COLUMNS = ["protocol", "n_train", "value", "std", *_INTERVAL, "n", "hyperparameter", "card"]


@dataclass(frozen=True)
class LabelCurve:
    """The figures, fewest labels first, and the files written."""

    results: list[Result]
    csv: Path
    png: Path


def parse_labels(text: str | None) -> list[int | None] | None:
    """ "1,10,all" as [1, 10, None]; None for the default.

    Raises:
        EvalkitError: a part that is neither a number of at least 1 nor `all`.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if part != "all" and not (part.isdecimal() and int(part))]
    if wrong:
        raise EvalkitError(f"--labels {text}: {wrong[0]!r} is no number of labels; expected like 1,10,100,all")
    return [None if part == "all" else int(part) for part in parts]


def label_curve(
    workspace: Workspace,
    protocol: Protocol,
    *,
    features: str | None = None,
    dataset: str | None = None,
    labels: Sequence[int | None] | None = None,
    num_test_subsets: int | None = None,
    num_selection_subsets: int | None = None,
    out: Path | None = None,
    device: str = "auto",
    say: Progress = quiet,
    show: Progress = quiet,
) -> LabelCurve:
    """Measures the points of the curve that are not in results.csv yet and writes CSV and PNG.

    Args:
        protocol: everything but the number of labels.
        features, dataset: as `measure` takes them.
        labels: labels a class of each point, None for all; by default 1, 2, 5, ... as far as they go, and all.
        repeats, select_draws: of the points with fewer than all labels.
        out: path without suffix.
    """
    path = features_path(workspace, features, dataset)
    found = load_features(path)
    figures = []
    for count in labels or default_labels(found, protocol):
        point = replace(protocol, labels_per_class=count)
        if count is not None:
            point = replace(point, num_test_subsets=num_test_subsets, num_selection_subsets=num_selection_subsets)
        known = measured_row(workspace, found, point)
        if known is not None:
            say(f"{point.name}: measured before")
            figures.append(known)
        else:
            say(f"labels a class: {point.name}")
            figures.append(measure_on(workspace, found, point, device=device, say=say, show=show).result)
    base = out or workspace.home / "curves" / path.name
    base.parent.mkdir(parents=True, exist_ok=True)
    written = LabelCurve(figures, base.with_name(base.name + ".csv"), base.with_name(base.name + ".png"))
    _write(written)
    return written


def default_labels(features: FeatureSet, protocol: Protocol) -> list[int | None]:
    """1, 2, 5, 10, ... as far as the smallest class goes outside validation, then all (None)."""
    train = features.rows("train")
    check_labels(features, train)
    left = np.bincount(features.labels[train]).min() - min(protocol.validation, len(train) // 5) // len(
        features.class_names
    )
    series = [digit * 10**power for power in range(8) for digit in _STEPS]
    return [count for count in series if count <= left - 1] + [None]


def _write(curve: LabelCurve) -> None:
    table = pd.DataFrame([vars(figure) for figure in curve.results])[_COLUMNS]
    numbers = table.round(2).to_csv(index=False, lineterminator="\n")
    write_atomically(curve.csv, numbers)
    buffer = BytesIO()
    _plot(curve.results).savefig(buffer, format="png", dpi=150)
    write_atomically(curve.png, buffer.getvalue())


def _plot(figures: Sequence[Result]) -> Canvas:
    canvas = Canvas(figsize=(6, 4), layout="constrained")
    axes, first = canvas.add_subplot(), figures[0]
    values = [figure.value for figure in figures]
    ends = [[f.value - f.interval_low for f in figures], [f.interval_high - f.value for f in figures]]
    axes.errorbar([figure.n_train for figure in figures], values, yerr=np.maximum(ends, 0), marker="o", capsize=3)
    axes.set_xscale("log")
    axes.set_xlabel("training labels")
    axes.set_ylabel(f"test {first.metric.removesuffix('_percent')} in %, 95 % intervals")
    axes.set_title(f"{first.dataset}: {method_name(pd.Series(vars(first)))}", fontsize=10)
    axes.grid(alpha=0.3)
    return canvas
