"""Folding frozen batch norms into the convolutions before them, in any module: found by running it, then checked.

With g = gain / sqrt(variance + eps), norm(conv(x)) = conv_gw(x) + (bias - g mean).
"""

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evalkit.features.encoders.encoder import Network, whole

_TOLERANCE = 1e-3  # of the largest output; float32 sums in another order differ by about 1e-6


def fold_batch_norms(network: Network, layers: Sequence[str], sample: Tensor) -> None:
    """Replaces conv + batch norm by one conv wherever a norm's input is one conv's output; leaves `layers` as they are.

    A network whose outputs would change (the conv's output is used elsewhere, too) stays unfolded.
    """
    with torch.no_grad():
        before = network(sample, layers, whole)
        pairs = [(c, n) for c, n in _conv_then_norm(network, sample) if not _taps_one_of((c, n), layers)]
        originals = {name: deepcopy(network.get_submodule(name)) for pair in pairs for name in pair}
        for conv, norm in pairs:
            _replace(network, conv, fuse_conv_bn_eval(originals[conv], originals[norm]))  # type: ignore[type-var,arg-type]
            _replace(network, norm, nn.Identity())
        after = network(sample, layers, whole)
    if any((before[name] - after[name]).abs().max() > _TOLERANCE * before[name].abs().max() for name in before):
        for name, module in originals.items():
            _replace(network, name, module)


def _conv_then_norm(network: Network, sample: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the norms that take their outputs; both used once a pass."""
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


def _taps_one_of(pair: tuple[str, str], layers: Sequence[str]) -> bool:
    """Whether the conv itself is a layer that is taken: its output would no longer be the one before the norm."""
    return pair[0].removeprefix("module.") in layers


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
