"""Weights from files into networks of others: safetensors, or torch's files read without running what is in them."""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from evalkit.errors import ArtifactError, one_line
from evalkit.gan.weights import put_weights


def load_state(network: nn.Module, path: Path) -> None:
    """Loads a state dictionary into `network`: every name and shape must fit.

    Raises:
        ArtifactError: no such file, no weights, or names missing or surplus; the message names them.
    """
    put_weights(network, _read(path), str(path))


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected weights as .safetensors, or a state dictionary as .pth")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _torch_load(path)
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ArtifactError(
            f"{path}: no file of weights ({one_line(error)}); expected .safetensors or a torch state dictionary"
        ) from None
    return found


def _torch_load(path: Path) -> dict[str, Tensor]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"it holds {type(found).__name__}, not names with tensors")
    return dict(found)


def sha256_of(network: nn.Module, *more: bytes) -> str:
    """Hash of a network's weights and buffers, and of what else makes it what it is."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    digest = hashlib.sha256(save(tensors))
    for part in more:
        digest.update(part)
    return digest.hexdigest()


def remove_head(network: nn.Module) -> None:
    """Takes away the last linear layer, the classifier, so that the network returns that layer's input.

    A network without one stays as it is.
    """
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if linears:
        parent, _, child = linears[-1].rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
