"""Any nn.Module as an encoder's network: its layers are its submodules by their dotted names, and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from evalkit.device import arithmetic
from evalkit.features.encoders.encoder import BatchNorm, Network, Reduce
from evalkit.features.encoders.folding import fold_batch_norms

OUTPUT = "output"


class HookedNetwork(Network):
    """Layers: every submodule whose output is a vector, maps or tokens; "output", or "output.NAME" for each tensor of
    a tuple or dictionary that the module returns.

    A submodule that is used several times counts with its last output.
    """

    def __init__(self, module: nn.Module, default: Sequence[str] = ()):
        super().__init__()
        self.module, self.default = module, tuple(default)

    def forward(
        self, pictures: Tensor, layers: Sequence[str] | None = None, reduce: Reduce | None = None
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def keep(name: str, output: Any) -> None:
            if _is_layer(output, len(pictures)):
                found.pop(name, None)
                found[name] = reduce(name, output) if reduce else output

        modules = {name: module for name, module in self.module.named_modules() if name}
        wanted = [name for name in (modules if layers is None else layers) if name in modules]
        hooks = [modules[name].register_forward_hook(_calling(keep, name)) for name in wanted]
        try:
            returned = named_outputs(self.module(pictures))
        finally:
            for hook in hooks:
                hook.remove()
        for name, output in returned.items():
            if layers is None or name in layers:
                keep(name, output)
        return found

    def norms(self) -> dict[str, BatchNorm]:
        return {name: module for name, module in self.module.named_modules() if isinstance(module, BatchNorm)}

    def lowered(self, layers: Sequence[str], *, precision: str, sample: Tensor) -> nn.Module:
        folded = HookedNetwork(deepcopy(self.module), self.default)
        fold_batch_norms(folded, layers, sample)
        return Autocast(folded, precision)


class Autocast(nn.Module):
    """The network with convolutions and products in bf16; what else needs float32 stays in it."""

    def __init__(self, network: Network, precision: str):
        super().__init__()
        self.network, self.precision = network, precision

    def forward(self, pictures: Tensor, layers: Sequence[str], reduce: Reduce) -> dict[str, Tensor]:
        with arithmetic(self.precision, pictures.device):
            return self.network(pictures, layers, reduce)


def _calling(keep: Callable[[str, Any], None], name: str) -> Callable[[nn.Module, Any, Any], None]:
    return lambda module, inputs, output: keep(name, output)


def named_outputs(returned: Any) -> dict[str, Any]:
    """What a module returned, by layer names."""
    if isinstance(returned, Mapping):
        return {f"{OUTPUT}.{name}": value for name, value in returned.items()}
    if isinstance(returned, (tuple, list)):
        return {f"{OUTPUT}.{number}": value for number, value in enumerate(returned)}
    return {OUTPUT: returned}


def _is_layer(output: Any, count: int) -> bool:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    return 2 <= output.ndim <= 4 and output.shape[0] == count
