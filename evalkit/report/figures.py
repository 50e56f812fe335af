"""Which plots and pictures there are to show, each with its caption; the page and the Markdown report show them."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from evalkit.report import plots
from evalkit.report.material import Material, Measured
from evalkit.report.series import best, by_layer, confusion, over_C, over_labels, over_updates, probed
from evalkit.report.tables import PUBLISHED, Block

_METHODS = 6  # in a plot of classes: more dots would hide each other
_GRID_SIZE = 448  # pixels of a sample grid's side that are shown: 14 x 14 samples of 32 pixels


@dataclass(frozen=True)
class Shown:
    """A plot (SVG) or a picture (JPEG bytes), drawn when it is asked for, with its caption and a line on reading it."""

    caption: str
    draw: Callable[[], str | bytes]
    note: str = ""


def _named(dataset: str) -> str:
    """A data set's name on an axis, with the loss of its pictures."""
    return f"{dataset} (lossy JPEG)" if dataset.endswith("-jpeg") else dataset


def _label(each: Measured) -> str:
    """What an axis shows: accuracy or error, with the loss of the pictures."""
    name = "error %" if "error" in each.row["metric"] else "accuracy %"
    return name + (", lossy JPEG" if each.row["dataset"].endswith("-jpeg") else "")


def block_figures(block: Block, group: list[Measured]) -> Iterator[Shown]:
    """The plots of one table: an overview, accuracy over C, over D updates, layers, classes, confusions."""
    label = _label(group[0])
    hollow = "; hollow: published" if PUBLISHED in set(block.rows["origin"]) else ""
    yield Shown("At a glance", partial(plots.overview, block.rows, label=label), block.title + hollow)
    if found := over_C(group):
        draw = partial(plots.lines, found, x="C", y=f"validation {label}")
        yield Shown("Accuracy against C", draw, "on validation rows; the ring marks the chosen C")
    if found := over_updates(group):
        level = _published(block)
        draw = partial(plots.lines, found, x="updates of D", y=f"test {label}", log=False, published=level)
        yield Shown("Test figure against updates of D", draw, block.title)
    for encoder, rows in by_layer(group).items():
        draw = partial(plots.layers, rows, label=f"test {label}")
        yield Shown("Layers", draw, f"{encoder}; {block.title}")
    yield from _class_figures(group, label)


def _published(block: Block) -> tuple[str, float] | None:
    """The published row that the table's differences are taken to."""
    versus = set(block.rows["versus"]) - {""}
    rows = block.rows[(block.rows["origin"] == PUBLISHED) & block.rows["method"].isin(versus)]
    return None if rows.empty else (f"{rows['method'].iloc[0]}, published", float(rows["value"].iloc[0]))


def _class_figures(group: list[Measured], label: str) -> Iterator[Shown]:
    known = [each for each in group if each.predictions.size and "class_names" in each.card]
    if not known:
        return
    top = best(known)
    names = top.card["class_names"]
    ordered = [top, *(each for each in known if each is not top)][:_METHODS]
    recalls = [(each.method, np.diag(confusion(each))) for each in ordered]
    draw = partial(plots.per_class, recalls, names, label=label.replace("error", "accuracy"))
    pictures = f"test pictures of {_named(top.row['dataset'])}"
    yield Shown("Accuracy of each class", draw, f"of {pictures}")
    draw = partial(plots.confusion_matrix, confusion(top), names, label="true class")
    yield Shown("Confusions", draw, f"{top.method}: % of each class's {pictures}, mean over n = {top.row['n']}")


def training_figures(material: Material) -> Iterator[Shown]:
    """Plots over several tables: probes while training, and test figures against the number of labels."""
    for run, probe in material.probes.items():
        lossy = ", lossy JPEG" if probe["dataset"].astype(str).str.endswith("-jpeg").any() else ""
        label = f"validation accuracy %{lossy}"
        draw = partial(plots.lines, probed(run, probe), x="updates of D", y=label, log=False)
        yield Shown("Probe while training", draw, f"{run}: validation pictures, small draws of labels")
    datasets: dict[str, list[Measured]] = {}
    for each in material.measured:
        datasets.setdefault(each.row["dataset"], []).append(each)
    for dataset, group in datasets.items():
        if found := over_labels(group):
            draw = partial(plots.lines, found, x="training labels", y=f"test {_label(group[0])}")
            yield Shown("Test figure against labels", draw, _named(dataset))


def picture_figures(material: Material) -> Iterator[Shown]:
    """Sample grids of the runs measured, at three points of training, and the gallery of the experiments."""
    for run, paths in material.samples.items():
        for path in dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]]):
            updates = int(path.stem.rpartition("-")[2])
            yield Shown(f"{run}: samples after {updates:,} updates of D", partial(_upper_left, path))
    for found in material.gallery:
        yield Shown(found.title, partial(_scaled, found.path))


def _upper_left(path: Path) -> bytes:
    """A grid's samples that fit a page, as JPEG."""
    with Image.open(path) as picture:
        return _jpeg(picture.crop((0, 0, min(picture.width, _GRID_SIZE), min(picture.height, _GRID_SIZE))))


def _scaled(path: Path) -> bytes:
    """A whole picture (the first of an animation), made smaller where a page has no use for its size, as JPEG."""
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    whole.thumbnail((2 * _GRID_SIZE, 2 * _GRID_SIZE))
    return _jpeg(whole)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="jpeg", quality=88)
    return buffer.getvalue()
