"""The report's formats, by the suffix of the file to write."""

from collections.abc import Callable
from pathlib import Path

from evalkit.artifacts import write_atomically
from evalkit.errors import EvalkitError
from evalkit.report.data import ReportData
from evalkit.report.html import as_html
from evalkit.report.latex import as_latex
from evalkit.report.markdown import as_markdown
from evalkit.report.tables import as_csv

FORMATS: dict[str, Callable[[ReportData, Path], str]] = {
    ".csv": lambda material, target: as_csv(material.table),
    ".tex": lambda material, target: as_latex(material.table),
    ".md": as_markdown,
    ".html": lambda material, target: as_html(material),
}


def write_report(material: ReportData, target: Path) -> None:
    """Writes the report to `target`, atomically, in the format of its suffix.

    Raises:
        EvalkitError: another suffix; the message lists the known ones.
    """
    if target.suffix not in FORMATS:
        raise EvalkitError(f"{target}: no format for {target.suffix!r}; expected a file in {', '.join(FORMATS)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, FORMATS[target.suffix](material, target))
