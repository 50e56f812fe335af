"""Weights of other projects: which of a file's tensors belong to a network, whatever the file wraps them in.

`load_state` finds the prefix under which the file has the network's names ("state_dict.module.encoder_q.", "teacher.",
none), says which it took and what it left, and refuses weights of another network.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from evalkit.errors import ArtifactError, EvalkitError, printable
from evalkit.weights_files import is_empty_shell, listed, read_weights, refuse_not_finite

logger = logging.getLogger(__name__)

_COUNTER = "num_batches_tracked"  # of batch norms; eval mode does not use it
# of two networks that fit equally well, the one that is evaluated by custom: the average over training as in timm,
# DINO's teacher, MoCo's encoder_q, BYOL's online network, I-JEPA's target encoder; the second list if nothing else fits
_PREFERRED = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "teacher",
    "encoder_q",
    "online_encoder",
    "online_network",
    "target_encoder",
)
_SECOND = ("student", "encoder_k", "target", "target_network", "momentum_encoder", "momentum_backbone", "key_encoder")


@dataclass(frozen=True)
class Match:
    """A file's tensors seen as weights of a network.

    Attributes:
        prefix: what precedes the network's names in the file.
        tensors: by the network's names, those that the file has in the network's shapes.
        missing: names that the file lacks.
        misshapen: names whose tensors have another shape.
        surplus: names under the prefix that the network lacks.
        outside: how many tensors have other prefixes.
    """

    prefix: str
    tensors: dict[str, Tensor]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    surplus: tuple[str, ...]
    outside: int


def load_state(network: nn.Module, path: Path, *, classifier: Collection[str] = ()) -> tuple[str, ...]:
    """Loads a file's weights into `network` and returns the names of weights that the file lacks; those become NaN.

    What the chosen layers need must be there: a layer whose outputs are NaN is refused when it is extracted. The
    classifier alone may be missing or have another number of classes.

    Args:
        classifier: names of modules that were removed from the network, or whose weights may be missing.

    Raises:
        ArtifactError: no such file, no weights, weights of another network, or NaN among them; the message names them.
    """
    expected = network.state_dict(keep_vars=True)
    tensors = read_weights(path)
    match = _match(tensors, expected, _best_prefix(tensors, expected, path))
    _refuse_another_network(network, match, classifier, path)
    refuse_not_finite(match.tensors, str(path), parameters=[name for name, _ in network.named_parameters()])
    network.load_state_dict(match.tensors, strict=False)
    without = tuple(name for name in (*match.missing, *match.misshapen) if not name.endswith(_COUNTER))
    with torch.no_grad():
        for name in without:
            if expected[name].is_floating_point() and not is_empty_shell(expected[name]):
                expected[name].detach().fill_(torch.nan)
    _log(match, without, path)
    return without


def _best_prefix(tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> str:
    """The prefix under which most of the network's names are, in their shapes."""
    fitting: Counter[str] = Counter()
    for name, tensor in tensors.items():
        parts = name.split(".")
        for first in range(len(parts)):
            own = ".".join(parts[first:])
            if own in expected and _fits(tensor, expected[own]):
                fitting[name[: len(name) - len(own)]] += 1
    if not fitting:
        return _common_prefix(tensors)
    most = max(fitting.values())
    best = sorted((prefix for prefix, count in fitting.items() if count == most), key=lambda p: (_rank(p), len(p)))
    if len(best) > 1 and _rank(best[0]) == _rank(best[1]) and not _equal(tensors, expected, best[:2]):
        raise ArtifactError(
            f"{path}: holds {len(best)} networks that fit equally well, under {listed(best)}; save the one you mean"
        )
    if len(best) > 1:
        logger.info("%s: several networks fit, under %s; %s is taken", path, listed(best), printable(best[0]))
    return best[0]


def _common_prefix(tensors: dict[str, Tensor]) -> str:
    """What all names begin with, up to a dot: for the message when nothing fits."""
    first, *others = sorted(tensors)
    parts = first.split(".")[:-1]
    while parts and not all(name.startswith(".".join(parts) + ".") for name in others):
        parts.pop()
    return ".".join([*parts, ""]) if parts else ""


def _rank(prefix: str) -> int:
    parts = prefix.split(".")
    preferred = [rank for rank, name in enumerate(_PREFERRED) if name in parts]
    return preferred[0] if preferred else 99 if set(parts) & set(_SECOND) else len(_PREFERRED)


def _equal(tensors: dict[str, Tensor], expected: Iterable[str], prefixes: list[str]) -> bool:
    first, second = prefixes
    pairs = [(tensors.get(first + name), tensors.get(second + name)) for name in expected]
    return all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)


def _fits(tensor: Tensor, expected: Tensor) -> bool:
    return is_empty_shell(expected) or tensor.shape == expected.shape


def _match(tensors: dict[str, Tensor], expected: dict[str, Tensor], prefix: str) -> Match:
    under = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return Match(
        prefix,
        {name: under[name] for name in expected if name in under and _fits(under[name], expected[name])},
        tuple(name for name in expected if name not in under),
        tuple(name for name in expected if name in under and not _fits(under[name], expected[name])),
        tuple(name for name in under if name not in expected and not name.endswith(_COUNTER)),
        len(tensors) - len(under),
    )


def _refuse_another_network(network: nn.Module, match: Match, classifier: Collection[str], path: Path) -> None:
    """Refuses weights that only in part are those of this network, such as a deeper network of the same names."""
    children = {name for name, _ in network.named_children()} | {name for name, _ in network.named_parameters()}
    wrong = [name for name in match.misshapen if not _within(name, classifier)]
    surplus = [name for name in match.surplus if name.split(".")[0] in children and not _within(name, classifier)]
    needed = [name for name in match.missing if not name.endswith(_COUNTER) and not _within(name, classifier)]
    if not (wrong or surplus) and match.tensors and len(needed) < len(match.tensors):
        return
    unknown = surplus or [name for name in match.surplus if not _within(name, classifier)]
    parts = (("missing", needed), ("unexpected", unknown), ("of another shape", wrong))
    named = "; ".join(f"{what}: {listed(names)}" for what, names in parts if names) or "none fits"
    raise ArtifactError(f"{path}: these are not the weights of this network ({named})")


def _within(name: str, modules: Collection[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _log(match: Match, without: tuple[str, ...], path: Path) -> None:
    if match.prefix or match.surplus or match.outside:
        taken = f"under {printable(match.prefix)!r}" if match.prefix else "without a prefix"
        left = ([listed(match.surplus)] if match.surplus else []) + (
            [f"{match.outside} tensors elsewhere in the file"] if match.outside else []
        )
        logger.info("%s: %d weights %s; left: %s", path, len(match.tensors), taken, "; ".join(left) or "nothing")
    if without:
        logger.info("%s: has no weights for %s", path, listed(without))


def refuse_empty(network: nn.Module, name: str) -> None:
    """Refuses a network whose weights do not exist yet.

    Raises:
        EvalkitError: lazy layers before their first batch, or tensors on the meta device; the message says what to do.
    """
    empty = [key for key, value in network.state_dict(keep_vars=True).items() if is_empty_shell(value)]
    if empty:
        raise EvalkitError(
            f"{name}: {listed(empty)} have no weights yet (lazy layers, or the meta device); run the network on one "
            "batch before you return it, as in network(torch.zeros(1, 3, 32, 32)), or give a file with weights"
        )
