"""The report as CSV, LaTeX, Markdown or one self-contained HTML page, by the suffix of the file to write.

`data`, `tables`, `differences` and `plots` say what to show; the Jinja templates in `templates` lay it out. Every value
is escaped for its format: names are text wherever they come from.
"""

import base64
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evalkit.artifacts import write_atomically
from evalkit.errors import ArtifactError, EvalkitError, printable
from evalkit.report.data import ReportData, ResultWithCard, best_result, gather_report_data, group_by_table
from evalkit.report.differences import differences_by_dataset
from evalkit.report.plots import ReportFigure, block_figures, image_figures, training_figures
from evalkit.report.tables import (
    MEASURED,
    PART,
    PUBLISHED,
    Block,
    as_csv,
    blocks,
    decimals,
    images_kind,
    labels_text,
    metric_name,
    part_mark,
    value_text,
)
from evalkit.version import __version__
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)

_CARD_NOTE = "The code beside a date is the start of the name of the run card that says how the result was measured."
_IN_MARKDOWN = ("At a glance", "Test result against", "Layers")  # the captions of the plots that one page has room for
_ON_PAGE = (
    "format",
    "kind",
    "result",
    "validation_curve",
    "class_names",
    "layers",
)  # of a card; shown elsewhere on the page


def write_report(
    results: Path | str | None = None,
    out: Path | str | Sequence[Path | str] | None = None,
    *,
    home: Workspace | Path | str | None = None,
) -> pd.DataFrame:
    """Writes measured results beside the published ones, and returns that table (see `compare_with_published`).

    Args:
        results: a results.csv with its run cards beside it [the workspace's].
        out: files to write, each in the format of its suffix: .csv, .tex, .md or .html [report.csv, report.tex,
            report.md and report.html in the workspace].
        home: the workspace with the runs whose samples and probes the report shows [the folder of `results`].

    Raises:
        EvalkitError: no results, or another suffix; the message lists the known ones.
        TypeError: neither `results` nor `home`.
    """
    if results is None and home is None:
        raise TypeError("write_report needs results or home")
    workspace = Workspace(Path(results).parent) if results and home is None else Workspace.of(home)
    path = workspace.results if results is None else Path(results)
    if not path.exists():
        raise EvalkitError(f"{path}: no results measured yet; run `evalkit svm`")
    report = gather_report_data(path, workspace)
    for line in report.missing:
        logger.warning("without a run card: %s", line)
    for target in [workspace.home / f"report{suffix}" for suffix in FORMATS] if out is None else _paths(out):
        render(report, target)
        logger.info("written: %s", target)
    return report.table


def _paths(out: Path | str | Sequence[Path | str]) -> list[Path]:
    return [Path(out)] if isinstance(out, (str, Path)) else [Path(each) for each in out]


def render(report: ReportData, target: Path) -> None:
    """Writes the report to `target`, atomically, in the format of its suffix.

    Raises:
        EvalkitError: another suffix; the message lists the known ones.
    """
    if target.suffix not in FORMATS:
        raise EvalkitError(f"{target}: no format for {target.suffix!r}; expected a file in {', '.join(FORMATS)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, FORMATS[target.suffix](report, target))


def as_html(report: ReportData) -> str:
    """The whole page: tables, plots, samples and run cards; it loads nothing from elsewhere."""
    groups = group_by_table(report)
    measured = report.table[report.table["origin"] == MEASURED]
    return _HTML.get_template("report.html").render(
        num_measured=len(measured),
        dates=" to ".join(dict.fromkeys([measured["date"].min(), measured["date"].max()])) if len(measured) else "",
        hardware="; ".join(sorted(set(measured["hardware"]))),
        tiles=[_tile(*key, best_result(group)) for key, group in groups.items()],
        tables=[_html_table(block, groups[block.dataset, block.protocol]) for block in blocks(report.table)],
        training_figures=_drawn(training_figures(report)),
        differences=differences_by_dataset(groups),
        image_figures=_drawn(image_figures(report)),
        cards=[_card(each) for each in report.measured if each.card],
        missing=report.missing,
        version=__version__,
    )


def _tile(dataset: str, protocol: str, best: ResultWithCard) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "part": images_kind(dataset) == PART,
        "labels": labels_text(protocol),
        "metric": metric_name(best.row["metric"]),
        "method": best.method,
        "row": best.row,
    }


