"""FILE.pt and FILE.pt2: networks saved as programs by TorchScript or torch.export.

Such a file is code: TorchScript interprets the program in it, torch.export builds one from expressions in it. Load
only what you would trust as a script. torch.export's loader would also unpickle some parts and load compiled libraries;
a file with such parts is refused before it is loaded.

A file `preprocessing.json` stored with the program (`extra_files`) says how images become tensors.
"""

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.artifacts import sha256_file
from evalkit.encoders.encoder import BatchNorm, Encoder, Network, Reduce
from evalkit.encoders.module import as_preprocessing, named_outputs
from evalkit.errors import EvalkitError, one_line

_PREPROCESSING = "preprocessing.json"
_PLAIN_PARTS = ("models/", "data/weights/", "data/constants/", "data/sample_inputs/", "extra/", ".data/")
_PLAIN_FILES = ("archive_format", "archive_version", "byteorder", "version")


def program_encoder(name: str) -> Encoder:
    """The program in a file; its layers are what it returns.

    Raises:
        EvalkitError: no such file, no program in it, or one that would run code when loaded.
    """
    path = Path(name)
    if not path.is_file():
        raise EvalkitError(f"{path}: no such file; expected a TorchScript (.pt) or torch.export (.pt2) program")
    if not zipfile.is_zipfile(path):
        raise EvalkitError(f"{path}: not a TorchScript or torch.export file (it is not a zip archive)")
    extra = {_PREPROCESSING: ""}
    try:
        program = _exported(path, extra) if path.suffix == ".pt2" else _scripted(path, extra)
        fields = json.loads(extra[_PREPROCESSING] or "{}")
    except EvalkitError:
        raise
    except Exception as error:  # whatever torch's two loaders raise
        raise EvalkitError(f"{path}: cannot be loaded as a program ({one_line(error)})") from error
    preprocessing = as_preprocessing(fields, str(path))
    return Encoder(path.name, ProgramNetwork(program), preprocessing, sha256_file(path), str(path.resolve()))


def _scripted(path: Path, extra: dict[str, Any]) -> nn.Module:
    with zipfile.ZipFile(path) as archive:
        if not any("/code/" in name for name in archive.namelist()):
            raise EvalkitError(
                f"{path}: holds no program; weights alone go with a network of a library (torchvision:NAME:{path}) or "
                "with a module of yours (FILE.py:FACTORY)"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises torch.export
        program = torch.jit.load(path, map_location="cpu", _extra_files=extra)
    return program.eval()


def _exported(path: Path, extra: dict[str, Any]) -> nn.Module:
    _refuse_pickles(path)
    return torch.export.load(path, extra_files=extra).module()


def _refuse_pickles(path: Path) -> None:
    """Refuses what torch.export.load would unpickle or load as a library.

    Raises:
        EvalkitError: the message names the part.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            part = name.partition("/")[2]
            plain = part.startswith(_PLAIN_PARTS) or part in _PLAIN_FILES
            content = archive.read(name) if part.startswith("data/") else b""
            if not plain or not _plain_content(part, content):
                raise EvalkitError(
                    f"{path}: its part {name} would run code when loaded, or is of an older format; expected "
                    "plain tensors as torch.export.save of this torch writes them"
                )


def _plain_content(part: str, content: bytes) -> bool:
    if part.endswith("_config.json"):
        entries = json.loads(content)["config"].values()
        return not any(e["use_pickle"] or not e["path_name"].startswith(("weight_", "tensor_")) for e in entries)
    if part.startswith("data/sample_inputs/"):
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):
            return False
        return True
    return not part.endswith(".pt")


class ProgramNetwork(Network):
    """Layers: "output", or "output.NAME" for each tensor that the program returns; batch norms are as saved."""

    default = ()

    def __init__(self, program: nn.Module):
        super().__init__()
        self._held = (program,)  # not a submodule: an exported program refuses eval()

    def _apply(self, fn: Callable, recurse: bool = True) -> "ProgramNetwork":
        self._held[0]._apply(fn)
        return self

    def forward(
        self, images: Tensor, layers: Sequence[str] | None = None, reduce: Reduce | None = None
    ) -> dict[str, Tensor]:
        outputs = {}
        for name, output in named_outputs(self._held[0](images)).items():
            if isinstance(output, Tensor) and output.is_floating_point() and (layers is None or name in layers):
                outputs[name] = reduce(name, output) if reduce else output
        return outputs

    def batch_norms(self) -> dict[str, BatchNorm]:
        return {}

    def optimized_for_inference(self, layers: Sequence[str], *, precision: str, sample: Tensor) -> nn.Module:
        return self  # its precision is the one it was saved in
