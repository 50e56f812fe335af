"""The plots and images of a report, each with its caption: plots as SVG by matplotlib, images as JPEG.

`render` shows them on the HTML page and beside the Markdown report. Equal numbers give equal bytes.
"""

import errno
import hashlib
import io
import os
import re
import stat
import textwrap
import warnings
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

from evalkit.errors import ArtifactError, one_line
from evalkit.latent.experiment import GalleryImage
from evalkit.report.data import (
    Line,
    ReportData,
    ResultWithCard,
    best_result,
    confusion_percent,
    lines_over_C,
    lines_over_labels,
    lines_over_updates,
    probe_lines,
    results_by_layer,
)
from evalkit.report.tables import MEASURED, PART, PUBLISHED, Block, images_kind, metric_name, named, part_mark

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#444444")  # Okabe & Ito's
_MARKERS = "osD^vPX*"  # lines stay apart in print, too
_GREY = "#767676"
_STYLE: Any = {
    "text.usetex": False,
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
_NAME = 30  # letters of a name beside a plot; longer names take two lines, so that the plot keeps its width
_WIDTH = 5.0  # inches: a phone's width at this font size
_METHODS = 6  # most methods in a plot of classes: more dots would hide each other
_MOST_ROWS = 200  # results in an overview: more would be taller than any screen
_MOST_CLASSES = 1000  # in plots of classes
_LONGEST = 120  # letters of a name in a plot
_MOST_PIXELS = 64_000_000  # of a PNG or GIF, which may say any size of itself
_MOST_BYTES = 256 * 2**20
_GRID_SIZE = 448  # pixels of a sample grid's side on the page: 14 x 14 samples of 32 pixels


@dataclass(frozen=True)
class ReportFigure:
    """A plot (SVG) or an image (JPEG bytes), drawn when needed, with its caption and a line on how to read it."""

    caption: str
    draw: Callable[[], str | bytes]
    note: str = ""


def block_figures(block: Block, group: list[ResultWithCard]) -> Iterator[ReportFigure]:
    """The plots of one table: an overview, accuracy over C and over D updates, layers, classes, confusions."""
    label = _axis_label(group[0])
    hollow = "; hollow: published" if PUBLISHED in set(block.rows["origin"]) else ""
    if len(block.rows) <= _MOST_ROWS:
        yield ReportFigure("At a glance", partial(plot_overview, block.rows, label=label), block.title + hollow)
    if over_C := lines_over_C(group):
        draw = partial(plot_lines, over_C, x="C", y=f"validation {label}")
        yield ReportFigure("Accuracy against C", draw, "on validation rows; the ring marks the selected C")
    if over_updates := lines_over_updates(group):
        level = _published_level(block)
        draw = partial(plot_lines, over_updates, x="updates of D", y=f"test {label}", log=False, published=level)
        yield ReportFigure("Test result against updates of D", draw, block.title)
    for encoder, rows in results_by_layer(group).items():
        draw = partial(plot_layers, rows, label=f"test {label}")
        yield ReportFigure("Layers", draw, f"{encoder}; {block.title}")
    yield from _class_figures(group, label)


def _axis_label(each: ResultWithCard) -> str:
    part = f", {PART}" if images_kind(each.row["dataset"]) == PART else ""
    return f"{metric_name(each.row['metric'])} %{part}"


def _published_level(block: Block) -> tuple[str, float] | None:
    """The published row that the table's differences are taken to."""
    versus = set(block.rows["versus"]) - {""}
    rows = block.rows[(block.rows["origin"] == PUBLISHED) & block.rows["method"].isin(versus)]
    return None if rows.empty else (f"{rows['method'].iloc[0]}, published", float(rows["value"].iloc[0]))


def _class_figures(group: list[ResultWithCard], label: str) -> Iterator[ReportFigure]:
    known = [each for each in group if each.predictions.size and each.class_names]
    if not known:
        return
    best = best_result(known)
    names = best.class_names
    if len(names) > _MOST_CLASSES:
        return
    shown = [best, *(each for each in known if each is not best and each.class_names == names)][:_METHODS]
    recalls = [(each.method, np.diag(confusion_percent(each))) for each in shown]
    draw = partial(plot_classes, recalls, names, label=label.replace("error", "accuracy"))
    images = f"test images of {named(best.row['dataset'])}"
    yield ReportFigure("Accuracy of each class", draw, f"on the {images}")
    draw = partial(plot_confusion, confusion_percent(best), names, label="true class")
    yield ReportFigure("Confusions", draw, f"{best.method}: % of each class's {images}, mean over n = {best.row['n']}")


def training_figures(report: ReportData) -> Iterator[ReportFigure]:
    """Plots over several tables: probes during training, and test results against the number of labels."""
    for run, probe in report.probes.items():
        draw = partial(plot_lines, probe_lines(run, probe), x="updates of D", y="validation accuracy %", log=False)
        yield ReportFigure("Probe during training", draw, f"{run}: validation images, small label subsets")
    datasets: dict[str, list[ResultWithCard]] = {}
    for each in report.measured:
        datasets.setdefault(each.row["dataset"], []).append(each)
    for dataset, group in datasets.items():
        if lines := lines_over_labels(group):
            draw = partial(plot_lines, lines, x="training labels", y=f"test {_axis_label(group[0])}")
            yield ReportFigure("Test result against labels", draw, named(dataset))


def image_figures(report: ReportData) -> Iterator[ReportFigure]:
    """Sample grids of the measured runs, at three points of training, and the gallery of the latent experiments."""
    for run, paths in report.samples.items():
        for path in dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]]):
            updates = int(path.stem.rpartition("-")[2])
            yield ReportFigure(f"{run}: samples after {updates:,} updates of D", partial(_upper_left, path))
    for image in report.gallery:
        yield ReportFigure(image.title, partial(_scaled, image))