def _html_table(block: Block, group: list[ResultWithCard]) -> dict[str, Any]:
    return {
        "anchor": f"{block.dataset}-{block.protocol}".replace(" ", "-"),
        "title": block.title,
        "rows": block.rows.to_dict("records"),
        "notes": block.notes,
        "figures": _drawn(block_figures(block, group)),
    }


def _drawn(figures: Iterable[ReportFigure]) -> list[dict[str, Any]]:
    """Figures with their content: "svg", or "jpeg" in base64; without those that cannot be read."""
    drawn = []
    for figure, content in _readable(figures):
        svg = isinstance(content, str)
        value = Markup(content) if isinstance(content, str) else base64.b64encode(content).decode()
        drawn.append({"caption": figure.caption, "note": figure.note, "svg": "", "svg" if svg else "jpeg": value})
    return drawn


def _readable(figures: Iterable[ReportFigure]) -> Iterator[tuple[ReportFigure, str | bytes]]:
    """The figures and what they show, without images whose files are broken; these are logged."""
    for figure in figures:
        try:
            yield figure, figure.draw()
        except ArtifactError as error:
            logger.warning("left out: %s", printable(str(error)))


def _card(each: ResultWithCard) -> dict[str, Any]:
    title = f"{each.method}, {each.row['dataset']}, {each.row['protocol']}"
    shown = {key: value for key, value in each.card.items() if key not in _ON_PAGE}
    return {"name": each.row["card"], "title": title, "entries": _flat(shown)}


def _flat(card: dict, prefix: str = "") -> list[tuple[str, str]]:
    """A card's entries as (name, text) pairs, nested ones under their dotted names."""
    entries = []
    for key, value in card.items():
        if isinstance(value, dict):
            entries += _flat(value, f"{prefix}{key}.")
        else:
            entries.append((f"{prefix}{key}", f"{value:.4g}" if isinstance(value, float) else str(value)))
    return entries


def as_latex(table: pd.DataFrame) -> str:
    r"""The comparison as LaTeX tables to \input: they need booktabs, nothing else."""
    return _LATEX.get_template("report.tex").render(tables=[_latex_table(block) for block in blocks(table)])


def _latex_table(block: Block) -> dict[str, Any]:
    notes = [block.title, *block.footnotes(), f"Measured on: {block.hardware}", _CARD_NOTE]
    marks = [{"letter": block.letter(row), "part_mark": part_mark(row)} for _, row in block.rows.iterrows()]
    rows = [row | mark for row, mark in zip(block.rows.to_dict("records"), marks, strict=True)]
    groups = {origin: [row for row in rows if row["origin"] == origin] for origin in (PUBLISHED, MEASURED)}
    return {
        "caption": " ".join(note.rstrip(".") + "." for note in notes),
        "label": re.sub(r"[^a-z0-9]+", "-", f"{block.dataset}-{block.protocol}".lower()),
        "metric": block.metric_name,
        "groups": {origin: group for origin, group in groups.items() if group},
    }


def as_markdown(report: ReportData, target: Path) -> str:
    """The one-page report for the file `target`; writes its images to `TARGET_STEM-files` beside it."""
    folder = Path(os.path.relpath(report.folder, target.parent)).as_posix()
    return _MARKDOWN.get_template("report.md").render(
        tables=[_markdown_table(block) for block in blocks(report.table)],
        cards_folder="" if folder == "." else f"{folder}/",
        differences=differences_by_dataset(group_by_table(report)),
        figures=_written(_markdown_figures(report), target.with_name(f"{target.stem}-files")),
    )


