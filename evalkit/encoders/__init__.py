"""Encoders: what turns images into named layer outputs, by one short name or path. The kinds are listed here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evalkit.artifacts import MANIFEST
from evalkit.encoders.dcgan import pretrained_encoder, random_encoder, run_encoder
from evalkit.encoders.encoder import Encoder as Encoder
from evalkit.encoders.exported import program_encoder
from evalkit.encoders.hub import timm_encoder, torchvision_encoder
from evalkit.encoders.module import own_encoder
from evalkit.encoders.shallow import kmeans_encoder, pixels_encoder
from evalkit.errors import ArtifactError
from evalkit.workspace import Workspace


@dataclass(frozen=True)
class EncoderKind:
    """One kind of encoder.

    Attributes:
        form: what a user types.
        about: what it is.
        load: from what follows the prefix (or from the whole name of a run) and the workspace to the encoder.
    """

    form: str
    about: str
    load: Callable[[str, Workspace], Encoder]


ENCODERS: dict[str, EncoderKind] = {
    "run": EncoderKind("RUN[@UPDATES]", "a run's last or named checkpoint, or a path to one", run_encoder),
    "pretrained": EncoderKind(
        "pretrained:NAME", "released, shipped or imported weights; `evalkit pretrained list`", pretrained_encoder
    ),
    "random": EncoderKind("random:RECIPE", "a recipe's network with random weights", random_encoder),
    "pixels": EncoderKind("pixels", "the images themselves", pixels_encoder),
    "kmeans": EncoderKind("kmeans:NAME", "K-means features, by name or path of a dictionary", kmeans_encoder),
    "torchvision": EncoderKind("torchvision:NAME[:WEIGHTS]", "a network of torchvision", torchvision_encoder),
    "timm": EncoderKind("timm:NAME[:WEIGHTS]", "a network of timm (extra [timm])", timm_encoder),
    "module": EncoderKind("FILE.py:FACTORY or PACKAGE.MODULE:FACTORY", "any nn.Module of yours", own_encoder),
    "program": EncoderKind("FILE.pt or FILE.pt2", "a TorchScript or torch.export file", program_encoder),
}


def find_encoder(name: str, workspace: Workspace) -> Encoder:
    """The encoder of that name or path; ENCODERS lists the forms of names.

    Names with a prefix that is none of ours are code of the user's: it runs with the user's rights.

    Raises:
        EvalkitError: nothing of that name (the message lists the forms), or weights that do not fit.
    """
    kind, rest = _kind_of(name)
    try:
        return ENCODERS[kind].load(rest, workspace)
    except ArtifactError as error:
        if kind not in ("run", "module") or name == "latest" or Path(name).exists():
            raise
        forms = ", ".join(kind.form for kind in ENCODERS.values())
        raise ArtifactError(f"{error}; encoders are {forms}") from error.__cause__


def _kind_of(name: str) -> tuple[str, str]:
    """The kind of encoder, and what its loader takes."""
    prefix, colon, rest = name.partition(":")
    if (Path(name) / MANIFEST).is_file():
        return "run", name
    if name == "pixels" or (colon and prefix in ENCODERS):
        return prefix, rest
    if colon:
        return "module", name
    return ("program" if Path(name).suffix in (".pt", ".pt2") else "run"), name
