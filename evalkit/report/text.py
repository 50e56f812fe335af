"""The comparison for a terminal."""

import pandas as pd

from evalkit.report.tables import PUBLISHED, Block, blocks, decimals, value_text


def as_text(table: pd.DataFrame) -> str:
    """The comparison for a terminal: a block a data set and protocol."""
    return "\n".join(_text_block(block) for block in blocks(table))


def _text_block(block: Block) -> str:
    lines = [block.title, *(_line(row, block) for _, row in block.rows.iterrows())]
    return "\n".join(lines + [f"  ({note})" for note in footnotes(block)]) + "\n"


def _line(row: pd.Series, block: Block) -> str:
    origin = PUBLISHED if row["origin"] == PUBLISHED else f"measured, n = {row['n']}"
    difference = f"{decimals(row['difference'], signed=True)}  {row['verdict']}" if row["versus"] else ""
    return f"  {row['method']:<58} {value_text(row, block):<23} {origin:<17} {difference}".rstrip()


def footnotes(block: Block) -> list[str]:
    """What the letters beside the spreads mean, and the block's notes."""
    kinds = [f"{letter}: ± {kind}" for letter, kind in zip("abcdefghij", block.kinds, strict=False)]
    return kinds + block.notes
