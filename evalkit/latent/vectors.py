"""z from where a user has them: a file, or numbers on a contact sheet."""

import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import EvalkitError

_NUMBERS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


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
    z, numbers = _read_file(sheet / "z.npy", z_dim), parse_numbers(text)
    beyond = [number for number in numbers if number >= len(z)]
    if beyond:
        raise EvalkitError(f"{text}: the contact sheet in {sheet} has numbers 0 to {len(z) - 1}, not {beyond[0]}")
    return z[numbers]


def parse_numbers(text: str) -> list[int]:
    """The numbers in a text like "3,17,40-42".

    Raises:
        EvalkitError: text of another form, or a range that ends before it begins.
    """
    numbers: list[int] = []
    if not _NUMBERS.fullmatch(text.replace(" ", "")):
        raise EvalkitError(f"{text}: expected numbers, like 3,17,40-42")
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise EvalkitError(f"{text}: no number in {part}; write the smaller one first, like 3-8")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


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
