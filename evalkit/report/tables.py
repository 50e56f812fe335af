"""The comparison: measured results beside the published ones as one table, as CSV and as text for a terminal.

It starts from results.csv. `render` writes the same table, block by block, as LaTeX, Markdown and HTML.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pandas as pd

from evalkit.errors import printable
from evalkit.results import FOLDER, method_name, ordered, read_results

COLUMNS = (
    "dataset", "images", "protocol", "metric", "method", "value", "uncertainty", "uncertainty_type", "interval_low",
    "interval_high", "interval_type", "n", "n_train", "n_test", "origin", "source",
    "versus", "difference", "verdict", "hyperparameter", "date",
    "hardware",
)  # fmt: skip
PUBLISHED, MEASURED = "published", "measured"
ORIGINAL, PART, VARIANT = "original", "part", "a variant"  # what the images of a result are
_PAPER = "Radford et al. 2016"
_HEADLINES = ("DCGAN + L2-SVM", "DCGAN")  # the published rows that differences are taken to, unless:
_COUNTERPARTS = {
    "kmeans": "1-layer K-means",
    "supervised": "supervised CNN of the same architecture (validation error)",
    "pixels + kNN": "KNN",
}  # part of a measured method's name -> the published row it is compared with
_LETTERS = "abcdefghijklmnopqrstuvwxyz"  # one per type of uncertainty
_FORMULA = ("=", "+", "-", "@")  # what a cell begins with that a spreadsheet computes


def published_results() -> pd.DataFrame:
    """The published results (Radford et al. 2016, tables 1 to 3) as packaged with evalkit, one row per result."""
    with files("evalkit.report").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"protocol": str, "section": str})


def compare_with_published(results: Path | str | pd.DataFrame) -> pd.DataFrame:
    """One table: for every data set and protocol measured, the published rows, then the measured ones.

    `difference` is to the published row in `versus`: the DCGAN's, unless the method itself was published. `verdict` is
    `within the uncertainty` when the difference is at most the sum of both uncertainties (a published one that is not
    stated counts as 0). A part of a data set (svhn-part) gets a verdict like a whole one and is marked as a part in
    `images`; on other variants of the images the verdict says that they differ. `source` is the published table, or
    the run card.

    Args:
        results: a results.csv, or its rows.

    Raises:
        ArtifactError: a file with other columns.
    """
    measured = printable_text(results if isinstance(results, pd.DataFrame) else read_results(Path(results)))
    rows, published = [], published_results()
    for (dataset, protocol), group in ordered(measured).groupby(["dataset", "protocol"], sort=False):
        here = published[(published["dataset"] == original(dataset)) & (published["protocol"] == protocol)]
        rows += [_published_row(row, str(dataset)) for _, row in here.iterrows()]
        rows += [_measured_row(row, _counterpart(method_name(row), here)) for _, row in group.iterrows()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def printable_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table with each text on one line, control characters as escapes: names may come from anywhere."""
    return table.map(lambda value: printable(value) if isinstance(value, str) else value)


def original(dataset: object) -> str:
    """The data set that a part or variant is of: svhn for svhn-part."""
    return str(dataset).split("-")[0]


def images_kind(dataset: str) -> str:
    """What the images of a data set are: the original ones, a part of them, or a variant."""
    if dataset == original(dataset):
        return ORIGINAL
    return PART if dataset == f"{original(dataset)}-part" else VARIANT


def _counterpart(method: str, published: pd.DataFrame) -> pd.DataFrame:
    """The published row that a method is compared with; empty if there is none."""
    names = [name for part, name in _COUNTERPARTS.items() if part in method]
    same = published[published["method"].isin(names)]
    return published[published["method"].isin(_HEADLINES)] if same.empty else same


def _published_row(row: pd.Series, dataset: str) -> dict:
    kept = {key: row[key] for key in ("protocol", "metric", "method", "value", "uncertainty")}
    source = f"{_PAPER}, table {row['table']} (section {row['section']})"
    about = {"images": ORIGINAL, "uncertainty_type": "as published", "origin": PUBLISHED, "source": source}
    empty = ("interval_type", "n", "n_train", "n_test", "versus", "verdict", "hyperparameter", "date", "hardware")
    return {"dataset": dataset, **kept, **about, **dict.fromkeys(empty, "")}


def _measured_row(row: pd.Series, counterpart: pd.DataFrame) -> dict:
    copied = (
        "dataset", "protocol", "metric", "uncertainty_type", "n", "n_train", "n_test", "hyperparameter", "date",
        "interval_low", "interval_high", "interval_type",
    )  # fmt: skip
    return {
        **{key: row[key] for key in copied},
        **_verdict(row, counterpart),
        "images": images_kind(row["dataset"]),
        "method": method_name(row),
        "value": float(row["value"]),
        "uncertainty": float(row["uncertainty"]),
        "origin": MEASURED,
        "source": f"{FOLDER}/{row['card']}.json" if row.get("card") else "no card",
        "hardware": row["device"],
    }


def _verdict(row: pd.Series, counterpart: pd.DataFrame) -> dict:
    if counterpart.empty:
        return {"versus": "", "difference": float("nan"), "verdict": ""}
    published = counterpart.iloc[0]
    difference = float(row["value"]) - float(published["value"])
    allowed = float(row["uncertainty"]) + float(counterpart["uncertainty"].fillna(0).iloc[0])
    verdict = f"{'within' if abs(difference) <= allowed else 'outside'} the uncertainty"
    if images_kind(row["dataset"]) == VARIANT:
        verdict = "other images than the published"
    return {"versus": str(published["method"]), "difference": difference, "verdict": verdict}


