"""z from where a user has them: a file, or numbers on a contact sheet."""

import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import EvalkitError, printable

_NUMBERS = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_MOST_NUMBERS = 100_000  # listed at once
_DIGITS = 18


def read_z(text: str, *, z_dim: int, sheet: Path | None = None) -> Tensor:
    """z, float32 (n, z_dim), from numbers on a contact sheet ("3,17,40-42") or a .npy, .json or .csv file.

    Args:
        sheet: the folder that `evalkit latent sample` wrote.

    Raises:
        EvalkitError: no such file or number, a file without numbers, or z of another length.
    """
    if not _NUMBERS.fullmatch(text.replace(" ", "")):
        return _read_file(Path(text), z_dim)
    if sheet is None or not (sheet / "z.npy").is_file():
        place = f"in {sheet}" if sheet else "given"
        raise EvalkitError(
            f"{text}: numbers on a contact sheet, but there is none {place}; run `evalkit latent sample`"
        )
    z = _read_file(sheet / "z.npy", z_dim)
    try:
        return z[parse_numbers(text, below=len(z))]
    except EvalkitError as error:
        raise EvalkitError(f"{error} (the contact sheet in {sheet})") from None


def parse_numbers(text: str, *, below: int | None = None, most: int = _MOST_NUMBERS) -> list[int]:
    """The numbers in a text like "3,17,40-42". Checked before any of them is listed: a range may name billions.

    Args:
        below: every number is smaller than this.
        most: at most so many numbers.

    Raises:
        EvalkitError: text of another form, a range that ends before it begins, a number too large, or too many.
    """
    spaceless, shown = text.replace(" ", ""), _shown(text)
    if not _NUMBERS.fullmatch(spaceless):
        raise EvalkitError(f"{shown}: expected numbers, like 3,17,40-42")
    ranges = [_range(part, shown) for part in spaceless.split(",")]
    largest, count = max(each.stop for each in ranges) - 1, sum(each.stop - each.start for each in ranges)
    if below is not None and largest >= below:
        raise EvalkitError(f"{shown}: there are numbers 0 to {below - 1}, not {largest}")
    if count > most:
        raise EvalkitError(f"{shown}: {count:,} numbers, expected at most {most:,}")
    return [number for each in ranges for number in each]


def _range(part: str, shown: str) -> range:
    """ "40-42" as a range; numbers of more than 18 digits are refused, since `int` takes only so many."""
    first, _, last = part.partition("-")
    if max(len(first), len(last)) > _DIGITS:
        raise EvalkitError(f"{shown}: a number of more than {_DIGITS} digits, expected numbers like 3,17,40-42")
    if int(last or first) < int(first):
        raise EvalkitError(f"{shown}: no number in {part}; write the smaller one first, like 3-8")
    return range(int(first), int(last or first) + 1)


def _shown(text: str) -> str:
    """A text from elsewhere in a message: printable, and not longer than a line."""
    return printable(text if len(text) <= 60 else text[:57] + "...")


def _read_file(path: Path, z_dim: int) -> Tensor:
    try:
        z = np.atleast_2d(np.asarray(_READERS[path.suffix](path), dtype=np.float32))
    except KeyError:
        raise EvalkitError(f"{path}: expected z as numbers on a contact sheet, {', '.join(_READERS)}") from None
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file; expected one z per row") from None
    except (ValueError, TypeError, OSError) as error:
        raise EvalkitError(f"{path}: not readable as rows of numbers ({error})") from None
    if z.ndim != 2 or z.shape[1] != z_dim:
        found = f"of length {z.shape[1]}" if z.ndim == 2 else f"in an array of shape {z.shape}"
        raise EvalkitError(f"{path}: z {found}, this generator takes length {z_dim}; is it from another run?")
    if not np.isfinite(z).all():
        raise EvalkitError(f"{path}: holds values that are not finite; expected z between about -3 and 3")
    return torch.from_numpy(z)


_READERS = {
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": lambda path: np.loadtxt(path, delimiter=",", ndmin=2),
}
