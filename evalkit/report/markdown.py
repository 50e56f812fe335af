"""The one-page report as Markdown: tables, differences from the paper, and plots and samples as files beside it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from evalkit.artifacts import write_atomically
from evalkit.report.data import ReportData, grouped
from evalkit.report.differences import differences_by_dataset
from evalkit.report.plots import block_figures, image_figures, training_figures
from evalkit.report.tables import MEASURED, Block, blocks, decimals, footnotes, value_text

_KEPT = ("At a glance", "Test figure against", "Layers")  # the captions of the plots that one page has room for


def as_markdown(material: ReportData, target: Path) -> str:
    """The report that is to be written to `target`: its images are written to `TARGET_STEM-files` beside it."""
    cards = Path(os.path.relpath(material.folder, target.parent))
    parts = [_markdown_block(block, cards) for block in blocks(material.table)]
    return "\n".join(["# Report\n", *parts, *_differences(material), *_images(material, target)])


def _markdown_block(block: Block, cards: Path) -> str:
    name = "error %" if "error" in str(block.rows["metric"].iloc[0]) else "accuracy %"
    head = ["method", name, "n", "origin", "difference", "verdict", "date", "hardware", "source"]
    align = ["---", "---:", "---:", "---", "---:", "---", "---", "---", "---"]
    lines = [f"### {_plain(block.title)}", "", _cells(head), _cells(align)]
    lines += [_cells(_markdown_row(row, block, cards)) for _, row in block.rows.iterrows()]
    return "\n".join([*lines, "", *(f"- {_plain(note)}" for note in footnotes(block)), ""])


def _markdown_row(row: pd.Series, block: Block, cards: Path) -> list[str]:
    source = row["source"]
    linked = f"[run card]({(cards / source).as_posix()})" if source.startswith("cards/") else source
    difference = f"{decimals(row['difference'], signed=True)}" if row["versus"] else ""
    method = f"**{_plain(row['method'])}**" if row["origin"] == MEASURED else _plain(row["method"])
    cells = [value_text(row, block), row["n"], row["origin"], difference, row["verdict"], row["date"], row["hardware"]]
    return [method, *(_plain(str(cell)) for cell in cells), linked]


def _differences(material: ReportData) -> Iterator[str]:
    for name, lines in differences_by_dataset(grouped(material)).items():
        rows = [_cells([_plain(cell) for cell in line]) for line in lines]
        title = f"### Differences from the paper: {_plain(name)}\n"
        yield "\n".join([title, _cells(["what", "paper", "here"]), _cells(["---"] * 3), *rows, ""])


def _images(material: ReportData, target: Path) -> Iterator[str]:
    """Writes the plots and the last samples of every run as files and yields their links."""
    groups = grouped(material)
    shown = [
        figure
        for block in blocks(material.table)
        for figure in block_figures(block, groups[block.rows["dataset"].iloc[0], block.rows["protocol"].iloc[0]])
        if figure.caption.startswith(_KEPT)
    ]
    shown += [*training_figures(material), *list(image_figures(material))[-1:]]
    folder = target.with_name(f"{target.stem}-files")
    for old in folder.glob("[0-9][0-9]-*"):
        old.unlink()
    for number, figure in enumerate(shown, start=1):
        content = figure.draw()
        suffix = ".svg" if isinstance(content, str) else ".jpg"
        name = f"{number:02d}-{re.sub(r'[^a-z0-9]+', '-', figure.caption.lower()).strip('-')}{suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, content)
        caption = _plain(figure.caption)
        yield f"**{caption}** {_plain(figure.note)}\n\n![{caption}]({folder.name}/{name})\n"


def _cells(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: names may hold what it takes for markup."""
    for character in "\\|*_`<[":
        text = text.replace(character, "\\" + character)
    return text
