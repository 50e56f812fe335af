"""results.csv: one row a measured figure, with all it takes to find out how it came about."""

import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd

from evalkit.artifacts import locked, write_atomically
from evalkit.errors import ArtifactError


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        dataset, encoder: names; features: D, numbers a picture.
        protocol: "all" or labels a class; metric: accuracy_percent or error_percent.
        value, spread: in percent; spread_kind names what the spread is; n: fits behind the value.
        C: chosen on validation; grid: the C values tried; validation_percent: accuracy there.
        n_train, n_validation, n_test: rows.
        duality_gap: rigorous relative gap, the largest of all classes and fits.
        error_estimate: the solver's estimate of the relative error of the objective, likewise.
        weights_sha256, features_sha256: of the encoder's weights and of features.npy.
        seconds: wall time of the protocol without feature extraction.
    """

    dataset: str
    encoder: str
    features: int
    protocol: str
    metric: str
    value: float
    spread: float
    spread_kind: str
    n: int
    C: float
    grid: str
    validation_percent: float
    n_train: int
    n_validation: int
    n_test: int
    duality_gap: float
    error_estimate: float
    weights_sha256: str
    features_sha256: str
    seed: int
    seconds: float
    device: str
    versions: str
    date: str


COLUMNS = tuple(field.name for field in fields(Figure))
KEY = ["dataset", "protocol", "encoder", "features_sha256", "grid", "seed"]
_FORMATS = {
    "value": "{:.2f}",
    "spread": "{:.2f}",
    "C": "{:g}",
    "validation_percent": "{:.2f}",
    "duality_gap": "{:.1e}",
    "error_estimate": "{:.1e}",
    "seconds": "{:.1f}",
}


def read_results(path: Path) -> pd.DataFrame:
    """All figures of a results.csv; text columns as text, an empty table when there is no file.

    Raises:
        ArtifactError: a file with other columns.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    texts = {field.name: str for field in fields(Figure) if field.type in (str, "str")}
    try:
        table = pd.read_csv(path, dtype=texts, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not readable as a table of figures ({error})") from None
    if tuple(table.columns) != COLUMNS:
        odd = sorted(set(table.columns) ^ set(COLUMNS))
        raise ArtifactError(
            f"{path}: not a results.csv of this evalkit (columns that differ: {', '.join(odd) or 'order'})"
        )
    return table


def write_results(path: Path, table: pd.DataFrame) -> None:
    """Writes figures in the fixed order of columns and rows, LF line ends, fixed number formats; atomically."""
    table = table.sort_values(KEY, kind="stable")[list(COLUMNS)].copy()
    for column, form in _FORMATS.items():
        table[column] = [form.format(float(value)) for value in table[column]]
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, lineterminator="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def add_figure(path: Path, figure: Figure) -> None:
    """Puts a figure into results.csv, replacing the row of the same key."""
    with locked(path):
        table = read_results(path)
        row = pd.DataFrame([asdict(figure)])
        same = pd.Series(True, index=table.index)
        for key in KEY:
            same &= table[key].astype(str) == str(getattr(figure, key))
        kept = table[~same]
        write_results(path, row if kept.empty else pd.concat([kept, row], ignore_index=True))
