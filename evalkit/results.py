"""results.csv and run cards: one row per measured result, and all that led to it.

`evaluate` writes them, `report` and `verify` read them.

results.csv                            one row per result (`Result`)
cards/NAME.json (beside results.csv)   how the result came about, and the hash of its predictions
cards/NAME.npz                         the predictions, and the labels that they were scored against

NAME is the start of the SHA-256 of the card's content: a card that was changed no longer has its name.
"""

import hashlib
import io
import json
import zipfile
import zlib
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evalkit.artifacts import FORMATS, check_format, locked, sha256_json, write_atomically, write_json
from evalkit.errors import ArtifactError

_NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured number.

    Attributes:
        dataset, encoder: names.
        num_features: D, features per image.
        protocol: "all" or the labels per class.
        metric: accuracy_percent or error_percent.
        value: in percent; the mean over fits.
        uncertainty, uncertainty_type: half width in percent points, and what it is: of single fits over label subsets,
            or over the test images.
        n: number of fits behind the value.
        C: selected on validation; empty for classifiers without one.
        search_range: the values of the hyperparameter that were tried.
        validation_percent: mean validation accuracy at the selected value.
        n_train, n_validation, n_test: rows.
        duality_gap: rigorous relative gap, the largest of all classes and fits.
        error_estimate: the solver's estimate of the relative error of the objective, the largest likewise.
        weights_sha256, features_sha256: of the encoder's weights and of features.npy.
        seed: of the validation split and the label subsets.
        seconds: wall time of the protocol without feature extraction.
        device, versions, date: where, with what and when it was measured.
        classifier: as tables name it, e.g. "L2-SVM".
        layers: the encoder's layers used; empty for all.
        scaling: "standardised" or "PCA-whitened"; empty for features as they are.
        hyperparameter: the value selected, e.g. "C = 0.0005".
        select_on: "validation", or "test" where --select-on test was given.
        std: sample standard deviation over fits (n - 1), in percent points; empty for one fit.
        interval_low, interval_high, interval_type: a 95 % interval in percent, and what it is of: the mean over fits,
            or the test images.
        label_subsets_sha256: of the validation rows and label subsets.
        card: name of the run card; empty where there is none.
    """

    dataset: str
    encoder: str
    num_features: int
    protocol: str
    metric: str
    value: float
    uncertainty: float
    uncertainty_type: str
    n: int
    C: float
    search_range: str
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
    # since version 0.2; rows of older files have these defaults
    classifier: str = "L2-SVM"
    layers: str = ""
    scaling: str = ""
    hyperparameter: str = ""
    select_on: str = "validation"
    std: float = _NAN
    interval_low: float = _NAN
    interval_high: float = _NAN
    interval_type: str = ""
    label_subsets_sha256: str = ""
    card: str = ""


COLUMNS = tuple(field.name for field in fields(Result))
KEY = [
    "dataset", "protocol", "encoder", "layers", "scaling",
    "classifier", "n", "features_sha256", "search_range", "select_on",
    "seed", "label_subsets_sha256",
]  # fmt: skip
_DEFAULTS = {field.name: field.default for field in fields(Result) if field.default is not MISSING}
_FORMATS = {
    "value": "{:.2f}",
    "uncertainty": "{:.2f}",
    "std": "{:.3f}",
    "interval_low": "{:.2f}",
    "interval_high": "{:.2f}",
    "C": "{:g}",
    "validation_percent": "{:.2f}",
    "duality_gap": "{:.1e}",
    "error_estimate": "{:.1e}",
    "seconds": "{:.1f}",
}


def method_name(row: pd.Series) -> str:
    """What tables call a row of results.csv: encoder and classifier, and whatever is not the protocol's default."""
    remarks = [str(row[key]) for key in ("layers", "scaling") if row[key]]
    remarks += ["release grid"] if str(row["search_range"]).startswith("release") else []
    remarks += ["C chosen on test"] if row["select_on"] == "test" else []
    return f"{row['encoder']} + {row['classifier']}" + (f" ({', '.join(remarks)})" if remarks else "")


def read_results(path: Path) -> pd.DataFrame:
    """All results of a results.csv, text columns as text; an empty table if there is no file.

    Columns that a later version added have their defaults where a file is older.

    Raises:
        ArtifactError: a file with other columns.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    texts = {field.name: str for field in fields(Result) if field.type in (str, "str")}
    empty = {field.name: [""] for field in fields(Result) if field.name not in texts}
    try:
        table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=empty)
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not readable as a table of results ({error})") from None
    odd = sorted(set(table.columns) ^ set(COLUMNS))
    if not set(odd) <= set(_DEFAULTS) or not set(table.columns) <= set(COLUMNS):
        raise ArtifactError(f"{path}: not a results.csv of this evalkit (columns that differ: {', '.join(odd)})")
    return table.assign(**{name: _DEFAULTS[name] for name in odd})[list(COLUMNS)]


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order of files and tables: by KEY, 20 labels per class before 100."""
    return table.sort_values(KEY, kind="stable", key=_by_number)


