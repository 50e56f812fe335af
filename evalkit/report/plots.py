"""The plots of the HTML page, drawn by matplotlib as SVG; equal numbers give equal bytes.

Which plots and images there are to show, each with its caption; the page and the Markdown report show them.
"""

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from evalkit.report import plots
from evalkit.report.data import (
    Line,
    ReportData,
    ResultWithCard,
    best,
    by_layer,
    confusion,
    over_C,
    over_labels,
    over_updates,
    probed,
)
from evalkit.report.tables import MEASURED, PUBLISHED, Block, lossy_mark

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#444444")  # Okabe & Ito's
_MARKERS = "osD^vPX*"  # lines stay apart in print, too
_GREY = "#767676"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small files that scale and can be searched
    "svg.hashsalt": "evalkit",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
}
_NAME = 30  # letters of a name beside a plot: longer ones take two lines, so that the plot keeps its width
_WIDTH = 5.0  # inches: a phone's width at this font size


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element that takes the width it is given."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    head, rest = text[text.index("<svg") :].split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ' role="img">' + re.sub(r'<g id="[^"]*">', "<g>", rest)


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def overview(rows: pd.DataFrame, *, label: str) -> str:
    """Figures of one table as dots with their spreads; published ones hollow."""
    with matplotlib.rc_context(_STYLE):
        ordered = rows.sort_values("value", ascending="error" not in rows["metric"].iloc[0], kind="stable")
        names = [textwrap.fill(f"{row['method']}{lossy_mark(row)}", _NAME) for _, row in ordered.iterrows()]
        figure, axes = _axes(0.75 + 0.24 * len(names) + 0.14 * sum(name.count("\n") for name in names))
        for place, (_, row) in enumerate(ordered.iterrows()):
            measured = row["origin"] == MEASURED
            colour = _COLOURS[0] if measured else _GREY
            spread = 0.0 if row["uncertainty"] != row["uncertainty"] else float(row["uncertainty"])
            axes.errorbar(
                row["value"], place, xerr=spread, fmt="o", color=colour, mfc=colour if measured else "white", capsize=2
            )
        axes.set_yticks(range(len(names)), names, fontsize=9)
        for text, origin in zip(axes.get_yticklabels(), ordered["origin"], strict=True):
            text.set_color("black" if origin == MEASURED else _GREY)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        return _svg(figure)


def lines(
    found: Sequence[Line],
    *,
    x: str,
    y: str,
    log: bool = True,
    published: tuple[str, float] | None = None,
) -> str:
    """Lines with their spreads as bars; the chosen point is ringed, a published figure is a dashed level."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(2.6 + 0.22 * (len(found) + bool(published)))
        for place, line in enumerate(found):
            colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
            bars = line.uncertainty if any(line.uncertainty) else None
            axes.errorbar(
                line.x, line.percent, yerr=bars, color=colour, marker=marker, ms=4, capsize=2, label=line.name
            )
            if line.chosen in line.x:
                chosen = line.percent[line.x.index(line.chosen)]
                axes.plot(line.chosen, chosen, "o", ms=11, mfc="none", mec=colour)
        if published:
            axes.axhline(published[1], color=_GREY, ls="--", lw=1, label=published[0])
        if log:
            axes.set_xscale("log")
            axes.minorticks_off()
        _mark_points(axes, sorted({value for line in found for value in line.x}))
        axes.set_xlabel(x)
        axes.set_title(y, loc="left", fontsize=10)
        figure.legend(loc="outside lower left", frameon=False, fontsize=9)
        return _svg(figure)


def _mark_points(axes: Axes, points: Sequence[float]) -> None:
    """Ticks where the points are, if they are few; else matplotlib's."""
    if len(points) <= 5:
        axes.set_xticks(points, [f"{value:,.0f}" if value >= 1 else f"{value:g}" for value in points])


def layers(rows: Sequence[tuple[str, float, float]], *, label: str) -> str:
    """Bars of accuracy, one a layer or range of layers, with their spreads."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(0.75 + 0.3 * len(rows))
        places = np.arange(len(rows))[::-1]
        colours = [_COLOURS[7] if name == "all" else _COLOURS[0] for name, _, _ in rows]
        axes.barh(places, [value for _, value, _ in rows], 0.65, xerr=[s for _, _, s in rows], color=colours)
        axes.set_yticks(places, [name for name, _, _ in rows])
        for place, (_, value, _) in zip(places, rows, strict=True):
            axes.text(1, place, f"{value:.2f}", va="center", color="white", fontsize=9)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        return _svg(figure)


def confusion_matrix(percent: np.ndarray, names: Sequence[str], *, label: str) -> str:
    """A heat map with its numbers: rows are the true classes."""
    with matplotlib.rc_context(_STYLE):
        size = len(names)
        figure, axes = _axes(_WIDTH)
        axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        axes.grid(visible=False)
        axes.set_xticks(range(size), names, rotation=90)
        axes.set_yticks(range(size), names)
        if size <= 20:  # more would not be legible
            for (row, column), value in np.ndenumerate(percent):
                colour = "white" if value > 55 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set(xlabel="taken for", ylabel=label)
        return _svg(figure)


def per_class(accuracies: Sequence[tuple[str, np.ndarray]], names: Sequence[str], *, label: str) -> str:
    """Accuracy of every class as dots, a colour a method; classes in the order of the first method's accuracy."""
    with matplotlib.rc_context(_STYLE):
        order = np.argsort(accuracies[0][1], kind="stable")
        figure, axes = _axes(1.0 + 0.24 * (len(names) + len(accuracies)))
        for place, (method, values) in enumerate(accuracies):
            colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
            axes.plot(values[order], range(len(names)), marker, color=colour, label=method)
        axes.set_yticks(range(len(names)), [names[k] for k in order])
        axes.set_xlabel(label)
        figure.legend(loc="outside lower left", frameon=False, fontsize=9)
        return _svg(figure)


_METHODS = 6  # in a plot of classes: more dots would hide each other
_GRID_SIZE = 448  # pixels of a sample grid's side that are shown: 14 x 14 samples of 32 pixels


@dataclass(frozen=True)
class ReportFigure:
    """A plot (SVG) or an image (JPEG bytes), drawn when it is asked for, with its caption and a line on reading it."""

    caption: str
    draw: Callable[[], str | bytes]
    note: str = ""


def _named(dataset: str) -> str:
    """A data set's name on an axis, with the loss of its images."""
    return f"{dataset} (lossy JPEG)" if dataset.endswith("-jpeg") else dataset


def _label(each: ResultWithCard) -> str:
    """What an axis shows: accuracy or error, with the loss of the images."""
    name = "error %" if "error" in each.row["metric"] else "accuracy %"
    return name + (", lossy JPEG" if each.row["dataset"].endswith("-jpeg") else "")


def block_figures(block: Block, group: list[ResultWithCard]) -> Iterator[ReportFigure]:
    """The plots of one table: an overview, accuracy over C, over D updates, layers, classes, confusions."""
    label = _label(group[0])
    hollow = "; hollow: published" if PUBLISHED in set(block.rows["origin"]) else ""
    yield ReportFigure("At a glance", partial(plots.overview, block.rows, label=label), block.title + hollow)
    if found := over_C(group):
        draw = partial(plots.lines, found, x="C", y=f"validation {label}")
        yield ReportFigure("Accuracy against C", draw, "on validation rows; the ring marks the chosen C")
    if found := over_updates(group):
        level = _published(block)
        draw = partial(plots.lines, found, x="updates of D", y=f"test {label}", log=False, published=level)
        yield ReportFigure("Test figure against updates of D", draw, block.title)
    for encoder, rows in by_layer(group).items():
        draw = partial(plots.layers, rows, label=f"test {label}")
        yield ReportFigure("Layers", draw, f"{encoder}; {block.title}")
    yield from _class_figures(group, label)


def _published(block: Block) -> tuple[str, float] | None:
    """The published row that the table's differences are taken to."""
    versus = set(block.rows["versus"]) - {""}
    rows = block.rows[(block.rows["origin"] == PUBLISHED) & block.rows["method"].isin(versus)]
    return None if rows.empty else (f"{rows['method'].iloc[0]}, published", float(rows["value"].iloc[0]))


def _class_figures(group: list[ResultWithCard], label: str) -> Iterator[ReportFigure]:
    known = [each for each in group if each.predictions.size and "class_names" in each.card]
    if not known:
        return
    top = best(known)
    names = top.card["class_names"]
    ordered = [top, *(each for each in known if each is not top)][:_METHODS]
    recalls = [(each.method, np.diag(confusion(each))) for each in ordered]
    draw = partial(plots.per_class, recalls, names, label=label.replace("error", "accuracy"))
    images = f"test images of {_named(top.row['dataset'])}"
    yield ReportFigure("Accuracy of each class", draw, f"of {images}")
    draw = partial(plots.confusion_matrix, confusion(top), names, label="true class")
    yield ReportFigure("Confusions", draw, f"{top.method}: % of each class's {images}, mean over n = {top.row['n']}")


def training_figures(material: ReportData) -> Iterator[ReportFigure]:
    """Plots over several tables: probes while training, and test figures against the number of labels."""
    for run, probe in material.probes.items():
        lossy = ", lossy JPEG" if probe["dataset"].astype(str).str.endswith("-jpeg").any() else ""
        label = f"validation accuracy %{lossy}"
        draw = partial(plots.lines, probed(run, probe), x="updates of D", y=label, log=False)
        yield ReportFigure("Probe while training", draw, f"{run}: validation images, small draws of labels")
    datasets: dict[str, list[ResultWithCard]] = {}
    for each in material.measured:
        datasets.setdefault(each.row["dataset"], []).append(each)
    for dataset, group in datasets.items():
        if found := over_labels(group):
            draw = partial(plots.lines, found, x="training labels", y=f"test {_label(group[0])}")
            yield ReportFigure("Test figure against labels", draw, _named(dataset))


def image_figures(material: ReportData) -> Iterator[ReportFigure]:
    """Sample grids of the runs measured, at three points of training, and the gallery of the experiments."""
    for run, paths in material.samples.items():
        for path in dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]]):
            updates = int(path.stem.rpartition("-")[2])
            yield ReportFigure(f"{run}: samples after {updates:,} updates of D", partial(_upper_left, path))
    for found in material.gallery:
        yield ReportFigure(found.title, partial(_scaled, found.path))


def _upper_left(path: Path) -> bytes:
    """A grid's samples that fit a page, as JPEG."""
    with Image.open(path) as image:
        return _jpeg(image.crop((0, 0, min(image.width, _GRID_SIZE), min(image.height, _GRID_SIZE))))


def _scaled(path: Path) -> bytes:
    """A whole image (the first of an animation), made smaller where a page has no use for its size, as JPEG."""
    with Image.open(path) as image:
        whole = image.convert("RGB")
    whole.thumbnail((2 * _GRID_SIZE, 2 * _GRID_SIZE))
    return _jpeg(whole)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="jpeg", quality=88)
    return buffer.getvalue()
