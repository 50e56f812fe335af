"""torchvision:NAME[:WEIGHTS] and timm:NAME[:WEIGHTS]: networks of libraries, without their classifier.

WEIGHTS is a file (safetensors, or a state dictionary as .pth) or one of the library's own: torchvision's names, like
DEFAULT, or `pretrained` for timm; those are downloaded once. Without it the weights are random, drawn with seed 0.
"""

import difflib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from evalkit.artifacts import sha256_file
from evalkit.encoders.encoder import Encoder, Preprocessing
from evalkit.encoders.module import HookedNetwork, load_state, remove_classifier, sha256_of
from evalkit.errors import EvalkitError, one_line
from evalkit.workspace import Workspace

_RANDOM_SEED = 0
_FILES = (".safetensors", ".pth", ".pt", ".bin")
# what torchvision's and timm's ImageNet weights were trained with, for random weights, too
_MEAN, _STD, _SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224


def torchvision_encoder(name: str, workspace: Workspace) -> Encoder:
    """A classification network of torchvision."""
    from torchvision import models

    model, _, weights = name.partition(":")
    if model not in models.list_models(module=models):
        near = difflib.get_close_matches(model, models.list_models(module=models), n=3, cutoff=0)
        raise EvalkitError(f"torchvision:{model}: no such network; nearest: {', '.join(near)}")
    network = _seeded(lambda: models.get_model(model, weights=None))
    preprocessing = Preprocessing(size=_SIZE, resize=True, mean=_MEAN, std=_STD)
    own = weights and Path(weights).suffix not in _FILES
    if own:
        chosen = _torchvision_weights(models.get_model_weights(model), weights)
        step = chosen.transforms()
        # the weights' own transform resizes to a little more and crops; image sets are cropped already
        preprocessing = Preprocessing(size=step.crop_size[0], resize=True, mean=tuple(step.mean), std=tuple(step.std))
        network.load_state_dict(_downloaded(chosen, f"torchvision:{name}"))
    return _encoder(f"torchvision:{model}", network, preprocessing, weights, lambda: remove_classifier(network))


def _torchvision_weights(choices: Any, name: str) -> Any:
    if name not in choices.__members__:
        raise EvalkitError(f"{name}: no such weights; choose a file or {', '.join(choices.__members__)}")
    return choices[name]


def _downloaded(weights: Any, who: str) -> dict[str, torch.Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        raise EvalkitError(
            f"{who}: its weights could not be downloaded ({error}); give a file of them instead"
        ) from None


def timm_encoder(name: str, workspace: Workspace) -> Encoder:
    """A network of timm (extra [timm])."""
    try:
        import timm
    except ImportError:
        raise EvalkitError(f"timm:{name}: timm is not installed; pip install 'evalkit[timm]'") from None
    model, _, weights = name.partition(":")
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=3, cutoff=0)
        raise EvalkitError(f"timm:{model}: no such network; nearest: {', '.join(near)}")
    try:
        network = _seeded(lambda: timm.create_model(model, pretrained=weights == "pretrained", num_classes=1000))
    except (OSError, RuntimeError) as error:
        raise EvalkitError(f"timm:{name}: its weights could not be had ({one_line(error)})") from None
    step = timm.data.resolve_model_data_config(network)
    size, channels = step["input_size"][-1], step["input_size"][0]
    preprocessing = Preprocessing(
        size=size, resize=True, channels=channels, mean=tuple(step["mean"]), std=tuple(step["std"])
    )
    return _encoder(f"timm:{model}", network, preprocessing, weights, lambda: network.reset_classifier(0))  # type: ignore[operator]


def _seeded(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        return make()


def _encoder(name: str, network: nn.Module, preprocessing: Preprocessing, weights: str, behead: Any) -> Encoder:
    path = Path(weights) if Path(weights).suffix in _FILES else None
    if path:
        load_state(network, path)
    sha256 = sha256_file(path) if path else sha256_of(network)
    label = f":{path.stem if path else weights}" if weights else ""
    behead()
    return Encoder(name + label, HookedNetwork(network), preprocessing, sha256, str(path.resolve()) if path else "")
