"""results.csv and run cards: one row per measured result, and all that led to it.

`evaluate` writes them, `report` and `verify` read them.

results.csv                            one row per result (`Result`)
cards/NAME.json (beside results.csv)   how the result came about, and the hash of its predictions
cards/NAME.npz                         the predictions, and the labels that they were scored against

NAME is the start of the SHA-256 of the card's content: a card that was changed no longer has its name.
"""

import csv
import hashlib
import io
import logging
import math
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evalkit.artifacts import FORMATS, check_format, read_json, safe_name, sha256_json, write_atomically, write_json
from evalkit.errors import ArtifactError, one_line, printable
from evalkit.locks import LockedError, locked
from evalkit.pending_results import keep_pending, read_pending

_NAN = float("nan")
_WAIT = 15.0  # seconds for a command that holds results.csv, which takes it a moment
logger = logging.getLogger(__name__)


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
        search_range: the values of the hyperparameter that were tried, and which end of them is still best.
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
Bounds = tuple[type, float, float]  # int or float, the smallest value and the largest
_PERCENT: Bounds = (float, 0, 100)
_COUNT: Bounds = (int, 0, 10**15)
_NUMBERS: dict[str, Bounds] = {
    "num_features": _COUNT,
    "value": _PERCENT,
    "uncertainty": (float, 0, 1000),
    "n": _COUNT,
    "C": (float, 0, 1e300),
    "validation_percent": _PERCENT,
    "n_train": _COUNT,
    "n_validation": _COUNT,
    "n_test": _COUNT,
    "duality_gap": (float, -math.inf, math.inf),
    "error_estimate": (float, -math.inf, math.inf),
    "seed": (int, 0, 2**63 - 1),
    "seconds": (float, 0, 1e15),
    "std": (float, 0, 1000),
    "interval_low": (float, -1000, 1000),
    "interval_high": (float, -1000, 1000),
}
_LARGEST = 64 * 2**20  # bytes of a table: 100,000 results take half of it
_LONGEST_NUMBER = 40  # letters; int() takes only so many
_DEFAULTS = {field.name: field.default for field in fields(Result) if field.default is not MISSING}
_TEXTS = tuple(name for name in COLUMNS if name not in _NUMBERS)
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
    remarks += ["release C grid"] if str(row["search_range"]).startswith("release") else []
    remarks += ["at the end of its search"] if "end best" in str(row["search_range"]) else []
    remarks += ["C selected on test"] if row["select_on"] == "test" else []
    return f"{row['encoder']} + {row['classifier']}" + (f" ({', '.join(remarks)})" if remarks else "")