def _upper_left(path: Path) -> bytes:
    """The samples of a grid that fit the page, as JPEG."""
    image = read_image(path)
    return _jpeg(image.crop((0, 0, min(image.width, _GRID_SIZE), min(image.height, _GRID_SIZE))))


def _scaled(shown: GalleryImage) -> bytes:
    """A whole image (the first frame of an animation), reduced to the size of the page, as JPEG."""
    whole = read_image(shown.path, sha256=shown.sha256)
    whole.thumbnail((2 * _GRID_SIZE, 2 * _GRID_SIZE))
    return _jpeg(whole)


def read_image(path: Path, *, sha256: str | None = None) -> Image.Image:
    """A PNG, or the first frame of a GIF, as RGB. A link is not followed: what it points to is not the report's.

    Args:
        sha256: what the file has to hash to.

    Raises:
        ArtifactError: not such a file; the report is written without it.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            content = file.read(_MOST_BYTES + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError as error:
        reason = "is a link" if error.errno == errno.ELOOP else error.strerror
        raise ArtifactError(f"{path}: {reason}, expected an image file") from None
    if len(content) > _MOST_BYTES or (sha256 is not None and hashlib.sha256(content).hexdigest() != sha256):
        raise ArtifactError(f"{path}: not the image that the manifest lists; run the experiment again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "GIF")) as image:
                if image.width * image.height <= _MOST_PIXELS:
                    return image.convert("RGB")
        except Exception as error:  # a broken file can raise anything in Pillow's parsers
            raise ArtifactError(f"{path}: not readable as an image ({one_line(error)})") from None
    raise ArtifactError(f"{path}: more than {_MOST_PIXELS:,} pixels, expected an image for a page")


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="jpeg", quality=88)
    return buffer.getvalue()


def plot_overview(rows: pd.DataFrame, *, label: str) -> str:
    """The results of one table as dots with their uncertainties; published ones are hollow."""
    with matplotlib.rc_context(_STYLE):
        ordered = rows.sort_values("value", ascending="error" not in rows["metric"].iloc[0], kind="stable")
        names = [_literal(f"{row['method']}{part_mark(row)}", wrap=_NAME) for _, row in ordered.iterrows()]
        figure, axes = _axes(0.75 + 0.24 * len(names) + 0.14 * sum(name.count("\n") for name in names))
        for place, (_, row) in enumerate(ordered.iterrows()):
            measured = row["origin"] == MEASURED
            colour = _COLOURS[0] if measured else _GREY
            bar = 0.0 if row["uncertainty"] != row["uncertainty"] else float(row["uncertainty"])
            axes.errorbar(
                row["value"], place, xerr=bar, fmt="o", color=colour, mfc=colour if measured else "white", capsize=2
            )
        axes.set_yticks(range(len(names)), names, fontsize=9)
        for text, origin in zip(axes.get_yticklabels(), ordered["origin"], strict=True):
            text.set_color("black" if origin == MEASURED else _GREY)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        return _svg(figure)


def plot_lines(
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    log: bool = True,
    published: tuple[str, float] | None = None,
) -> str:
    """Lines with their uncertainties as bars; a ring marks the selected point, a dashed line the published result."""
    with matplotlib.rc_context(_STYLE):
        names = [_legend(line.name) for line in lines]
        figure, axes = _axes(2.6 + 0.22 * (sum(1 + name.count("\n") for name in names) + bool(published)))
        for place, line in enumerate(lines):
            colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
            bars = line.uncertainty if any(line.uncertainty) else None
            axes.errorbar(
                line.x, line.percent, yerr=bars, color=colour, marker=marker, ms=4, capsize=2, label=names[place]
            )
            if line.selected in line.x:
                selected = line.percent[line.x.index(line.selected)]
                axes.plot(line.selected, selected, "o", ms=11, mfc="none", mec=colour)
        if published:
            axes.axhline(published[1], color=_GREY, ls="--", lw=1, label=published[0])
        if log:
            axes.set_xscale("log")
            axes.minorticks_off()
        _mark_points(axes, sorted({value for line in lines for value in line.x}))
        axes.set_xlabel(x)
        axes.set_title(y, loc="left", fontsize=10)
        figure.legend(loc="outside lower left", frameon=False, fontsize=9)
        return _svg(figure)


def _mark_points(axes: Axes, points: Sequence[float]) -> None:
    """Puts ticks at the points if they are few; else leaves matplotlib's."""
    if len(points) <= 5:
        axes.set_xticks(points, [f"{value:,.0f}" if value >= 1 else f"{value:g}" for value in points])


