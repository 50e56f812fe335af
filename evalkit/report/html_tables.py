"""Tables of the HTML page: figures beside the published ones, and what differs from the paper."""

from html import escape

import pandas as pd

from evalkit.report.differences import Difference
from evalkit.report.tables import LOSSY, PUBLISHED, Block, decimals

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
    method = escape(row["method"]) + small(row["chosen"])
    spread = f" ± {decimals(row['spread'])}" if decimals(row["spread"]) else ""
    kind = "" if published else f"± {row['spread_kind']}"
    value = decimals(row["value"]) + spread + lossy_tag(row["pictures"] == LOSSY) + small(kind)
    low, high = decimals(row["interval_low"]), decimals(row["interval_high"])
    interval = f"{low} to {high}{small(row['interval_kind'])}" if low else ""
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
    """What stands beside every figure that was measured on lossy pictures."""
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