def read_results(path: Path) -> pd.DataFrame:
    """All results of a results.csv, text columns as text; an empty table if there is no file.

    Columns that a later version added have their defaults where a file is older.

    Raises:
        ArtifactError: a file with other columns, or a damaged one; the message names the line.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    table = read_table(path, texts=_TEXTS, numbers=_NUMBERS, optional=_DEFAULTS)
    if table["value"].isna().any():
        line = 2 + int(table["value"].isna().to_numpy().argmax())
        raise ArtifactError(f"{path}: line {line} has no value; restore the line, or remove it")
    return table.assign(**{name: _DEFAULTS[name] for name in COLUMNS if name not in table.columns})[list(COLUMNS)]


def read_table(
    path: Path,
    *,
    texts: Collection[str],
    numbers: Mapping[str, Bounds],
    optional: Collection[str] = (),
    further: bool = False,
) -> pd.DataFrame:
    """The rows of a CSV file that may be damaged, or another program's: every field is checked.

    Args:
        texts: columns of text.
        numbers: columns of numbers -> int or float, smallest value, largest value; an empty field of floats is NaN.
        optional: columns that may be missing.
        further: leave other columns out, instead of refusing them.

    Raises:
        ArtifactError: other columns, a line with another number of fields, or a field that is no such number.
    """
    header, rows = _read_csv(path)
    missing = {*texts, *numbers} - set(header) - set(optional)
    unknown = set() if further else set(header) - {*texts, *numbers}
    if missing or unknown:
        differing = ", ".join(map(printable, sorted(missing | unknown)))
        raise ArtifactError(f"{path}: not a {path.name} of this evalkit (columns that differ: {differing[:300]})")
    columns: dict[str, pd.Series] = {}
    for place, name in enumerate(header):
        fields = [row[place] for row in rows]
        if name in texts:
            columns[name] = pd.Series(fields, dtype=str)
        elif name in numbers:
            values = [
                _number(f"{path}: line {line}, {name}", each, numbers[name]) for line, each in enumerate(fields, 2)
            ]
            columns[name] = pd.Series(values, dtype="int64" if numbers[name][0] is int else "float64")
    return pd.DataFrame(columns)


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file, all of one length."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise ValueError(f"not a file of at most {_LARGEST:,} bytes")
        with open(path, encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file, strict=True) if row] or [[]]
    except (ValueError, csv.Error) as error:
        reason = printable(str(error))
        raise ArtifactError(f"{path}: not readable as a table ({reason}); copy it again from where it came") from None
    if len(set(header)) < len(header):
        raise ArtifactError(f"{path}: a column occurs twice; copy it again from where it came")
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ArtifactError(f"{path}: line {line} has {len(row)} fields, expected {len(header)}; restore the line")
    return header, rows


def _number(place: str, text: str, bounds: Bounds) -> float:
    kind, low, high = bounds
    if text == "" and kind is float:
        return _NAN
    try:
        value = kind(text) if len(text) <= _LONGEST_NUMBER and "_" not in text else None
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        wanted = "a whole number" if kind is int else "a number"
        raise ArtifactError(f"{place} is {text[:40]!r}, expected {wanted} from {low:g} to {high:g}; restore the line")
    return value


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
    """Adds a result to results.csv, replacing the row of the same key; an empty hash of label subsets matches any.

    Where another command holds the file for long, the result is kept beside it until the next one is added.
    """
    texts: dict[str, Any] = {name: printable(str(getattr(result, name))) for name in _TEXTS}
    result = replace(result, **texts)
    try:
        with locked(path, wait=_WAIT):
            waiting = read_pending(path, lambda row: Result(**dict.fromkeys(COLUMNS, _NAN) | row))
            table = read_results(path)
            for each in (*waiting.values(), result):
                table = _with_row(table, each)
            write_results(path, table)
            for file in waiting:
                file.unlink(missing_ok=True)
    except LockedError as error:
        folder = keep_pending(path, asdict(result))
        logger.warning("%s; the result is in %s and joins the table with the next one", error, folder)


def _with_row(table: pd.DataFrame, result: Result) -> pd.DataFrame:
    row = pd.DataFrame([asdict(result)])
    same = pd.Series(True, index=table.index)
    for key in KEY:
        matching = [str(getattr(result, key)), *([""] if key == "label_subsets_sha256" else [])]
        same &= table[key].astype(str).isin(matching)
    kept = table[~same]
    return row if kept.empty else pd.concat([kept, row], ignore_index=True)


KIND = "run card"
_CARD_NAME = re.compile("[0-9a-f]{16}")
_MOST_PREDICTIONS = 2**27  # as int64 they take 1 GB: 1,000 fits on 134,000 images
FOLDER = "cards"
Card = dict[str, Any]


def card_path(results: Path, name: str) -> Path:
    """Where the card `name` of a results.csv is."""
    return results.parent / FOLDER / f"{safe_name(name, 'run card')}.json"


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
    if not _CARD_NAME.fullmatch(name):
        raise ArtifactError(f"{results}: {name[:40]!r} is no name of a run card; measure the result again")
    path = card_path(results, name)
    try:
        card = read_json(path)
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
        with zipfile.ZipFile(path) as archive:
            predictions, labels = (_read_integers(archive, each) for each in ("predictions", "labels"))
    except OSError:
        raise
    except Exception as error:  # zip members and headers of arrays may hold anything
        raise ArtifactError(f"{path}: not readable as predictions ({one_line(error)}); measure it again") from None
    if _arrays_sha256(predictions, labels) != card.get("predictions_sha256"):
        raise ArtifactError(f"{path}: its predictions are not those of the run card")
    return predictions, labels


def _read_integers(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of integers in a .npz file, int64; its header is checked against the file before memory is taken."""
    members = [each for each in archive.infolist() if each.filename == f"{name}.npy"]
    if len(members) != 1:
        raise ValueError(f"holds {name} {len(members)} times")
    with archive.open(members[0]) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} in another version of the format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        size = math.prod(shape)
        if dtype.kind not in "ui" or fortran or not 0 <= size <= _MOST_PREDICTIONS:
            raise ValueError(f"{name} of {dtype} in shape {shape}")
        content = file.read(size * dtype.itemsize + 1)
    if len(content) != size * dtype.itemsize:
        raise ValueError(f"{name} of another size than its header says")
    return np.frombuffer(content, dtype).reshape(shape).astype(np.int64)
