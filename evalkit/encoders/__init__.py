"""Encoders: a network with its preprocessing, from a name, a path or a module. The kinds of names are listed here.

`features.extract` runs what `load_encoder` returns. The module of a kind is imported when the kind is used, so that
importing this package loads neither the GAN nor torchvision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from evalkit.artifacts import MANIFEST
from evalkit.encoders.encoder import Encoder as Encoder
from evalkit.encoders.encoder import Preprocessing
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.workspace import Workspace

Home = Workspace | Path | str | None


def load_encoder(
    encoder: "str | Path | nn.Module | Encoder" = "latest",
    *,
    home: Home = None,
    name: str | None = None,
    size: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    range: Sequence[float] | None = None,
    weights: Path | str | None = None,
    download: bool = True,
) -> Encoder:
    """An encoder from a name, a path, a module or an encoder.

    A module is copied: its parameters, buffers and training flag stay as they are. A FACTORY in a file or package is
    code that runs with the user's rights.

    Args:
        encoder: a name of one of the forms in ENCODERS, the path of a run or checkpoint, any `nn.Module`, or an
            `Encoder`, which is returned as it is unless something below changes it.
        home: the workspace that names of runs and weights are looked up in; by default a temporary one.
        name: name in features and results; by default the name given, or the module's class name.
        size: height and width of the network's input; images of another size are resized to it.
        mean, std: subtracted from the input and divided by, one value or one per channel.
        range: (low, high), the values that pixels 0 and 255 are mapped to before `mean` and `std`.
        weights: file with a state dict for a module, a factory's module or a network of a library.
        download: fetch released weights that the workspace does not have.

    Raises:
        EvalkitError: nothing of that name (the message lists the forms), weights that do not fit, or a preprocessing
            that makes no sense.
    """
    workspace = Workspace.of(home)
    changes = {"size": size, "mean": mean, "std": std, "range": range}
    changes = {key: value for key, value in changes.items() if value is not None}
    if isinstance(encoder, nn.Module):
        return _module(encoder, name, changes, weights)
    if isinstance(encoder, (str, Path)):
        loaded = _by_name(Request(str(encoder), workspace, str(weights or ""), download))
        loaded = replace(loaded, _workspace=workspace)
    elif isinstance(encoder, Encoder):
        loaded = encoder
        if weights:
            raise EvalkitError(f"{encoder.name}: an Encoder has its weights already; give the module instead")
    else:
        raise EvalkitError(f"encoder: found {type(encoder).__name__}, expected a name, a path, a module or an Encoder")
    if changes:
        step = _changed(loaded.preprocessing, changes)
        loaded = replace(loaded, preprocessing=step, name=f"{loaded.name} ({_in_words(changes)})")
    return replace(loaded, name=name) if name else loaded


def _module(module: nn.Module, name: str | None, changes: dict[str, Any], weights: Path | str | None) -> Encoder:
    from evalkit.encoders.module import as_preprocessing, module_encoder

    name = name or type(module).__name__
    step = _changed(as_preprocessing(getattr(module, "preprocessing", {}), name), changes)
    return module_encoder(module, name, step, weights=Path(weights) if weights else None)


def _changed(step: Preprocessing, changes: dict[str, Any]) -> Preprocessing:
    """The preprocessing with some fields replaced; with a size, images of other sizes are resized."""
    values: dict[str, Any] = {key: value if key == "size" else _as_tuple(value) for key, value in changes.items()}
    return replace(step, **values, resize=step.resize or "size" in changes)


def _as_tuple(value: float | Sequence[float]) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, (int, float)) else tuple(float(each) for each in value)


def _in_words(changes: dict[str, Any]) -> str:
    """The changed fields for the encoder's name, so that its features are told from those without the changes."""
    values = {key: (value,) if key == "size" else _as_tuple(value) for key, value in changes.items()}
    return ", ".join(f"{key} {' '.join(f'{each:g}' for each in value)}" for key, value in values.items())


@dataclass(frozen=True)
class Request:
    """What the loader of a kind gets.

    Attributes:
        name: what follows the kind's prefix, or the whole name where there is none.
        workspace: where runs, weights and dictionaries are looked up.
        weights: path of a file with a state dict; empty for none.
        download: whether released weights may be fetched.
    """

    name: str
    workspace: Workspace
    weights: str = ""
    download: bool = True