def _markdown_table(block: Block) -> dict[str, Any]:
    texts = [value_text(row, block) for _, row in block.rows.iterrows()]
    rows = zip(block.rows.to_dict("records"), texts, strict=True)
    return {
        "title": block.title,
        "metric": block.metric_name,
        "rows": [row | {"value_text": text} for row, text in rows],
        "footnotes": block.footnotes(),
    }


def _markdown_figures(report: ReportData) -> list[ReportFigure]:
    """The plots that one page has room for, and the last samples of the last run."""
    groups = group_by_table(report)
    plots = [
        each for block in blocks(report.table) for each in block_figures(block, groups[block.dataset, block.protocol])
    ]
    kept = [each for each in plots if each.caption.startswith(_IN_MARKDOWN)]
    return [*kept, *training_figures(report), *list(image_figures(report))[-1:]]


def _written(figures: list[ReportFigure], folder: Path) -> list[dict[str, str]]:
    """Writes figures as numbered files in place of earlier ones; their captions, notes and paths."""
    for old in folder.glob("[0-9][0-9]-*"):
        old.unlink()
    written = []
    for number, (figure, content) in enumerate(_readable(figures), start=1):
        suffix = ".svg" if isinstance(content, str) else ".jpg"
        name = f"{number:02d}-{re.sub(r'[^a-z0-9]+', '-', figure.caption.lower()).strip('-')}{suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, content)
        written.append({"caption": figure.caption, "note": figure.note, "path": f"{folder.name}/{name}"})
    return written


FORMATS: dict[str, Callable[[ReportData, Path], str]] = {
    ".csv": lambda report, target: as_csv(report.table),
    ".tex": lambda report, target: as_latex(report.table),
    ".md": as_markdown,
    ".html": lambda report, target: as_html(report),
}


_LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip

_LIGATURES = re.compile("(?<=-)(?=-)|(?<=`)(?=`)|(?<=')(?=')|(?<=,)(?=,)|(?<=[?!])(?=[`'])")


@dataclass(frozen=True)
class _Verbatim:
    """Text that needs no escaping."""

    text: str

    def __str__(self) -> str:
        return self.text


_MARKDOWN_MARKUP = re.compile(r"[\\|*_`<\[~$]|&(?=#?\w+;)")  # ~ and $: struck out text and formulas on GitHub


def _escape_latex(value: Any) -> str:
    """A value as LaTeX prints it literally."""
    if isinstance(value, _Verbatim):
        return value.text
    text = "".join(_LATEX_ESCAPES.get(character, character) for character in str(value))
    return _LIGATURES.sub("{}", text)


def _escape_markdown(value: Any) -> str:
    """A value as Markdown shows it literally: names may hold what it takes for markup."""
    return value.text if isinstance(value, _Verbatim) else _MARKDOWN_MARKUP.sub(r"\\\g<0>", str(value))


def _environment(**options: Any) -> Environment:
    environment = Environment(
        loader=PackageLoader("evalkit.report"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        **options,
    )
    environment.filters["decimals"] = decimals
    environment.filters["verbatim"] = _Verbatim
    environment.filters["address"] = lambda path: _Verbatim(quote(path))
    environment.filters["minus"] = lambda value: _Verbatim(decimals(value, signed=True).replace("-", "$-$"))
    environment.filters["card_name"] = lambda source: Path(source).stem
    return environment


_HTML = _environment(autoescape=True)
_MARKDOWN = _environment(finalize=_escape_markdown)  # escapes every value that a template shows
_LATEX = _environment(
    finalize=_escape_latex,
    block_start_string="<%",
    block_end_string="%>",
    variable_start_string="<<",
    variable_end_string=">>",
    comment_start_string="<#",
    comment_end_string="#>",
)
