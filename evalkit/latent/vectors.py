"""z from where a user has them: a file, or numbers on a contact sheet."""

import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import EvalkitError

_NUMBERS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def read_vectors(text: str, *, z_dim: int, sheet: Path | None = None) -> Tensor:
    """z, float32 (n, z_length), from numbers on a contact sheet ("3,17,40-42") or a .npy, .json or .csv file.

    Args:
        sheet: the folder that `latent sample` wrote.

    Raises:
        EvalkitError: no such file or number, no numbers in it, or z of another length.
    """
    if not _NUMBERS.fullmatch(text.replace(" ", "")):
        return _checked(Path(text), z_dim)
    if sheet is None or not (sheet / "z.npy").is_file():
        place = f"in {sheet}" if sheet else "given"
        raise EvalkitError(
            f"{text}: numbers on a contact sheet, but there is none {place}; run `evalkit latent sample`"
        )
    z, numbers = _checked(sheet / "z.npy", z_dim), numbers_in(text)
    beyond = [number for number in numbers if number >= len(z)]
    if beyond:
        raise EvalkitError(f"{text}: the contact sheet in {sheet} has numbers 0 to {len(z) - 1}, not {beyond[0]}")
    return z[numbers]


def numbers_in(text: str) -> list[int]:
    """The numbers that a text like "3,17,40-42" lists.

    Raises:
        EvalkitError: something else in it, or a range that ends before it begins.
    """
    found: list[int] = []
    if not _NUMBERS.fullmatch(text.replace(" ", "")):
        raise EvalkitError(f"{text}: expected numbers, like 3,17,40-42")
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise EvalkitError(f"{text}: no number in {part}; write the smaller one first, like 3-8")
        found += range(int(first), int(last or first) + 1)
    return found


def _checked(path: Path, z_length: int) -> Tensor:
    try:
        z = np.atleast_2d(np.asarray(_READERS[path.suffix](path), dtype=np.float32))
    except KeyError:
        raise EvalkitError(f"{path}: expected z as numbers on a contact sheet, {', '.join(_READERS)}") from None
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file; expected z, one row each") from None
    except (ValueError, TypeError, OSError) as error:
        raise EvalkitError(f"{path}: not readable as rows of numbers ({error})") from None
    if z.ndim != 2 or z.shape[1] != z_length:
        found = f"of length {z.shape[1]}" if z.ndim == 2 else f"in an array of shape {z.shape}"
        raise EvalkitError(f"{path}: z {found}, this generator takes length {z_length}; is it from another run?")
    if not np.isfinite(z).all():
        raise EvalkitError(f"{path}: holds values that are no finite numbers; expected z between about -3 and 3")
    return torch.from_numpy(z)


_READERS = {
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": lambda path: np.loadtxt(path, delimiter=",", ndmin=2),
}
