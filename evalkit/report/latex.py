"""The comparison as LaTeX: one booktabs table a data set and protocol."""

import re

import pandas as pd

from evalkit.report.tables import MEASURED, PUBLISHED, Block, blocks, decimals, footnotes, lossy_mark

_HEAD = "% written by `evalkit report`; needs \\usepackage{booktabs}\n"
_CARD_LETTERS = 8  # of a run card's name: enough to find the file
_CARDS = "The code beside a date is the start of the name of the run card that says how the figure came about."
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def as_latex(table: pd.DataFrame) -> str:
    """The comparison as LaTeX tables to \\input: they need booktabs, nothing else."""
    return _HEAD + "".join(_table(block) for block in blocks(table))


def _table(block: Block) -> str:
    first = block.rows.iloc[0]
    label = re.sub(r"[^a-z0-9]+", "-", f"{first['dataset']}-{first['protocol']}".lower())
    groups = [_group(block, origin) for origin in (PUBLISHED, MEASURED) if (block.rows["origin"] == origin).any()]
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{_caption(block)}}}",
        rf"\label{{tab:{label}}}",
        r"\begin{tabular}{p{0.3\linewidth}rrrl}",
        r"\toprule",
        rf"method & {'error' if 'error' in first['metric'] else 'accuracy'} \% & $n$ & difference & source \\",
        r"\midrule",
        "\n\\midrule\n".join(groups),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _caption(block: Block) -> str:
    hardware = "; ".join(sorted(set(block.rows["hardware"][block.rows["origin"] == MEASURED])))
    notes = [block.title, *footnotes(block), f"Measured on: {hardware}", _CARDS]
    return escaped(" ".join(note.rstrip(".") + "." for note in notes))


def _group(block: Block, origin: str) -> str:
    rows = [_row(row, block) for _, row in block.rows[block.rows["origin"] == origin].iterrows()]
    return "\n".join([rf"\multicolumn{{5}}{{l}}{{\emph{{{origin}}}}} \\", *rows])


def _row(row: pd.Series, block: Block) -> str:
    spread, letter = decimals(row["uncertainty"]), block.letter(row)
    value = decimals(row["value"]) + (rf" $\pm$ {spread}" if spread else "")
    value += rf"$^{{\mathrm{{{letter}}}}}$" if spread and letter else ""
    difference = decimals(row["difference"], signed=True).replace("-", "$-$")
    method = r"\raggedright " + escaped(row["method"])
    return " & ".join([method, value + lossy_mark(row), str(row["n"]), difference, _source(row)]) + r" \\"


def _source(row: pd.Series) -> str:
    if row["origin"] == PUBLISHED:
        return escaped(row["source"].split(", ")[1].replace("section", "sec."))
    name = row["source"].rpartition("/")[2].removesuffix(".json")
    return rf"{row['date']}, " + (rf"\texttt{{{name[:_CARD_LETTERS]}}}" if "/" in row["source"] else name)


def escaped(text: str) -> str:
    """Text as LaTeX prints it literally."""
    return "".join(_ESCAPES.get(character, character) for character in text)
