"""Measured figures beside the published ones, as one table; its formats are in the modules beside this one.

The comparison for a terminal.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd

from evalkit.results import FOLDER, method_name, ordered

COLUMNS = (
    "dataset", "images", "protocol", "metric", "method", "value", "uncertainty", "uncertainty_type", "interval_low",
    "interval_high", "interval_type", "n", "origin", "source",
    "versus", "difference", "verdict", "hyperparameter", "date",
    "hardware",
)  # fmt: skip
PUBLISHED, MEASURED = "published", "measured"
LOSSY = "lossy JPEG"  # what `images` says of a copy of a data set that lost detail
_PAPER = "Radford et al. 2016"
_HEADLINES = ("DCGAN + L2-SVM", "DCGAN")  # the published rows that differences are taken to, unless:
_COUNTERPARTS = {
    "kmeans": "1-layer K-means",
    "supervised": "supervised CNN of the same architecture (validation error)",
    "pixels + kNN": "KNN",
}  # part of a measured method's name -> the published row it is compared with
_COSTS = {
    # ours is in benchmarks/results/cifar10.csv (an independent script had 73.7), the published one is Coates & Ng's
    "cifar10-jpeg": "K-means features (1,600 centroids, all labels) reach 73.3 % on these images and 77.9 % as "
    "published on the originals, so the loss costs 4 to 5 points",
}


def published() -> pd.DataFrame:
    """The published rows (Radford et al. 2016, tables 1 to 3) as packaged with evalkit."""
    with files("evalkit.report").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"protocol": str, "section": str})


def compare(results: pd.DataFrame) -> pd.DataFrame:
    """One table: for every data set and protocol measured, the published rows, then ours with difference and verdict.

    `difference` is to the published row in `versus`, the DCGAN's unless the method itself was published. The verdict
    is `within the spread` when the difference is at most the sum of both spreads (a published one that is not stated
    counts as 0); on other images than the published ones, such as a lossy copy of the data set, it says so instead.
    `source` is the published table, or the run card.
    """
    rows = []
    known = published()
    for (dataset, protocol), measured in ordered(results).groupby(["dataset", "protocol"], sort=False):
        there = known[(known["dataset"] == original(dataset)) & (known["protocol"] == protocol)]
        rows += [_published_row(row, str(dataset)) for _, row in there.iterrows()]
        for _, row in measured.iterrows():
            rows.append(_measured_row(row, _counterpart(method_name(row), there)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def original(dataset: object) -> str:
    """The data set that a copy is of: cifar10 for cifar10-jpeg."""
    return str(dataset).split("-")[0]


def images_of(dataset: str) -> str:
    """What the images are: the original ones, a lossy copy, or another variant."""
    if dataset.endswith("-jpeg"):
        return LOSSY
    return "original" if dataset == original(dataset) else "a variant"


def _counterpart(method: str, there: pd.DataFrame) -> pd.DataFrame:
    """The published row, of those there are, that a method is compared with; empty if there is none."""
    names = [name for part, name in _COUNTERPARTS.items() if part in method]
    same = there[there["method"].isin(names)]
    return there[there["method"].isin(_HEADLINES)] if same.empty else same


def _published_row(row: pd.Series, dataset: str) -> dict:
    kept = {key: row[key] for key in ("protocol", "metric", "method", "value", "uncertainty")}
    source = f"{_PAPER}, table {row['table']} (section {row['section']})"
    about = {"images": "original", "uncertainty_type": "as published", "n": "", "origin": PUBLISHED, "source": source}
    nothing = dict.fromkeys(("interval_type", "versus", "verdict", "hyperparameter", "date", "hardware"), "")
    return {"dataset": dataset, **kept, **about, **nothing}


def _measured_row(row: pd.Series, counterpart: pd.DataFrame) -> dict:
    same = ("dataset", "protocol", "metric", "uncertainty_type", "n", "hyperparameter", "date")
    kept = {key: row[key] for key in (*same, "interval_low", "interval_high", "interval_type")}
    value, spread, images = float(row["value"]), float(row["uncertainty"]), images_of(row["dataset"])
    versus, difference, verdict = "", float("nan"), ""
    if not counterpart.empty:
        versus = str(counterpart["method"].iloc[0])
        difference = value - float(counterpart["value"].iloc[0])
        allowed = spread + float(counterpart["uncertainty"].fillna(0).iloc[0])
        verdict = f"{'within' if abs(difference) <= allowed else 'outside'} the spread"
        verdict = verdict if images == "original" else "other images than the published"
    about = {
        "images": images,
        "method": method_name(row),
        "value": value,
        "uncertainty": spread,
        "origin": MEASURED,
    }
    source = f"{FOLDER}/{row['card']}.json" if row.get("card") else "no card"
    compared = {"versus": versus, "difference": difference, "verdict": verdict}
    return {**kept, **about, **compared, "source": source, "hardware": row["device"]}


@dataclass(frozen=True)
class Block:
    """The rows of one data set, protocol and metric: one printed table.

    Attributes:
        title: what was measured, with the images where they are not the original ones.
        rows: of `compare`, the published ones first.
        kinds: the names of the measured rows' spreads; a row's spread carries the letter of its kind's place.
        notes: sentences that belong under the table.
    """

    title: str
    rows: pd.DataFrame
    kinds: list[str]
    notes: list[str]

    def letter(self, row: pd.Series) -> str:
        """The mark of the row's kind of spread: a, b, ...; empty for published rows."""
        return "abcdefghij"[self.kinds.index(row["uncertainty_type"])] if row["origin"] == MEASURED else ""


