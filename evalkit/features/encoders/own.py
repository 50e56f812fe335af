"""FILE.py:FACTORY or PACKAGE.MODULE:FACTORY: any nn.Module. The code runs with the user's rights, like any script.

FACTORY is called without arguments and returns the network. Its attribute `preprocessing`, if there is one, says how
pictures become tensors: a dictionary with fields of Preprocessing, by default pictures of any size in [0, 1].
"""

import importlib
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from evalkit.errors import ArtifactError, EvalkitError, one_line
from evalkit.features.encoders.encoder import Encoder, Preprocessing
from evalkit.features.encoders.hooked import HookedNetwork
from evalkit.features.encoders.weights import sha256_of
from evalkit.workspace import Workspace


def own_encoder(name: str, workspace: Workspace) -> Encoder:
    """The network that the user's factory makes; its hash covers its weights, its source file and its step."""
    place, _, factory = name.rpartition(":")
    module = _imported(place)
    if not callable(getattr(module, factory, None)):
        names = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise EvalkitError(f"{place}: no function or class {factory!r}; it defines {', '.join(names) or 'none'}")
    network = _made(getattr(module, factory), name)
    step = as_preprocessing(getattr(network, "preprocessing", {}), name)
    source = Path(inspect.getsourcefile(module) or "")
    parts = (source.read_bytes() if source.is_file() else b"", json.dumps(step.as_dict()).encode())
    return Encoder(f"{Path(place).name}:{factory}", HookedNetwork(network), step, sha256_of(network, *parts))


def _made(factory: Any, name: str) -> nn.Module:
    try:
        network = factory()
    except EvalkitError:
        raise
    except Exception as error:  # other people's code
        raise EvalkitError(f"{name}: the call failed ({one_line(error)})") from error
    if not isinstance(network, nn.Module):
        raise EvalkitError(f"{name}: returned {type(network).__name__}, expected a torch.nn.Module")
    return network


def _imported(place: str) -> ModuleType:
    path = Path(place)
    if path.suffix == ".py" and not path.is_file():
        raise ArtifactError(f"{place}: no such file, expected FILE.py:FACTORY")
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # as `python FILE.py` and `python -m` would
    try:
        return _from_file(path) if path.suffix == ".py" else importlib.import_module(place)
    except Exception as error:  # other people's code
        raise ArtifactError(f"{place}: cannot be imported ({one_line(error)})") from error
    finally:
        sys.path.remove(folder)


def _from_file(path: Path) -> ModuleType:
    name = f"evalkit_own_{path.stem}"  # hides no other module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_preprocessing(value: Any, name: str) -> Preprocessing:
    """A Preprocessing from a dictionary of its fields (lists for tuples).

    Raises:
        EvalkitError: no dictionary, or an unknown field; the message lists the fields.
    """
    if isinstance(value, Preprocessing):
        return value
    fields = ", ".join(Preprocessing.__dataclass_fields__)
    try:
        return Preprocessing(**{key: tuple(v) if isinstance(v, list) else v for key, v in value.items()})  # type: ignore[arg-type]
    except (TypeError, AttributeError) as error:
        raise EvalkitError(f"{name}: preprocessing: {error}; expected a dictionary with some of {fields}") from None
