"""Measured figures beside the published ones."""

from importlib.resources import files

import pandas as pd

from evalkit.results import method_name

COLUMNS = (
    "dataset", "protocol", "metric", "method", "value", "spread", "spread_kind", "n", "origin", "difference", "verdict",
)  # fmt: skip
_HEADLINE = "DCGAN + L2-SVM"  # the published row that differences are taken to


def published() -> pd.DataFrame:
    """The published rows (Radford et al. 2016, tables 1 and 2) as packaged with evalkit."""
    with files("evalkit.report").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"protocol": str})


def compare(results: pd.DataFrame) -> pd.DataFrame:
    """One table: for every data set and protocol measured, the published rows, then ours with difference and verdict.

    `difference` is to the published DCGAN row. The verdict is `within the spread` when the difference is at most the
    sum of both spreads (a published one that is not stated counts as 0); on other pictures than the published ones,
    such as a lossy copy of the data set, it says so instead.
    """
    rows = []
    known = published()
    for (dataset, protocol), measured in results.groupby(["dataset", "protocol"], sort=True):
        original = str(dataset).split("-")[0]
        there = known[(known["dataset"] == original) & (known["protocol"] == protocol)]
        rows += [_published_row(row, str(dataset)) for _, row in there.iterrows()]
        headline = there[there["method"] == _HEADLINE]
        for _, row in measured.sort_values(["encoder", "grid", "seed"]).iterrows():
            rows.append(_measured_row(row, headline, same_pictures=dataset == original))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _published_row(row: pd.Series, dataset: str) -> dict:
    kept = {key: row[key] for key in ("protocol", "metric", "method", "value", "spread")}
    about = {"spread_kind": "as published", "n": "", "origin": f"published ({row['source']})"}
    return {"dataset": dataset, **kept, **about, "difference": float("nan"), "verdict": ""}


def _measured_row(row: pd.Series, headline: pd.DataFrame, *, same_pictures: bool) -> dict:
    kept = {key: row[key] for key in ("dataset", "protocol", "metric", "spread_kind", "n")}
    value, spread = float(row["value"]), float(row["spread"])
    method = method_name(row)
    difference, verdict = float("nan"), ""
    if not headline.empty:
        difference = value - float(headline["value"].iloc[0])
        allowed = spread + float(headline["spread"].fillna(0).iloc[0])
        verdict = f"{'within' if abs(difference) <= allowed else 'outside'} the spread"
        verdict = verdict if same_pictures else "other pictures than the published"
    about = {"value": value, "spread": spread, "origin": "measured", "difference": difference, "verdict": verdict}
    return {**kept, "method": method, **about}


def as_csv(table: pd.DataFrame) -> str:
    """The comparison as CSV: fixed columns, two decimals, LF line ends."""
    formatted = table.copy()
    for column in ("value", "spread", "difference"):
        formatted[column] = [_decimals(value) for value in table[column]]
    return formatted.to_csv(index=False, lineterminator="\n")


def as_text(table: pd.DataFrame) -> str:
    """The comparison for a terminal: a block a data set and protocol."""
    blocks = []
    for (dataset, protocol, metric), rows in table.groupby(["dataset", "protocol", "metric"], sort=False):
        labels = "all labels" if protocol == "all" else f"{protocol} labels a class"
        blocks.append(f"{dataset}, {labels}: {str(metric).replace('_percent', '')} in %")
        blocks += [_line(row) for _, row in rows.iterrows()]
        spreads = sorted({kind for kind in rows["spread_kind"] if kind != "as published"})
        blocks.append(f"  (± {'; '.join(spreads)})" + "\n")
    return "\n".join(blocks)


def _line(row: pd.Series) -> str:
    spread = f"± {_decimals(row['spread'])}" if _decimals(row["spread"]) else ""
    difference = f"{row['difference']:+.2f}  {row['verdict']}" if row["difference"] == row["difference"] else ""
    origin = "published" if str(row["origin"]).startswith("published") else f"measured, n = {row['n']}"
    return f"  {row['method']:<58} {row['value']:6.2f} {spread:<7} {origin:<16} {difference}".rstrip()


def _decimals(value: float) -> str:
    return "" if value != value else f"{value:.2f}"