def blocks(table: pd.DataFrame) -> Iterator[Block]:
    """The comparison cut into its tables."""
    for (dataset, protocol, metric), rows in table.groupby(["dataset", "protocol", "metric"], sort=False):
        measured = rows[rows["origin"] == MEASURED]
        notes = []
        if LOSSY in set(measured["images"]):
            cost = f": {_COSTS[dataset]}" if dataset in _COSTS else ""
            notes.append(
                f"JPEG: measured on a lossy JPEG copy of {original(dataset)}, "
                f"not on the images of the published rows{cost}."
            )
        name = f"{dataset} (lossy JPEG images)" if notes else dataset
        title = f"{name}, {labels_text(str(protocol))}: {str(metric).replace('_percent', '')} in %"
        yield Block(title, rows, sorted(set(measured["uncertainty_type"])), notes)


def labels_text(protocol: str) -> str:
    """A protocol's labels in words."""
    labels = "label" if protocol == "1" else "labels"
    return "all labels" if protocol == "all" else f"{protocol} {labels} a class" if protocol.isdigit() else protocol


def decimals(value: float, *, signed: bool = False) -> str:
    """Two decimals; empty for a number that is not there."""
    return "" if value != value else f"{value:+.2f}" if signed else f"{value:.2f}"


def value_text(row: pd.Series, block: Block, *, plus_minus: str = " ± ") -> str:
    """A row's value with its spread, the letter of the spread's kind, and the loss of the images beside it."""
    spread = decimals(row["uncertainty"])
    mark = f" ({block.letter(row)})" if spread and block.letter(row) else ""
    return decimals(row["value"]) + (plus_minus + spread + mark if spread else "") + lossy_mark(row)


def lossy_mark(row: pd.Series) -> str:
    """What stands beside every figure that was measured on lossy images."""
    return " JPEG" if row["images"] == LOSSY else ""


def as_csv(table: pd.DataFrame) -> str:
    """The comparison as CSV: fixed columns, two decimals, LF line ends."""
    formatted = table.copy()
    for column in ("value", "uncertainty", "interval_low", "interval_high", "difference"):
        formatted[column] = [decimals(value, signed=column == "difference") for value in table[column]]
    return formatted.to_csv(index=False, lineterminator="\n")


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
