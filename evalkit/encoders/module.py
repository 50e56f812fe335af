"""Any nn.Module as an encoder's network: a module from memory, or one that a factory in the user's code returns.

Its layers are its submodules by their dotted names, and what it returns. `load_encoder` comes here for modules and for
FILE.py:FACTORY or PACKAGE.MODULE:FACTORY; encoders.hub builds on it. Weights from files are safetensors, or torch's
files read without running what is in them.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evalkit.encoders.encoder import BatchNorm, Encoder, Network, Preprocessing, Reduce, whole
from evalkit.encoders.fingerprint import fingerprint, source_of
from evalkit.encoders.weights import load_state, refuse_empty
from evalkit.errors import ArtifactError, EvalkitError, one_line
from evalkit.runtime import arithmetic
from evalkit.weights_files import listed, refuse_not_finite

OUTPUT = "output"
_TRIED_SIZE = 64  # pixels, for a network that takes images of any size


def module_encoder(
    module: nn.Module, name: str, preprocessing: Preprocessing, *, weights: Path | None = None
) -> Encoder:
    """A copy of a module, float32 on the CPU, as an encoder.

    Its hash covers its weights, all else that it holds, its code, the code that this uses, and the preprocessing.

    Args:
        weights: file with a state dict for the copy.

    Raises:
        EvalkitError: a module that cannot be copied, has no weights yet or has NaN among them, or weights that do not
            fit.
    """
    module = _unwrapped(module)
    try:
        copied = deepcopy(module).cpu()
    except Exception as error:  # other people's code
        raise EvalkitError(
            f"{name}: the module cannot be copied ({one_line(error)}); give FILE.py:FACTORY instead"
        ) from error
    return _own_encoder(copied, name, preprocessing, weights)


def _own_encoder(
    network: nn.Module, name: str, preprocessing: Preprocessing, weights: Path | None, *code: Any
) -> Encoder:
    """An encoder of a network that may be changed; `code` is what its hash covers beside what the network holds."""
    missing = load_state(network, weights, classifier=last_linear(network)) if weights else ()
    refuse_empty(network, name)
    network = network.float()
    parameters = {key: value for key, value in network.named_parameters() if key not in missing}
    refuse_not_finite(parameters, name)
    hooked = network if isinstance(network, Network) else HookedNetwork(network)
    refuse_unusable(hooked, preprocessing, missing, str(weights))
    sha256 = fingerprint(network, preprocessing.as_dict(), *code)
    return Encoder(name, hooked, preprocessing, sha256, missing=missing, own_code=True)


def _unwrapped(module: nn.Module) -> nn.Module:
    """The network inside what torch.compile and data-parallel training return."""
    while isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(module, "_orig_mod"):
        module = getattr(module, "_orig_mod", None) or module.module  # type: ignore[assignment]
    return module


def refuse_unusable(network: Network, preprocessing: Preprocessing, missing: Sequence[str], path: str) -> None:
    """Refuses weights that lack so much that no layer can be computed; a missing weight is NaN, and so what it touches.

    Raises:
        ArtifactError: the message names what is missing.
    """
    if not missing:
        return
    size = preprocessing.size or _TRIED_SIZE
    try:
        with torch.no_grad():
            outputs = network.eval()(preprocessing(torch.zeros(2, size, size, 3, dtype=torch.uint8)), None, whole)
    except Exception:  # a network for images of another size
        outputs = {}
    if all(output.isnan().any() for output in outputs.values()):
        raise ArtifactError(f"{path}: these are not the weights of this network (missing: {listed(missing)})")


def factory_encoder(name: str, *, weights: Path | None = None) -> Encoder:
    """The network that FILE.py:FACTORY or PACKAGE.MODULE:FACTORY returns; the code runs with the user's rights.

    FACTORY is called without arguments. The network's attribute `preprocessing`, if there is one, says how images
    become tensors: a dictionary with fields of Preprocessing, by default images of any size in [0, 1].

    The encoder's hash covers the weights and all else that the network holds, the source file, the code that it uses
    and the preprocessing.

    Args:
        weights: file with a state dict for the network.
    """
    place, _, factory = name.rpartition(":")
    with _importing_beside(place):
        network, module = _made(name, place, factory)
    preprocessing = as_preprocessing(getattr(network, "preprocessing", {}), name)
    return _own_encoder(network, f"{Path(place).name}:{factory}", preprocessing, weights, source_of(module))


@contextlib.contextmanager
def _importing_beside(place: str) -> Iterator[None]:
    """Imports find modules in the folder of a file, as they do for `python FILE.py` and `python -m`."""
    folder = str(Path(place).parent.resolve())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _made(name: str, place: str, factory: str) -> tuple[nn.Module, ModuleType]:
    """The network that a factory returns, and the Python module that the factory is in."""
    module = _imported(place)
    if not callable(getattr(module, factory, None)):
        names = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise EvalkitError(f"{place}: no function or class {factory!r}; it defines {', '.join(names) or 'none'}")
    return _unwrapped(_called(getattr(module, factory), name)), module


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
    try:
        return _from_file(path) if path.suffix == ".py" else importlib.import_module(place)
    except Exception as error:  # other people's code
        raise ArtifactError(f"{place}: cannot be imported ({one_line(error)})") from error


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


def sha256_of(network: nn.Module, *more: bytes) -> str:
    """Hash of a network's weights and buffers, and of what else makes it what it is."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    digest = hashlib.sha256(save(tensors))
    for part in more:
        digest.update(part)
    return digest.hexdigest()


def last_linear(network: nn.Module) -> list[str]:
    """The name of the last linear layer, the classifier, in a list; empty where there is none."""
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return linears[-1:]


def remove_classifier(network: nn.Module) -> None:
    """Replaces the last linear layer, the classifier, by the identity, so that the network returns that layer's input.

    A network without a linear layer stays as it is.
    """
    for name in last_linear(network):
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