@dataclass(frozen=True)
class EncoderKind:
    """One kind of encoder.

    Attributes:
        form: what a user types.
        load: from a request to the encoder.
        takes_weights: whether a file of weights may be given beside the name.
    """

    form: str
    load: Callable[[Request], Encoder]
    takes_weights: bool = False


def _by_name(request: Request) -> Encoder:
    name = request.name
    kind, rest = _kind_of(name)
    if request.weights and not ENCODERS[kind].takes_weights:
        raise EvalkitError(
            f"{name}: has its own weights, found weights {request.weights}; "
            f"they go with a module or {', '.join(k.form for k in ENCODERS.values() if k.takes_weights)}"
        )
    try:
        return ENCODERS[kind].load(replace(request, name=rest))
    except ArtifactError as error:
        if kind not in ("run", "module") or name == "latest" or Path(name).exists():
            raise
        forms = ", ".join(each.form for each in ENCODERS.values())
        raise ArtifactError(f"{error}; encoders are {forms}") from error.__cause__


def _kind_of(name: str) -> tuple[str, str]:
    """The kind of encoder, and the name that its loader takes."""
    prefix, colon, rest = name.partition(":")
    if (Path(name) / MANIFEST).is_file():
        return "run", name
    if name == "pixels" or (colon and prefix in ENCODERS):
        return prefix, rest
    if colon:
        return "module", name
    return ("program" if Path(name).suffix in (".pt", ".pt2") else "run"), name


def _load_run(request: Request) -> Encoder:
    """A run's last or named checkpoint, or the checkpoint at a path."""
    from evalkit.encoders.dcgan import run_encoder

    return run_encoder(request.name, request.workspace)


def _load_pretrained(request: Request) -> Encoder:
    """Released, shipped or imported weights; `evalkit pretrained list` lists them."""
    from evalkit.encoders.dcgan import pretrained_encoder

    return pretrained_encoder(request.name, request.workspace, download=request.download)


def _load_random(request: Request) -> Encoder:
    """A recipe's discriminator with random weights."""
    from evalkit.encoders.dcgan import random_encoder

    return random_encoder(request.name)


def _load_pixels(request: Request) -> Encoder:
    """The images themselves."""
    from evalkit.encoders.shallow import pixels_encoder

    return pixels_encoder()


def _load_kmeans(request: Request) -> Encoder:
    """K-means features, by the name or path of a dictionary."""
    from evalkit.encoders.shallow import kmeans_encoder

    return kmeans_encoder(request.name, request.workspace)


def _load_torchvision(request: Request) -> Encoder:
    """A network of torchvision."""
    from evalkit.encoders.hub import torchvision_encoder

    return torchvision_encoder(request.name, weights=request.weights)


def _load_timm(request: Request) -> Encoder:
    """A network of timm (extra [timm])."""
    from evalkit.encoders.hub import timm_encoder

    return timm_encoder(request.name, weights=request.weights)


def _load_factory(request: Request) -> Encoder:
    """Any nn.Module that the user's code returns."""
    from evalkit.encoders.module import factory_encoder

    return factory_encoder(request.name, weights=Path(request.weights) if request.weights else None)


def _load_program(request: Request) -> Encoder:
    """A TorchScript or torch.export file."""
    from evalkit.encoders.exported import program_encoder

    return program_encoder(request.name)


ENCODERS: dict[str, EncoderKind] = {
    "run": EncoderKind("RUN[@UPDATES]", _load_run),
    "pretrained": EncoderKind("pretrained:NAME", _load_pretrained),
    "random": EncoderKind("random:RECIPE", _load_random),
    "pixels": EncoderKind("pixels", _load_pixels),
    "kmeans": EncoderKind("kmeans:NAME", _load_kmeans),
    "torchvision": EncoderKind("torchvision:NAME[:WEIGHTS]", _load_torchvision, takes_weights=True),
    "timm": EncoderKind("timm:NAME[:WEIGHTS]", _load_timm, takes_weights=True),
    "module": EncoderKind("FILE.py:FACTORY or PACKAGE.MODULE:FACTORY", _load_factory, takes_weights=True),
    "program": EncoderKind("FILE.pt or FILE.pt2", _load_program),
}
