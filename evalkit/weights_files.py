"""Weights from files: safetensors and torch's own format, read without running what is in them.

Encoders, imports of pretrained weights, K-means dictionaries and checkpoints read their tensors here, so that a damaged
or hostile file is one line in each.
"""

import argparse
import collections
import pathlib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evalkit.errors import ArtifactError, one_line, printable

_EXPECTED = "expected .safetensors, or a state dict that torch.save wrote"
_DEPTH = 8  # dictionaries inside one another; checkpoints of training scripts have 2 or 3
_NUMPY_SCALAR: Any = np.float64(0).__reduce__()[0]
# what training scripts store beside the weights; building one of these runs no code of the file's
_INERT: list[Any] = [
    argparse.Namespace,
    collections.defaultdict,
    pathlib.PosixPath,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int64", "bool")),
    *((_NUMPY_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; those in dictionaries inside one another have names like "model.conv.weight".

    The content decides between safetensors and torch's format, not the suffix.

    Raises:
        ArtifactError: no such file, or not a file of tensors.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; {_EXPECTED}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about old formats
            tensors = load_file(path) if _is_safetensors(path) else dict(_flat(_torch_load(path)))
    except Exception as error:  # a damaged file makes the libraries raise almost anything
        raise ArtifactError(f"{path}: not a file of weights ({_reason(error)}); {_EXPECTED}") from None
    if not tensors:
        raise ArtifactError(f"{path}: not a file of weights (it holds no tensor); {_EXPECTED}")
    return tensors


def _is_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (head[8:] == b"{" and head[:2] != b"PK")


def _torch_load(path: Path) -> Any:
    with torch.serialization.safe_globals(_INERT):
        return torch.load(path, map_location="cpu", weights_only=True)


def _flat(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The tensors in dictionaries inside one another; anything else in them, and optimizers' states, is left out."""
    if isinstance(value, Tensor):
        yield name, value.detach()
    elif isinstance(value, Mapping) and depth < _DEPTH:
        for key, each in value.items():
            if "optim" not in str(key) or isinstance(each, Tensor):
                yield from _flat(each, f"{name}.{key}" if name else str(key), depth + 1)


def _reason(error: Exception) -> str:
    """Why a file could not be read; torch's advice to load it unsafely is left out."""
    refused = re.search(r"Unsupported (?:global|class)\W+(?:GLOBAL )?([\w.]+)", str(error))
    if refused:
        return (
            f"{printable(refused[1])} in it is code; save the weights alone, with torch.save(module.state_dict(), FILE)"
        )
    return printable(one_line(error).split(" This file can still be loaded")[0])


def listed(names: Collection[str], limit: int = 5) -> str:
    """The first names, for a message, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(printable(name[:80]) for name in ordered[:limit]) + more


def refuse_not_finite(tensors: Mapping[str, Tensor], who: str, *, parameters: Collection[str] | None = None) -> None:
    """Refuses weights with NaN, or infinite parameters; a buffer may be infinite (masks of attention are).

    Args:
        tensors: by name.
        who: how the message begins.
        parameters: names of those that are parameters; None: all are.

    Raises:
        ArtifactError: the message names the tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or is_empty_shell(tensor) or bool(torch.isfinite(tensor).all()):
            continue
        wrong = int(torch.isnan(tensor).sum())
        if wrong or parameters is None or name in parameters:
            count = wrong or int(torch.isinf(tensor).sum())
            raise ArtifactError(
                f"{who}: {count:,} of the {tensor.numel():,} numbers in {printable(name)} are "
                f"{'NaN' if wrong else 'infinite'}; the training has diverged or the file is damaged, take another one"
            )


def is_empty_shell(tensor: Tensor) -> bool:
    """Whether a tensor has no numbers yet: those of lazy layers before their first batch, or on the meta device."""
    return isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)) or tensor.is_meta
