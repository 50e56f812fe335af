"""The report as one self-contained HTML page: tables, plots, samples, run cards; it loads nothing.

Tables of the HTML page: figures beside the published ones, and what differs from the paper.

Run cards on the HTML page: each a closed paragraph that opens to all that led to its figure.
"""

import base64
from collections.abc import Iterable
from html import escape
from importlib.resources import files

import pandas as pd

from evalkit.report.data import ReportData, ResultWithCard, best, grouped
from evalkit.report.differences import Difference, differences_by_dataset
from evalkit.report.plots import ReportFigure, block_figures, image_figures, training_figures
from evalkit.report.tables import LOSSY, MEASURED, PUBLISHED, Block, blocks, decimals, labels_text
from evalkit.version import __version__

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # a browser that enforces it loads nothing


def as_html(material: ReportData) -> str:
    """The whole page."""
    css = files("evalkit.report").joinpath("page.css").read_text(encoding="utf-8")
    parts = list(blocks(material.table))
    groups = grouped(material)
    sections = {_anchor(block): _section(block, groups[_key(block)]) for block in parts}
    sections |= {
        "labels": _part("labels", "Training and labels", _shown(training_figures(material), "plots")),
        "differences": _part("differences", "Differences from the paper", _differences(groups)),
        "images": _part("images", "Images", _shown(image_figures(material), "images")),
        "cards": _part("cards", "Run cards", cards(material)),
    }
    body = [_header(material, parts), _tiles(groups), _navigation(sections), *sections.values()]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><link rel="icon" href="data:,">'
    )
    page = f"<title>evalkit report</title>\n<style>\n{css}</style>\n</head>\n<body>\n{''.join(body)}{_FOOTER}"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n{page}</body>\n</html>\n'


_FOOTER = (
    f"<footer><p>Written by evalkit {__version__}. Published: Radford, Metz &amp; Chintala 2016, arXiv 1511.06434v2. "
    "<code>evalkit verify results.csv</code> re-computes the measured rows from the artifacts at hand.</p></footer>\n"
)


def _key(block: Block) -> tuple[str, str]:
    first = block.rows.iloc[0]
    return first["dataset"], first["protocol"]


def _anchor(block: Block) -> str:
    return "-".join(_key(block)).replace(" ", "-")


def _header(material: ReportData, parts: list[Block]) -> str:
    rows = material.table[material.table["origin"] == MEASURED]
    dates = sorted(set(rows["date"]))
    when = "" if not dates else dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    hardware = "; ".join(sorted(set(rows["hardware"])))
    return (
        "<h1>How good is the representation?</h1>\n"
        f'<p class="dim">{len(rows)} measured figures in {len(parts)} tables beside the published ones. '
        f"Measured {escape(when)} on {escape(hardware)}.</p>\n"
    )


def _tiles(groups: dict[tuple[str, str], list[ResultWithCard]]) -> str:
    return f'<div class="tiles">\n{"".join(_tile(key, best(group)) for key, group in groups.items())}</div>\n'


def _tile(key: tuple[str, str], top: ResultWithCard) -> str:
    dataset, protocol = key
    row = top.row
    name = "error" if "error" in row["metric"] else "accuracy"
    return (
        f'<div class="tile"><span>{escape(dataset)}, {escape(labels_text(protocol))}: best {name} here</span>'
        f"<strong>{row['value']:.2f} %{lossy_tag(dataset.endswith('-jpeg'))}</strong>"
        f"<span>{escape(top.method)} ± {row['uncertainty']:.2f} ({escape(row['uncertainty_type'])})</span></div>\n"
    )


_TITLES = {"labels": "training and labels", "differences": "differences from the paper", "cards": "run cards"}


def _navigation(sections: dict[str, str]) -> str:
    links = "".join(
        f'<a href="#{escape(place)}">{escape(_TITLES.get(place, place))}</a>'
        for place, content in sections.items()
        if content
    )
    return f"<nav>{links}</nav>\n"


def _section(block: Block, group: list[ResultWithCard]) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in block.notes)
    return (
        f'<section id="{escape(_anchor(block))}">\n<h2>{escape(block.title)}</h2>\n{figures_table(block)}'
        f'<ul class="notes">{notes}</ul>\n{_shown(block_figures(block, group), "plots")}</section>\n'
    )


def _shown(figures: Iterable[ReportFigure], kind: str) -> str:
    """Figures side by side where the page is wide enough; empty when there are none."""
    found = "".join(
        f"<figure><figcaption>{escape(figure.caption)}{small(figure.note)}</figcaption>\n{_content(figure)}</figure>\n"
        for figure in figures
    )
    return f'<div class="{kind}">\n{found}</div>\n' if found else ""