def plot_layers(rows: Sequence[tuple[str, float, float]], *, label: str) -> str:
    """Bars of accuracy, one per layer or range of layers, with their uncertainties."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(0.75 + 0.3 * len(rows))
        places = np.arange(len(rows))[::-1]
        colours = [_COLOURS[7] if name == "all" else _COLOURS[0] for name, _, _ in rows]
        axes.barh(places, [value for _, value, _ in rows], 0.65, xerr=[s for _, _, s in rows], color=colours)
        axes.set_yticks(places, [_literal(name, wrap=_NAME) for name, _, _ in rows])
        for place, (_, value, _) in zip(places, rows, strict=True):
            axes.text(1, place, f"{value:.2f}", va="center", color="white", fontsize=9)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        return _svg(figure)


def plot_confusion(percent: np.ndarray, names: Sequence[str], *, label: str) -> str:
    """A heat map with numbers: rows are true classes, columns predicted ones."""
    with matplotlib.rc_context(_STYLE):
        size, names = len(names), [_literal(name, wrap=_NAME) for name in names]
        figure, axes = _axes(_WIDTH)
        axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        axes.grid(visible=False)
        axes.set_xticks(range(size), names, rotation=90)
        axes.set_yticks(range(size), names)
        if size <= 20:  # more would not be legible
            for (row, column), value in np.ndenumerate(percent):
                colour = "white" if value > 55 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set(xlabel="predicted class", ylabel=label)
        return _svg(figure)


def plot_classes(accuracies: Sequence[tuple[str, np.ndarray]], names: Sequence[str], *, label: str) -> str:
    """Accuracy of every class as dots, one colour per method; classes in the order of the first method's accuracy."""
    with matplotlib.rc_context(_STYLE):
        order = np.argsort(accuracies[0][1], kind="stable")
        figure, axes = _axes(1.0 + 0.24 * (len(names) + len(accuracies)))
        for place, (method, values) in enumerate(accuracies):
            colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
            axes.plot(values[order], range(len(names)), marker, color=colour, label=_legend(method))
        axes.set_yticks(range(len(names)), [_literal(names[k], wrap=_NAME) for k in order])
        axes.set_xlabel(label)
        figure.legend(loc="outside lower left", frameon=False, fontsize=9)
        return _svg(figure)


def _literal(name: str, *, wrap: int) -> str:
    """A name that matplotlib shows as it is, in lines of `wrap` letters: a $ would begin a formula."""
    shortened = name if len(name) <= _LONGEST else name[: _LONGEST - 3] + "..."
    return textwrap.fill(shortened, wrap).replace("$", r"\$")


def _legend(name: str) -> str:
    """A name for a legend: matplotlib leaves out those that begin with an underscore."""
    literal = _literal(name, wrap=2 * _NAME)
    return f" {literal}" if literal.startswith("_") else literal


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element that takes the width it is given."""
    buffer = io.StringIO()
    with warnings.catch_warnings():  # text stays text: letters that matplotlib's font lacks are in the reader's
        warnings.filterwarnings("ignore", "Glyph .* missing from|constrained_layout not applied", UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    head, rest = text[text.index("<svg") :].split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ' role="img">' + re.sub(r'<g id="[^"]*">', "<g>", rest)


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()
