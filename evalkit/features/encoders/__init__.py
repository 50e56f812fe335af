"""Encoders: what turns pictures into named layer outputs, by one short name or path. The kinds are listed here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evalkit.artifacts import MANIFEST
from evalkit.errors import ArtifactError
from evalkit.features.encoders.discriminators import random_encoder, run_encoder
from evalkit.features.encoders.encoder import Encoder as Encoder
from evalkit.features.encoders.kmeans import kmeans_encoder
from evalkit.features.encoders.pixels import pixels_encoder
from evalkit.features.encoders.pretrained import pretrained_encoder
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
    "pixels": EncoderKind("pixels", "the pictures themselves", pixels_encoder),
    "kmeans": EncoderKind("kmeans:NAME", "K-means features, by name or path of a dictionary", kmeans_encoder),
}


def find_encoder(name: str, workspace: Workspace) -> Encoder:
    """The encoder of that name: PREFIX:REST, or the name or path of a run or checkpoint.

    Raises:
        EvalkitError: nothing of that name (the message lists the forms of names), or weights that do not fit.
    """
    prefix, _, rest = name.partition(":")
    named = prefix in ENCODERS and (rest or name == "pixels")
    if named and not (Path(name) / MANIFEST).is_file():
        return ENCODERS[prefix].load(rest, workspace)
    return _run_or_list(name, workspace)


def _run_or_list(name: str, workspace: Workspace) -> Encoder:
    try:
        return run_encoder(name, workspace)
    except ArtifactError as error:
        if name == "latest" or Path(name).exists():
            raise
        forms = ", ".join(kind.form for kind in ENCODERS.values())
        raise ArtifactError(f"{error}; encoders are {forms}") from None