@dataclass(frozen=True)
class Block:
    """The rows of one data set, protocol and metric: one printed table.

    Attributes:
        title: what was measured, and of which data set the images are a part.
        rows: of `compare_with_published`, the published ones first.
        uncertainty_types: of the measured rows; an uncertainty carries the letter of its type's position.
        notes: sentences that belong under the table.
    """

    title: str
    rows: pd.DataFrame
    uncertainty_types: list[str]
    notes: list[str]

    @property
    def dataset(self) -> str:
        return str(self.rows["dataset"].iloc[0])

    @property
    def protocol(self) -> str:
        return str(self.rows["protocol"].iloc[0])

    @property
    def metric_name(self) -> str:
        """ "error" or "accuracy"."""
        return metric_name(str(self.rows["metric"].iloc[0]))

    @property
    def hardware(self) -> str:
        """What the rows were measured on, each device once."""
        return "; ".join(sorted(set(self.rows["hardware"][self.rows["origin"] == MEASURED])))

    def letter(self, row: pd.Series) -> str:
        """The mark of the row's type of uncertainty: a, b, ...; empty for published rows."""
        if row["origin"] != MEASURED:
            return ""
        place = self.uncertainty_types.index(row["uncertainty_type"])
        return _LETTERS[place] if place < len(_LETTERS) else str(place + 1)

    def footnotes(self) -> list[str]:
        """What the letters beside the uncertainties mean, and the notes."""
        marks = [*_LETTERS, *(str(place + 1) for place in range(len(_LETTERS), len(self.uncertainty_types)))]
        pairs = zip(marks, self.uncertainty_types, strict=False)
        return [f"{mark}: ± {uncertainty_type}" for mark, uncertainty_type in pairs] + self.notes


def blocks(table: pd.DataFrame) -> Iterator[Block]:
    """The comparison cut into its printed tables."""
    for (dataset, protocol, metric), rows in table.groupby(["dataset", "protocol", "metric"], sort=False):
        measured = rows[rows["origin"] == MEASURED]
        title = f"{named(str(dataset))}, {labels_text(str(protocol))}: {metric_name(str(metric))} in %"
        yield Block(title, rows, sorted(set(measured["uncertainty_type"])), _notes(str(dataset), measured))


def _notes(dataset: str, measured: pd.DataFrame) -> list[str]:
    if images_kind(dataset) != PART or measured.empty:
        return []
    train, test = (max(measured[column].astype(int)) for column in ("n_train", "n_test"))
    return [
        f"part: measured on a part of {original(dataset)}, fitted on {train:,} and tested on {test:,} images; "
        "the published rows are on all of it."
    ]


def named(dataset: str) -> str:
    """A data set's name, with what it is a part of."""
    return f"{dataset} (part of {original(dataset)})" if images_kind(dataset) == PART else dataset


def metric_name(metric: str) -> str:
    """ "error" for error_percent, else "accuracy"."""
    return "error" if "error" in metric else "accuracy"


def labels_text(protocol: str) -> str:
    """A protocol's labels in words."""
    labels = "label" if protocol == "1" else "labels"
    return "all labels" if protocol == "all" else f"{protocol} {labels} per class" if protocol.isdigit() else protocol


def decimals(value: float, *, signed: bool = False) -> str:
    """Two decimals; empty for NaN."""
    return "" if value != value else f"{value:+.2f}" if signed else f"{value:.2f}"


def value_text(row: pd.Series, block: Block) -> str:
    """A row's value with its uncertainty, the letter of the uncertainty's type, and whether the images are a part."""
    uncertainty = decimals(row["uncertainty"])
    letter = f" ({block.letter(row)})" if uncertainty and block.letter(row) else ""
    return decimals(row["value"]) + (f" ± {uncertainty}{letter}" if uncertainty else "") + part_mark(row)


def part_mark(row: pd.Series) -> str:
    """What stands beside every result that was measured on a part of a data set."""
    return f" {PART}" if row["images"] == PART else ""


def as_csv(table: pd.DataFrame) -> str:
    """The comparison as CSV: fixed columns, two decimals, LF line ends.

    Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    formatted = table.map(_no_formula)
    for column in ("value", "uncertainty", "interval_low", "interval_high", "difference"):
        formatted[column] = [decimals(value, signed=column == "difference") for value in table[column]]
    return formatted.to_csv(index=False, lineterminator="\n")


def _no_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(_FORMULA) else value


def report_text(table: pd.DataFrame) -> str:
    """The comparison for a terminal: one block per data set and protocol."""
    return "\n".join(_text_block(block) for block in blocks(table))


def _text_block(block: Block) -> str:
    lines = [block.title, *(_text_line(row, block) for _, row in block.rows.iterrows())]
    return "\n".join(lines + [f"  ({note})" for note in block.footnotes()]) + "\n"


def _text_line(row: pd.Series, block: Block) -> str:
    origin = PUBLISHED if row["origin"] == PUBLISHED else f"measured, n = {row['n']}"
    difference = f"{decimals(row['difference'], signed=True)}  {row['verdict']}" if row["versus"] else ""
    return f"  {row['method']:<58} {value_text(row, block):<23} {origin:<17} {difference}".rstrip()
