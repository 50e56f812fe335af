"""Weights from safetensors files into networks, with a message that names what does not fit."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from evalkit.errors import ArtifactError


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a safetensors file into `network`.

    Raises:
        ArtifactError: no such file, or names or shapes that differ from the network's; the message names them.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected weights as safetensors")
    put_weights(network, load_tensors(path), str(path))


def put_weights(network: nn.Module, found: dict[str, Tensor], path: str) -> None:
    """Puts tensors by name into `network`; the message of a misfit begins with `path`.

    Raises:
        ArtifactError: names or shapes that differ from the network's; the message names them.
    """
    expected = network.state_dict()
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape]
    if missing or surplus or wrong:
        parts = (("missing", missing), ("surplus", surplus), ("of another shape", sorted(wrong)))
        listed = "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in parts if names)
        raise ArtifactError(f"{path}: these are not the weights of this network ({listed})")
    network.load_state_dict(found)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ArtifactError: it is none.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ArtifactError(f"{path}: no safetensors file ({error})") from None
