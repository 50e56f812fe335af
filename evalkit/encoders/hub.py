"""torchvision:NAME[:WEIGHTS] and timm:NAME[:WEIGHTS]: networks of libraries, without their classifier.

WEIGHTS is a file (safetensors, or a state dict as .pth) or one of the library's own weights: a name of torchvision's,
like DEFAULT, or `pretrained` for timm; those are downloaded once. Without WEIGHTS they are random, with seed 0.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from evalkit.artifacts import sha256_file
from evalkit.encoders.encoder import Encoder, Preprocessing
from evalkit.encoders.module import HookedNetwork, refuse_unusable, remove_classifier, sha256_of
from evalkit.encoders.weights import load_state
from evalkit.errors import EvalkitError, one_line

_RANDOM_SEED = 0
_FILES = (".safetensors", ".pth", ".pt", ".bin")
# what torchvision's and timm's ImageNet weights were trained with; random weights take the same
_MEAN, _STD, _SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224


def torchvision_encoder(name: str, *, weights: str = "") -> Encoder:
    """A classification network of torchvision, by NAME[:WEIGHTS].

    Args:
        weights: WEIGHTS, where the name has none.
    """
    from torchvision import models

    model, weights = _split(name, weights)
    if model not in models.list_models(module=models):
        near = difflib.get_close_matches(model, models.list_models(module=models), n=3, cutoff=0)
        raise EvalkitError(f"torchvision:{model}: no such network; nearest: {', '.join(near)}")
    network = _seeded(lambda: models.get_model(model, weights=None))
    preprocessing = Preprocessing(size=_SIZE, resize=True, mean=_MEAN, std=_STD)
    if weights and Path(weights).suffix not in _FILES:
        chosen = _torchvision_weights(models.get_model_weights(model), weights)
        own = chosen.transforms()
        # the weights' own transform resizes to a little more and crops; image sets are cropped already
        preprocessing = Preprocessing(size=own.crop_size[0], resize=True, mean=tuple(own.mean), std=tuple(own.std))
        network.load_state_dict(_downloaded(chosen, f"torchvision:{name}"))
    return _encoder(f"torchvision:{model}", network, preprocessing, weights, lambda: remove_classifier(network))


def _split(name: str, weights: str) -> tuple[str, str]:
    """The model and its weights, which stand in the name or beside it."""
    model, _, in_name = name.partition(":")
    if in_name and weights:
        raise EvalkitError(f"{name}: names weights {in_name}, found weights {weights}, too; give one of the two")
    return model, in_name or weights


def _torchvision_weights(choices: Any, name: str) -> Any:
    if name not in choices.__members__:
        raise EvalkitError(f"{name}: no such weights; choose a file or {', '.join(choices.__members__)}")
    return choices[name]


def _downloaded(weights: Any, who: str) -> dict[str, torch.Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        raise EvalkitError(
            f"{who}: its weights could not be downloaded ({error}); give a file with the weights instead"
        ) from None


def timm_encoder(name: str, *, weights: str = "") -> Encoder:
    """A network of timm (extra [timm]), by NAME[:WEIGHTS].

    Args:
        weights: WEIGHTS, where the name has none.
    """
    try:
        import timm
    except ImportError:
        raise EvalkitError(f"timm:{name}: timm is not installed; pip install 'evalkit[timm]'") from None
    model, weights = _split(name, weights)
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=3, cutoff=0)
        raise EvalkitError(f"timm:{model}: no such network; nearest: {', '.join(near)}")
    try:
        network = _seeded(lambda: timm.create_model(model, pretrained=weights == "pretrained", num_classes=1000))
    except (OSError, RuntimeError) as error:
        raise EvalkitError(f"timm:{name}: its weights cannot be loaded ({one_line(error)})") from None
    config = timm.data.resolve_model_data_config(network)
    size, channels = config["input_size"][-1], config["input_size"][0]
    preprocessing = Preprocessing(
        size=size, resize=True, channels=channels, mean=tuple(config["mean"]), std=tuple(config["std"])
    )
    return _encoder(f"timm:{model}", network, preprocessing, weights, lambda: network.reset_classifier(0))  # type: ignore[operator]


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        return make()


def _encoder(
    name: str, network: nn.Module, preprocessing: Preprocessing, weights: str, drop_classifier: Callable[[], object]
) -> Encoder:
    path = Path(weights) if Path(weights).suffix in _FILES else None
    sha256, whole_network = "" if path else sha256_of(network), set(network.state_dict())
    drop_classifier()
    missing: tuple[str, ...] = ()
    if path:
        dropped = whole_network - set(network.state_dict())
        missing = load_state(network, path, classifier={key.rpartition(".")[0] for key in dropped})
        sha256 = sha256_file(path)
    hooked, label = HookedNetwork(network), f":{path.stem if path else weights}" if weights else ""
    refuse_unusable(hooked, preprocessing, missing, str(path))
    stored = str(path.resolve()) if path else ""
    return Encoder(name + label, hooked, preprocessing, sha256, stored, missing=missing, own_code=True)
