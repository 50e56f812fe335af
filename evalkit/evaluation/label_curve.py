"""label_curve: the L2-SVM's result for each number of labels per class, as CSV and PNG."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evalkit.artifacts import write_atomically
from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import Arrays, evaluate, features_name, find_features
from evalkit.evaluation.label_subsets import check_features_labels, make_label_subsets
from evalkit.evaluation.protocol import Protocol
from evalkit.evaluation.record import recorded_result
from evalkit.features.featureset import FeatureSet
from evalkit.results import Result, method_name
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)

_STEPS = (1, 2, 5)
_INTERVAL = ("interval_low", "interval_high", "interval_type")
_COLUMNS = ["protocol", "n_train", "value", "std", *_INTERVAL, "n", "hyperparameter", "card"]


@dataclass(frozen=True)
class LabelCurve:
    """The results, fewest labels first, and the files written; None where none was."""

    results: list[Result]
    csv: Path | None = None
    png: Path | None = None


def label_curve(
    features: FeatureSet | Arrays | Path | str | None = None,
    protocol: Protocol | None = None,
    *,
    home: Workspace | Path | str | None = None,
    labels: Sequence[int | None] | str | None = None,
    num_test_subsets: int | None = None,
    num_selection_subsets: int | None = None,
    out: Path | str | None = None,
    device: str = "auto",
) -> LabelCurve:
    """Measures the points of the curve that the workspace's results.csv does not hold; writes CSV and PNG.

    Args:
        features, home, device: as for `evaluate`.
        protocol: everything but the number of labels.
        labels: labels per class of each point, None for all, or a text like "1,10,all"; by default 1, 2, 5, ... as
            far as they go, and all.
        num_test_subsets, num_selection_subsets: of the points with fewer than all labels.
        out: path of the files without their suffix; by default in the workspace's folder `curves`.
    """
    protocol = protocol or Protocol()
    features = find_features(features, home=home, dataset=protocol.dataset)
    results = []
    counts = parse_labels(labels) if isinstance(labels, str) else labels
    for count in counts or default_labels(features, protocol):
        point = replace(protocol, labels_per_class=count)
        if count is not None:
            point = replace(point, num_test_subsets=num_test_subsets, num_selection_subsets=num_selection_subsets)
        results.append(_point(features, point, home, device))
    if out is None and home is None:
        return LabelCurve(results)
    base = Path(out) if out else Workspace.of(home).home / "curves" / features_name(features)
    return _write(results, base)


def _point(features: FeatureSet, protocol: Protocol, home: Workspace | Path | str | None, device: str) -> Result:
    """The result of one number of labels: the one on record, or measured now."""
    label_subsets = make_label_subsets(features, protocol)
    if home is not None:
        path = Workspace.of(home).results
        if recorded := recorded_result(features, protocol, results=path, label_subsets=label_subsets):
            logger.info("%s: already measured", protocol.name)
            return recorded
    logger.info("labels per class: %s", protocol.name)
    return evaluate(features, protocol, home=home, label_subsets=label_subsets, device=device).result


def parse_labels(text: str) -> list[int | None]:
    """ "1,10,all" as [1, 10, None].

    Raises:
        EvalkitError: a part that is neither a whole number of at least 1 nor `all`.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if part != "all" and not (part.isdecimal() and int(part))]
    if wrong:
        raise EvalkitError(f"--labels {text}: {wrong[0]!r} is not a number of labels; expected, say, 1,10,100,all")
    return [None if part == "all" else int(part) for part in parts]


def default_labels(features: FeatureSet, protocol: Protocol) -> list[int | None]:
    """1, 2, 5, 10, ... as far as the smallest class goes outside validation, then all (None)."""
    train = features.rows("train")
    check_features_labels(features)
    validation = min(protocol.validation, len(train) // 5) // len(features.class_names)
    available = np.bincount(features.labels[train]).min() - validation
    series = [digit * 10**power for power in range(8) for digit in _STEPS]
    return [count for count in series if count <= available - 1] + [None]


def _write(results: list[Result], base: Path) -> LabelCurve:
    base.parent.mkdir(parents=True, exist_ok=True)
    csv, png = (base.with_name(base.name + suffix) for suffix in (".csv", ".png"))
    table = pd.DataFrame([vars(result) for result in results])[_COLUMNS]
    write_atomically(csv, table.round(2).to_csv(index=False, lineterminator="\n"))
    buffer = BytesIO()
    _plot(results).savefig(buffer, format="png", dpi=150)
    write_atomically(png, buffer.getvalue())
    return LabelCurve(results, csv, png)


def _plot(results: Sequence[Result]) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, first = figure.add_subplot(), results[0]
    values = [result.value for result in results]
    errors = [[r.value - r.interval_low for r in results], [r.interval_high - r.value for r in results]]
    axes.errorbar([result.n_train for result in results], values, yerr=np.maximum(errors, 0), marker="o", capsize=3)
    axes.set_xscale("log")
    axes.set_xlabel("training labels")
    axes.set_ylabel(f"test {first.metric.removesuffix('_percent')} in %, 95 % intervals")
    axes.set_title(f"{first.dataset}: {method_name(pd.Series(vars(first)))}", fontsize=10)
    axes.grid(alpha=0.3)
    return figure
