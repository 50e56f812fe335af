"""The numbers behind the plots: series over C, labels and updates, confusions, layers. `plots` draws them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evalkit.report.material import Material, Measured


@dataclass(frozen=True)
class Line:
    """Points of one method: x, percent, half width of the spread (0 where there is none), and the x that was chosen."""

    name: str
    x: tuple[float, ...]
    percent: tuple[float, ...]
    spread: tuple[float, ...]
    chosen: float | None = None


def over_C(group: Sequence[Measured]) -> list[Line]:
    """Validation accuracy at every C tried, from the run cards of one data set and protocol."""
    lines = []
    for each in group:
        points = each.card.get("curve", [])
        if len(points) > 1 and str(each.row["chosen"]).startswith("C "):
            x, percent = zip(*points, strict=True)
            lines.append(Line(each.method, x, percent, (0.0,) * len(x), float(each.row["C"])))
    return lines


def over_labels(group: Sequence[Measured]) -> list[Line]:
    """Test figures of one data set against the number of training labels; methods with one number are left out."""
    return _lines(group, lambda each: each.method, lambda each: float(each.row["n_train"]))


def over_updates(group: Sequence[Measured]) -> list[Line]:
    """Test figures of one data set and protocol against a run's D updates; runs with one checkpoint are left out."""
    trained = [each for each in group if each.trained[0]]
    return _lines(trained, _method_of_the_run, lambda each: float(each.trained[1]))


def _method_of_the_run(each: Measured) -> str:
    run, updates = each.trained
    return each.method.replace(f"{run}@{updates}", run, 1)


def _lines(group: Sequence[Measured], name: Callable[[Measured], str], x: Callable[[Measured], float]) -> list[Line]:
    """One line a name, points in the order of x; a name with one x gives none."""
    points: dict[str, dict[float, Measured]] = {}
    for each in group:
        points.setdefault(name(each), {})[x(each)] = each
    lines = []
    for method, found in sorted(points.items()):
        xs = tuple(sorted(found))
        if len(xs) > 1:
            rows = [found[place].row for place in xs]
            lines.append(
                Line(method, xs, tuple(float(r["value"]) for r in rows), tuple(float(r["spread"]) for r in rows))
            )
    return lines


def probed(run: str, probe: pd.DataFrame) -> list[Line]:
    """Validation accuracy against D updates, as a run probed itself while it trained; one line a data set."""
    return [
        Line(
            f"{run}, {labels} labels a class of {dataset}",
            tuple(rows["d_updates"].astype(float)),
            tuple(rows["validation_percent"].astype(float)),
            (0.0,) * len(rows),
        )
        for (dataset, labels), rows in probe.sort_values("d_updates").groupby(["dataset", "labels_per_class"])
    ]


def by_layer(group: Sequence[Measured]) -> dict[str, list[tuple[str, float, float]]]:
    """Encoder and classifier -> (layers, percent, spread) of one data set and protocol, "all" last."""
    found: dict[str, dict[str, tuple[str, float, float]]] = {}
    for each in group:  # of several figures of one method the one of most fits, which comes last
        name = f"{each.row['encoder']} + {each.row['classifier']}"
        layers = each.row["layers"] or "all"
        found.setdefault(name, {})[layers] = (layers, float(each.row["value"]), float(each.row["spread"]))
    ordered = {n: sorted(rows.values(), key=lambda row: (row[0] == "all", row[0])) for n, rows in found.items()}
    return {name: rows for name, rows in ordered.items() if any(layers != "all" for layers, _, _ in rows)}


def confusion(each: Measured) -> np.ndarray:
    """Percent of the pictures of a class (row) that were taken for each class (column), over all fits; (K, K)."""
    classes = len(each.card["class_names"])
    truth = np.broadcast_to(each.labels, each.predictions.shape)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (truth.ravel(), each.predictions.ravel()), 1)
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def grouped(material: Material) -> dict[tuple[str, str], list[Measured]]:
    """The measured figures by (data set, protocol), in their order."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for each in material.measured:
        groups.setdefault((each.row["dataset"], each.row["protocol"]), []).append(each)
    return groups


def best(group: Sequence[Measured]) -> Measured:
    """The best of a group: the highest accuracy, or the lowest error; figures chosen on test are passed over."""
    fair = [each for each in group if each.row["selected_on"] != "test"] or list(group)
    return max(fair, key=lambda each: each.row["value"] * (-1 if "error" in each.row["metric"] else 1))
