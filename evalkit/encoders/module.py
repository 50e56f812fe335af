"""Any nn.Module as an encoder's network: a module from memory, or one that a factory in the user's code returns.

Its layers are its submodules by their dotted names, and what it returns. `load_encoder` comes here for modules and for
FILE.py:FACTORY or PACKAGE.MODULE:FACTORY; encoders.hub builds on it. Weights from files are safetensors, or torch's
files read without running what is in them.
"""

import hashlib
import importlib
import importlib.util
import inspect
import json
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evalkit.encoders.encoder import BatchNorm, Encoder, Network, Preprocessing, Reduce, whole
from evalkit.errors import ArtifactError, EvalkitError, one_line
from evalkit.gan.checkpoint import load_state_dict_checked
from evalkit.runtime import arithmetic

OUTPUT = "output"


def module_encoder(
    module: nn.Module, name: str, preprocessing: Preprocessing, *, weights: Path | None = None
) -> Encoder:
    """A copy of a module, float32 on the CPU, as an encoder.

    Its hash covers its weights, its configuration, the source of its classes and the preprocessing.

    Args:
        weights: file with a state dict for the copy.

    Raises:
        EvalkitError: a module that cannot be copied, or weights that do not fit.
    """
    try:
        copied = deepcopy(module).cpu().float()
    except Exception as error:  # other people's code
        raise EvalkitError(
            f"{name}: the module cannot be copied ({one_line(error)}); give FILE.py:FACTORY instead"
        ) from error
    if weights:
        load_state(copied, weights)
    network = copied if isinstance(copied, Network) else HookedNetwork(copied)
    parts = (_source_of(copied), json.dumps(preprocessing.as_dict()).encode())
    return Encoder(name, network, preprocessing, sha256_of(copied, *parts))


def _source_of(module: nn.Module) -> bytes:
    """How a module is configured and what its classes do, but for torch's own: equal weights alone say neither."""
    texts = [repr(module)]
    kinds = {type(each) for each in module.modules() if not type(each).__module__.startswith("torch.")}
    for kind in sorted(kinds, key=lambda each: (each.__module__, each.__qualname__)):
        try:
            texts.append(inspect.getsource(kind))
        except (OSError, TypeError):  # defined at a prompt
            texts.append(kind.__qualname__)
    return "\n".join(texts).encode()


def factory_encoder(name: str, *, weights: Path | None = None) -> Encoder:
    """The network that FILE.py:FACTORY or PACKAGE.MODULE:FACTORY returns; the code runs with the user's rights.

    FACTORY is called without arguments. The network's attribute `preprocessing`, if there is one, says how images
    become tensors: a dictionary with fields of Preprocessing, by default images of any size in [0, 1].

    The encoder's hash covers the weights, the source file and the preprocessing.

    Args:
        weights: file with a state dict for the network.
    """
    place, _, factory = name.rpartition(":")
    module = _imported(place)
    if not callable(getattr(module, factory, None)):
        names = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise EvalkitError(f"{place}: no function or class {factory!r}; it defines {', '.join(names) or 'none'}")
    network = _called(getattr(module, factory), name)
    if weights:
        load_state(network, weights)
    preprocessing = as_preprocessing(getattr(network, "preprocessing", {}), name)
    source = Path(inspect.getsourcefile(module) or "")
    parts = (source.read_bytes() if source.is_file() else b"", json.dumps(preprocessing.as_dict()).encode())
    return Encoder(f"{Path(place).name}:{factory}", HookedNetwork(network), preprocessing, sha256_of(network, *parts))


def _called(factory: Any, name: str) -> nn.Module:
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


class HookedNetwork(Network):
    """Layers: every submodule whose output is a vector, maps or tokens; "output", or "output.NAME" for each tensor of
    a tuple or dictionary that the module returns.

    The output of a submodule that is used several times is that of its last use.
    """

    def __init__(self, module: nn.Module, default: Sequence[str] = ()):
        super().__init__()
        self.module, self.default = module, tuple(default)

    def forward(
        self, images: Tensor, layers: Sequence[str] | None = None, reduce: Reduce | None = None
    ) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}

        def keep(name: str, output: Any) -> None:
            if _is_layer_output(output, len(images)):
                outputs.pop(name, None)
                outputs[name] = reduce(name, output) if reduce else output

        modules = {name: module for name, module in self.module.named_modules() if name}
        wanted = [name for name in (modules if layers is None else layers) if name in modules]
        hooks = [modules[name].register_forward_hook(_calling(keep, name)) for name in wanted]
        try:
            returned = named_outputs(self.module(images))
        finally:
            for hook in hooks:
                hook.remove()
        for name, output in returned.items():
            if layers is None or name in layers:
                keep(name, output)
        return outputs

    def batch_norms(self) -> dict[str, BatchNorm]:
        return {name: module for name, module in self.module.named_modules() if isinstance(module, BatchNorm)}

    def optimized_for_inference(self, layers: Sequence[str], *, precision: str, sample: Tensor) -> nn.Module:
        folded = HookedNetwork(deepcopy(self.module), self.default)
        fold_batch_norms(folded, layers, sample)
        return Autocast(folded, precision)


