"""The report as one self-contained HTML page: tables, plots, samples, run cards; it loads nothing."""

import base64
from collections.abc import Iterable
from html import escape
from importlib.resources import files

from evalkit.report.differences import differences_by_dataset
from evalkit.report.figures import Shown, block_figures, picture_figures, training_figures
from evalkit.report.html_cards import cards
from evalkit.report.html_tables import difference_table, figures_table, lossy_tag, small
from evalkit.report.material import Material, Measured
from evalkit.report.series import best, grouped
from evalkit.report.tables import MEASURED, Block, blocks, labels_text
from evalkit.version import __version__

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # a browser that enforces it loads nothing


def as_html(material: Material) -> str:
    """The whole page."""
    css = files("evalkit.report").joinpath("page.css").read_text(encoding="utf-8")
    parts = list(blocks(material.table))
    groups = grouped(material)
    sections = {_anchor(block): _section(block, groups[_key(block)]) for block in parts}
    sections |= {
        "labels": _part("labels", "Training and labels", _shown(training_figures(material), "plots")),
        "differences": _part("differences", "Differences from the paper", _differences(groups)),
        "pictures": _part("pictures", "Pictures", _shown(picture_figures(material), "pictures")),
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


def _header(material: Material, parts: list[Block]) -> str:
    rows = material.table[material.table["origin"] == MEASURED]
    dates = sorted(set(rows["date"]))
    when = "" if not dates else dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    hardware = "; ".join(sorted(set(rows["hardware"])))
    return (
        "<h1>How good is the representation?</h1>\n"
        f'<p class="dim">{len(rows)} measured figures in {len(parts)} tables beside the published ones. '
        f"Measured {escape(when)} on {escape(hardware)}.</p>\n"
    )


def _tiles(groups: dict[tuple[str, str], list[Measured]]) -> str:
    return f'<div class="tiles">\n{"".join(_tile(key, best(group)) for key, group in groups.items())}</div>\n'


def _tile(key: tuple[str, str], top: Measured) -> str:
    dataset, protocol = key
    row = top.row
    name = "error" if "error" in row["metric"] else "accuracy"
    return (
        f'<div class="tile"><span>{escape(dataset)}, {escape(labels_text(protocol))}: best {name} here</span>'
        f"<strong>{row['value']:.2f} %{lossy_tag(dataset.endswith('-jpeg'))}</strong>"
        f"<span>{escape(top.method)} ± {row['spread']:.2f} ({escape(row['spread_kind'])})</span></div>\n"
    )


_TITLES = {"labels": "training and labels", "differences": "differences from the paper", "cards": "run cards"}


def _navigation(sections: dict[str, str]) -> str:
    links = "".join(
        f'<a href="#{escape(place)}">{escape(_TITLES.get(place, place))}</a>'
        for place, content in sections.items()
        if content
    )
    return f"<nav>{links}</nav>\n"


def _section(block: Block, group: list[Measured]) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in block.notes)
    return (
        f'<section id="{escape(_anchor(block))}">\n<h2>{escape(block.title)}</h2>\n{figures_table(block)}'
        f'<ul class="notes">{notes}</ul>\n{_shown(block_figures(block, group), "plots")}</section>\n'
    )


def _shown(figures: Iterable[Shown], kind: str) -> str:
    """Figures side by side where the page is wide enough; empty when there are none."""
    found = "".join(
        f"<figure><figcaption>{escape(figure.caption)}{small(figure.note)}</figcaption>\n{_content(figure)}</figure>\n"
        for figure in figures
    )
    return f'<div class="{kind}">\n{found}</div>\n' if found else ""


def _content(figure: Shown) -> str:
    content = figure.draw()
    if isinstance(content, str):
        return content
    packed = base64.b64encode(content).decode()
    return f'<img alt="{escape(figure.caption)}" src="data:image/jpeg;base64,{packed}">'


def _part(place: str, title: str, content: str) -> str:
    return f'<section id="{place}">\n<h2>{title}</h2>\n{content}</section>\n' if content else ""


def _differences(groups: dict[tuple[str, str], list[Measured]]) -> str:
    found = differences_by_dataset(groups)
    return "".join(f"<h3>{escape(name)}</h3>\n{difference_table(lines)}" for name, lines in found.items())