def _content(figure: ReportFigure) -> str:
    content = figure.draw()
    if isinstance(content, str):
        return content
    packed = base64.b64encode(content).decode()
    return f'<img alt="{escape(figure.caption)}" src="data:image/jpeg;base64,{packed}">'


def _part(place: str, title: str, content: str) -> str:
    return f'<section id="{place}">\n<h2>{title}</h2>\n{content}</section>\n' if content else ""


def _differences(groups: dict[tuple[str, str], list[ResultWithCard]]) -> str:
    found = differences_by_dataset(groups)
    return "".join(f"<h3>{escape(name)}</h3>\n{difference_table(lines)}" for name, lines in found.items())


_TABLE_HEAD = ("method", "%", "95 % interval", "n", "difference", "source")


def figures_table(block: Block) -> str:
    """The rows of one block, the published ones first; on a narrow page each row is a paragraph."""
    body = "".join(_row(row) for _, row in block.rows.iterrows())
    head = "".join(f"<th{_align(name)}>{name}</th>" for name in _TABLE_HEAD)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def _align(name: str) -> str:
    return ' class="number"' if name in ("%", "95 % interval", "n", "difference") else ""


def _row(row: pd.Series) -> str:
    published = row["origin"] == PUBLISHED
    method = escape(row["method"]) + small(row["hyperparameter"])
    spread = f" ± {decimals(row['uncertainty'])}" if decimals(row["uncertainty"]) else ""
    kind = "" if published else f"± {row['uncertainty_type']}"
    value = decimals(row["value"]) + spread + lossy_tag(row["images"] == LOSSY) + small(kind)
    low, high = decimals(row["interval_low"]), decimals(row["interval_high"])
    interval = f"{low} to {high}{small(row['interval_type'])}" if low else ""
    about = f"to {row['versus']}: {row['verdict']}" if row["versus"] else ""
    difference = decimals(row["difference"], signed=True) + small(about)
    cells = [method, value, interval, str(row["n"]), difference, _source(row)]
    body = "".join(
        f'<td data-label="{name}"{_align(name)}>{cell and f"<div>{cell}</div>"}</td>'
        for name, cell in zip(_TABLE_HEAD, cells, strict=True)
    )
    return f'<tr class="{row["origin"]}">{body}</tr>\n'


def _source(row: pd.Series) -> str:
    source = row["source"]
    if row["origin"] == PUBLISHED:
        return f'<span class="tag of">published</span> {escape(source.partition(", ")[2])}'
    if "/" in source:
        name = escape(source.rpartition("/")[2].removesuffix(".json"))
        source = f'<a href="#card-{name}">run card</a>'
    about = small(f"{row['date']}, {row['hardware']}")
    return f'<span class="tag ours">measured</span> {source}{about}'


def lossy_tag(lossy: bool) -> str:
    """What stands beside every figure that was measured on lossy images."""
    return ' <span class="tag lossy">lossy JPEG</span>' if lossy else ""


def small(text: str) -> str:
    """A second, smaller line; empty for no text."""
    return f"<small>{escape(text)}</small>" if text else ""


def difference_table(lines: list[Difference]) -> str:
    """The differences as a table of what, paper, here."""
    rows = "".join(
        f'<tr><td>{escape(what)}</td><td data-label="paper">{escape(paper)}</td>'
        f'<td data-label="here">{escape(here)}</td></tr>\n'
        for what, paper, here in lines
    )
    head = "<thead><tr><th>what</th><th>paper</th><th>here</th></tr></thead>"
    return f"<table>\n{head}\n<tbody>\n{rows}</tbody>\n</table>\n"


_LEFT_OUT = ("format", "kind", "result", "curve", "class_names", "layers")  # shown elsewhere on the page


def cards(material: ReportData) -> str:
    """Every figure's card, then why others have none."""
    found = "".join(_card(each) for each in material.measured if each.card)
    missing = "".join(f"<li>{escape(line)}</li>" for line in material.missing)
    return found + (f'<ul class="notes">{missing}</ul>\n' if missing else "")


def _card(each: ResultWithCard) -> str:
    name = escape(each.row["card"])
    title = f"{each.method}, {each.row['dataset']}, {each.row['protocol']}"
    lines = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in _flat(each.card))
    link = f'<a href="cards/{name}.json">cards/{name}.json</a>'
    return f'<details id="card-{name}"><summary>{escape(title)}: {link}</summary>\n<dl>{lines}</dl></details>\n'


def _flat(card: dict, prefix: str = "") -> list[tuple[str, str]]:
    """A card's entries as (name, text) pairs, nested ones under their dotted names."""
    lines = []
    for key, value in card.items():
        if not prefix and key in _LEFT_OUT:
            continue
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", f"{value:.4g}" if isinstance(value, float) else str(value)))
    return lines