class Autocast(nn.Module):
    """The network with convolutions and matrix products in `precision`; operations that need float32 stay in it."""

    def __init__(self, network: Network, precision: str):
        super().__init__()
        self.network, self.precision = network, precision

    def forward(self, images: Tensor, layers: Sequence[str], reduce: Reduce) -> dict[str, Tensor]:
        with arithmetic(self.precision, images.device):
            return self.network(images, layers, reduce)


def _calling(keep: Callable[[str, Any], None], name: str) -> Callable[[nn.Module, Any, Any], None]:
    return lambda module, inputs, output: keep(name, output)


def named_outputs(returned: Any) -> dict[str, Any]:
    """What a module returned, by layer names."""
    if isinstance(returned, Mapping):
        return {f"{OUTPUT}.{name}": value for name, value in returned.items()}
    if isinstance(returned, (tuple, list)):
        return {f"{OUTPUT}.{number}": value for number, value in enumerate(returned)}
    return {OUTPUT: returned}


def _is_layer_output(output: Any, count: int) -> bool:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    return 2 <= output.ndim <= 4 and output.shape[0] == count


_TOLERANCE = 1e-3  # of the largest output; float32 sums in another order differ by about 1e-6


def fold_batch_norms(network: Network, layers: Sequence[str], sample: Tensor) -> None:
    """Replaces conv + batch norm by one conv wherever a norm's input is one conv's output; leaves `layers` as they are.

    With g = gain / sqrt(variance + eps), norm(conv(x)) = conv_gw(x) + (bias - g mean). The pairs are found by running
    the network. Where outputs would change (the conv's output is used elsewhere, too), nothing is folded.
    """
    with torch.no_grad():
        before = network(sample, layers, whole)
        # a conv that is itself one of `layers` would no longer give the output from before the norm
        pairs = [pair for pair in _conv_norm_pairs(network, sample) if pair[0].removeprefix("module.") not in layers]
        originals = {name: deepcopy(network.get_submodule(name)) for pair in pairs for name in pair}
        for conv, norm in pairs:
            _replace(network, conv, fuse_conv_bn_eval(originals[conv], originals[norm]))  # type: ignore[type-var,arg-type]
            _replace(network, norm, nn.Identity())
        after = network(sample, layers, whole)
    if any((before[name] - after[name]).abs().max() > _TOLERANCE * before[name].abs().max() for name in before):
        for name, module in originals.items():
            _replace(network, name, module)


def _conv_norm_pairs(network: Network, sample: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the norms that take their outputs; both used once per pass."""
    names = {module: name for name, module in network.named_modules()}
    calls: Counter[str] = Counter()
    outputs: dict[int, tuple[str, Tensor]] = {}  # the tensors are held, so that no id is used twice
    pairs: list[tuple[str, str]] = []

    def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
        calls[names[module]] += 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = (names[module], output)
        elif id(inputs[0]) in outputs and not module.training and module.running_mean is not None:
            pairs.append((outputs[id(inputs[0])][0], names[module]))

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [module.register_forward_hook(record) for module in names if isinstance(module, kinds)]
    try:
        network(sample, (), None)
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1]


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def load_state(network: nn.Module, path: Path) -> None:
    """Loads a file's state dict into `network`: every name and shape must fit.

    Raises:
        ArtifactError: no such file, no weights, or names missing or surplus; the message names them.
    """
    load_state_dict_checked(network, _read(path), str(path))


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected weights as .safetensors, or a state dict as .pth")
    try:
        return load_file(path) if path.suffix == ".safetensors" else _torch_load(path)
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ArtifactError(
            f"{path}: not a file of weights ({one_line(error)}); expected .safetensors or a torch state dict"
        ) from None


def _torch_load(path: Path) -> dict[str, Tensor]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"it holds {type(state).__name__}, not tensors by name")
    return dict(state)


def sha256_of(network: nn.Module, *more: bytes) -> str:
    """Hash of a network's weights and buffers, and of what else makes it what it is."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    digest = hashlib.sha256(save(tensors))
    for part in more:
        digest.update(part)
    return digest.hexdigest()


def remove_classifier(network: nn.Module) -> None:
    """Replaces the last linear layer, the classifier, by the identity, so that the network returns that layer's input.

    A network without a linear layer stays as it is.
    """
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if linears:
        parent, _, child = linears[-1].rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
