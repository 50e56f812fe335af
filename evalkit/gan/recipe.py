"""Recipe: what defines a DCGAN and its training; any value can be changed by a file or on the command line.

Sources: [s4] = Radford, Metz & Chintala 2016, section 4; [release] = the scripts and file shapes of Newmu/dcgan_code at
ee12b2d. Values without one are not of the paper; their default is its way.
"""

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from evalkit.errors import EvalkitError


@dataclass(frozen=True)
class Recipe:
    """A DCGAN and its training. Maps are multiples of `width`; strides give the picture's way down and up.

    Raises:
        EvalkitError: values that make no network or no training, on construction.
    """

    name: str
    images: str = ""  # the image set it trains on; empty: the latest prepared one
    size: int = 32  # height and width of the pictures
    channels: int = 3
    classes: int = 0  # > 0: class-conditional on that many classes
    width: int = 128
    kernel: int = 3
    d_maps: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    d_strides: tuple[int, ...] = (1, 2, 1, 2, 1, 2)
    d_hidden: tuple[int, ...] = ()  # units of fully connected layers after the convs
    g_hidden: tuple[int, ...] = ()  # units of fully connected layers before the first maps
    g_maps: tuple[int, ...] = (4, 4, 2, 2, 1, 1)  # the first is the reshaped linear layer's
    g_strides: tuple[int, ...] = (2, 1, 2, 1, 2, 1)  # the last one's output is the picture
    norm_scale_shift: bool = True
    g_first_norm: Literal["unit", "map"] = "unit"  # gains of G's linear layer: one a unit [release], or one a map
    d_norm: Literal["batch", "spectral"] = "batch"  # spectral: of D's weights, with biases, in place of batch norm
    output: Literal["tanh", "sigmoid"] = "tanh"
    leak: float = 0.2  # slope of the leaky ReLU [s4]
    z_length: int = 256
    z_law: Literal["uniform", "normal"] = "uniform"  # U(-1, 1) or N(0, 1)
    init_std: float = 0.02  # weights N(0, std), batch-norm gains N(1, std) [s4, release]
    norm_eps: float = 1e-8  # [release]
    batch_size: int = 128  # [s4]
    lr: float = 2e-4  # [s4]
    beta1: float = 0.5  # [s4]
    beta2: float = 0.999  # [release]
    adam_eps: float = 1e-8  # [release]
    l2: float = 0.0  # added to the gradient of every parameter before Adam, gains and biases too [release]
    loss: Literal["bce", "hinge"] = "bce"
    g_ema: float = 0.0  # > 0: samples come from an exponential moving average of G's weights with this decay
    d_ema: float = 0.0  # > 0: features come from an exponential moving average of D's weights with this decay
    flips: bool = False  # real pictures are mirrored at random
    crops: bool = False  # of larger pictures a random square of `size` each time
    picture_noise: float = 0.0  # standard deviation of noise on all that D sees in training, in G's range
    schedule: Literal["alternate", "both"] = "alternate"  # one network a minibatch, or both [release: alternate]
    d_updates: int = 150_000  # length of the training, in updates of the discriminator
    decay_from: float = 1.0  # share of the training after which lr falls linearly to zero

    def __post_init__(self) -> None:
        for key, smallest in _SMALLEST.items():
            if getattr(self, key) < smallest:
                raise EvalkitError(f"recipe {self.name}: {key} = {getattr(self, key)}, expected at least {smallest}")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise EvalkitError(
                    f"recipe {self.name}: {key} = {getattr(self, key)!r}, expected {' or '.join(choices)}"
                )
        for maps, strides in (("d_maps", "d_strides"), ("g_maps", "g_strides")):
            if not getattr(self, maps) or len(getattr(self, maps)) != len(getattr(self, strides)):
                raise EvalkitError(f"recipe {self.name}: {maps} and {strides} differ in length or are empty")
        if self.kernel % 2 == 0 and ({*self.d_strides, *self.g_strides} != {2} or self.size % 2 ** len(self.d_strides)):
            raise EvalkitError(
                f"recipe {self.name}: kernel = {self.kernel} is even, which needs strides of 2 throughout and a size "
                "that they divide"
            )
        for key in ("g_ema", "d_ema"):
            if getattr(self, key) >= 1:
                raise EvalkitError(
                    f"recipe {self.name}: {key} = {getattr(self, key)}, expected a decay below 1, like 0.999"
                )
        if self.size % self.g_total_stride:
            raise EvalkitError(
                f"recipe {self.name}: size {self.size} is no multiple of {self.g_total_stride} (g_strides)"
            )

    @property
    def padding(self) -> int:
        """Zeros at each border, with which a convolution's output is its input / stride."""
        return (self.kernel - 1) // 2

    @property
    def g_total_stride(self) -> int:
        """How much larger the picture is than the generator's first maps."""
        total = 1
        for stride in self.g_strides:
            total *= stride
        return total

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}


_SMALLEST = {
    "size": 8, "channels": 1, "classes": 0, "width": 1, "kernel": 1, "z_length": 1, "batch_size": 2, "lr": 0.0,
    "l2": 0.0, "d_updates": 1, "beta1": 0.0, "beta2": 0.0, "decay_from": 0.0, "g_ema": 0.0,
    "d_ema": 0.0, "picture_noise": 0.0,
}  # fmt: skip
_CHOICES = {
    "output": ("tanh", "sigmoid"), "z_law": ("uniform", "normal"), "schedule": ("alternate", "both"),
    "d_norm": ("batch", "spectral"), "loss": ("bce", "hinge"), "g_first_norm": ("unit", "map"),
}  # fmt: skip


def override(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with some values changed; strings (from a command line) are read as TOML values.

    Raises:
        EvalkitError: an unknown key (the message lists the keys) or a value of the wrong type.
    """
    hints = typing.get_type_hints(Recipe)
    changed = {}
    for key, value in values.items():
        if key not in hints:
            raise EvalkitError(f"recipe {recipe.name}: no value {key!r}; it has {', '.join(hints)}")
        changed[key] = _typed(key, value, hints[key])
    return dataclasses.replace(recipe, **changed)


def _typed(key: str, value: Any, kind: Any) -> Any:
    if isinstance(value, str) and kind is not str and typing.get_origin(kind) is not Literal:
        try:
            value = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise EvalkitError(f"recipe value {key} = {value!r}: expected {_kind_name(kind)}") from None
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, types.GenericAlias):
        if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
            return tuple(value)
    elif typing.get_origin(kind) is Literal or type(value) is kind:
        return value
    raise EvalkitError(f"recipe value {key} = {value!r}: expected {_kind_name(kind)}")


def _kind_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(kind, "a list of whole numbers, like [1, 2, 4]")