def _by_number(column: pd.Series) -> pd.Series:
    return column.str.zfill(9).where(column.str.isdecimal(), column) if column.name == "protocol" else column


def as_written(column: str, value: Any) -> str:
    """A value as results.csv holds it: numbers in the column's format, NaN and None as nothing."""
    if value is None or value != value:
        return ""
    return _FORMATS[column].format(float(value)) if column in _FORMATS else str(value)


def write_results(path: Path, table: pd.DataFrame) -> None:
    """Writes results in the fixed order of columns and rows, with LF line ends and fixed number formats; atomically."""
    table = ordered(table)[list(COLUMNS)].copy()
    for column in _FORMATS:
        table[column] = [as_written(column, value) for value in table[column]]
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, lineterminator="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def add_result(path: Path, result: Result) -> None:
    """Adds a result to results.csv, replacing the row of the same key; an empty hash of label subsets matches any."""
    with locked(path):
        table = read_results(path)
        row = pd.DataFrame([asdict(result)])
        same = pd.Series(True, index=table.index)
        for key in KEY:
            matching = [str(getattr(result, key)), *([""] if key == "label_subsets_sha256" else [])]
            same &= table[key].astype(str).isin(matching)
        kept = table[~same]
        write_results(path, row if kept.empty else pd.concat([kept, row], ignore_index=True))


KIND = "run card"
FOLDER = "cards"
Card = dict[str, Any]


def card_path(results: Path, name: str) -> Path:
    """Where the card `name` of a results.csv is."""
    return results.parent / FOLDER / f"{name}.json"


def write_card(results: Path, content: Card, *, predictions: np.ndarray, labels: np.ndarray) -> str:
    """Writes a card and its predictions, atomically, and returns the card's name.

    Args:
        results: the results.csv that the card stands beside.
        content: JSON values.
        predictions: integers (fits, test rows), predicted labels.
        labels: integers (test rows,).
    """
    packed = io.BytesIO()
    smallest = np.min_scalar_type(int(max(predictions.max(), labels.max())))
    np.savez_compressed(packed, predictions=predictions.astype(smallest), labels=labels.astype(smallest))
    sha256 = _arrays_sha256(predictions, labels)
    card = {"format": FORMATS[KIND], "kind": KIND, **content, "predictions_sha256": sha256}
    path = card_path(results, _name(card))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.with_suffix(".npz"), packed.getvalue())
    write_json(path, card)
    return path.stem


def _name(card: Card) -> str:
    return sha256_json(card)[:16]


def _arrays_sha256(*arrays: np.ndarray) -> str:
    """Hex SHA-256 of shapes and values; compressed bytes differ between versions of zlib."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode() + np.ascontiguousarray(array, "<i8").tobytes())
    return digest.hexdigest()


def read_card(results: Path, name: str) -> Card:
    """The card that a row of `results` names.

    Raises:
        ArtifactError: missing, not readable, of another format, or changed since it was written.
    """
    path = card_path(results, name)
    try:
        card = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such run card; copy the cards folder along with {results.name}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not readable as a run card ({error}); measure the result again") from None
    if not isinstance(card, dict) or card.get("kind") != KIND:
        raise ArtifactError(f"{path}: not a run card; measure the result again")
    check_format(path, card, KIND)
    if _name(card) != name:
        raise ArtifactError(f"{path}: changed since it was written (its content hashes to {_name(card)})")
    return card


def read_predictions(results: Path, name: str, card: Card) -> tuple[np.ndarray, np.ndarray]:
    """The predictions (fits, test rows) and labels (test rows,) behind a card, int64.

    Raises:
        ArtifactError: missing, or not what the card says they hash to.
    """
    path = card_path(results, name).with_suffix(".npz")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such predictions; copy the cards folder along with {results.name}")
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            predictions, labels = arrays["predictions"].astype(np.int64), arrays["labels"].astype(np.int64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"{path}: not readable as predictions ({error}); measure the result again") from None
    if _arrays_sha256(predictions, labels) != card["predictions_sha256"]:
        raise ArtifactError(f"{path}: its predictions are not those of the run card")
    return predictions, labels
