"""Recipes and training options: what a DCGAN and its training are, and how a training is run.

A recipe decides the weights; a TOML file or `--set KEY=VALUE` changes any of its values. Standard library only: the
command line reads defaults, help, bounds and choices from here.

Sources: [s4] = Radford, Metz & Chintala 2016, section 4; [s5] = section 5; [release] = the scripts and file shapes of
Newmu/dcgan_code at ee12b2d; [?] = neither states it, the value is ours. Settings without a source are not in the paper;
their defaults leave the paper's training as it is.
"""

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from evalkit.errors import EvalkitError
from evalkit.settings import setting


@dataclass(frozen=True)
class Recipe:
    """A DCGAN and its training. Channels are multiples of `base_channels`; strides give the resolution of each layer.

    Raises:
        EvalkitError: values that make no valid network or training, on construction.
    """

    name: str
    images: str = setting("", "image set to train on; empty: the latest prepared one")
    size: int = setting(32, "height and width of the images in pixels", minimum=8)
    channels: int = setting(3, "channels of the images", minimum=1)
    classes: int = setting(0, "number of classes of a class-conditional network; 0: unconditional", minimum=0)
    base_channels: int = setting(128, "channels that the multipliers multiply", minimum=1)
    kernel: int = setting(3, "kernel size of every convolution", minimum=1)
    d_channel_mults: tuple[int, ...] = setting((1, 1, 2, 2, 4, 4), "channels of D's conv layers / base_channels")
    d_strides: tuple[int, ...] = setting((1, 2, 1, 2, 1, 2), "strides of D's conv layers")
    d_hidden: tuple[int, ...] = setting((), "units of D's fully connected layers after the conv layers")
    g_hidden: tuple[int, ...] = setting((), "units of G's fully connected layers before the one that is reshaped")
    g_channel_mults: tuple[int, ...] = setting(
        (4, 4, 2, 2, 1, 1), "channels of G's feature maps / base_channels; the first are the reshaped linear layer's"
    )
    g_strides: tuple[int, ...] = setting(
        (2, 1, 2, 1, 2, 1), "strides of G's conv layers; the last one's output is the image"
    )
    norm_scale_shift: bool = setting(True, "batch norm has a gain and a bias")
    g_first_norm: Literal["unit", "map"] = setting(
        "unit", "gains of G's reshaped linear layer: one per unit [release], or one per feature map"
    )
    d_norm: Literal["batch", "spectral"] = setting(
        "batch", "normalization of D: batch norm, or spectral norm of its weights, with biases"
    )
    output: Literal["tanh", "sigmoid"] = setting("tanh", "output activation of G")
    negative_slope: float = setting(0.2, "slope of the leaky ReLU [s4]")
    z_dim: int = setting(256, "length of z", minimum=1)
    z_distribution: Literal["uniform", "normal"] = setting("uniform", "distribution of z: U(-1, 1) or N(0, 1)")
    init_std: float = setting(0.02, "weights start as N(0, std), batch-norm gains as N(1, std) [s4, release]")
    norm_eps: float = setting(1e-8, "epsilon of batch norm [release]")
    batch_size: int = setting(128, "images per minibatch [s4]", minimum=2)
    lr: float = setting(2e-4, "learning rate of Adam [s4]", minimum=0)
    beta1: float = setting(0.5, "beta1 of Adam [s4]", minimum=0)
    beta2: float = setting(0.999, "beta2 of Adam [release]", minimum=0)
    adam_eps: float = setting(1e-8, "epsilon of Adam [release]")
    l2: float = setting(
        0.0, "L2: added to the gradient of every parameter before Adam, gains and biases included [release]", minimum=0
    )
    loss: Literal["bce", "hinge"] = setting("bce", "loss of both networks")
    g_ema: float = setting(0.0, "decay of a moving average of G's weights, which draws the samples; 0: none", minimum=0)
    d_ema: float = setting(0.0, "decay of a moving average of D's weights, used for features; 0: none", minimum=0)
    random_flip: bool = setting(False, "flip real images horizontally at random")
    random_crop: bool = setting(False, "crop a random square of `size` from larger images, a new one each time")
    input_noise_std: float = setting(
        0.0, "standard deviation of noise added to every input of D in training, in G's range", minimum=0
    )
    schedule: Literal["alternate", "both"] = setting(
        "alternate", "networks updated per minibatch: one in turn [release], or both"
    )
    d_updates: int = setting(150_000, "length of the training in updates of D", minimum=1)
    lr_decay_start: float = setting(1.0, "share of the training after which lr falls linearly to zero", minimum=0)

    def __post_init__(self) -> None:
        where = f"recipe {self.name}"
        _check_fields(self, where)
        for mults, strides in (("d_channel_mults", "d_strides"), ("g_channel_mults", "g_strides")):
            if not getattr(self, mults) or len(getattr(self, mults)) != len(getattr(self, strides)):
                raise EvalkitError(f"{where}: {mults} and {strides} differ in length or are empty")
        if self.kernel % 2 == 0 and ({*self.d_strides, *self.g_strides} != {2} or self.size % 2 ** len(self.d_strides)):
            raise EvalkitError(
                f"{where}: kernel = {self.kernel} is even, which needs strides of 2 throughout and a size that is a "
                "multiple of their product"
            )
        for key in ("g_ema", "d_ema"):
            if getattr(self, key) >= 1:
                raise EvalkitError(f"{where}: {key} = {getattr(self, key)}, expected a decay below 1, like 0.999")
        if self.size % self.g_total_stride:
            raise EvalkitError(f"{where}: size {self.size} is no multiple of {self.g_total_stride} (g_strides)")

    @property
    def padding(self) -> int:
        """Zeros at each border that make a convolution's output its input / stride."""
        return (self.kernel - 1) // 2

    @property
    def g_total_stride(self) -> int:
        """How many times larger the image is than the generator's first feature maps."""
        return math.prod(self.g_strides)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class TrainOptions:
    """How a training is run. Only `seed`, `precision`, `sync_batch_norm` and a rewind change the weights.

    Seed and precision belong to the run; the others may change when it is resumed, and its checkpoints record it.

    Raises:
        EvalkitError: a number below its minimum or an unknown choice.
    """

    seed: int = setting(0, "Seed of the initial weights, the order of the images and z.", minimum=0)
    checkpoint_minutes: float = setting(
        10.0, "Minutes between checkpoints: the most that a killed run loses.", minimum=0
    )
    checkpoint_updates: int = setting(0, "D updates between additional checkpoints; 0: by time alone.", minimum=0)
    keep: int = setting(3, "Number of latest checkpoints to keep.", minimum=1)
    milestones: int = setting(0, "Keep checkpoints at multiples of this many D updates for good; 0: none.", minimum=0)
    log_updates: int = setting(20, "D updates between lines of metrics.csv.", minimum=1)
    nnd_samples: int = setting(
        0, "Samples for the mean distance of real images to the nearest sample, per epoch; 0: not measured.", minimum=0
    )
    tensorboard: bool = setting(False, "Log to RUN/events, too (pip install 'evalkit[tensorboard]').")
    on_collapse: Literal["stop", "rewind"] = setting(
        "stop",
        "What to do when D saturates or the samples collapse: stop, or rewind and resume with other minibatches.",
    )
    compile: bool = setting(False, "Compile the networks with torch.compile: slow to start, faster on a GPU.")
    sync_batch_norm: bool = setting(
        False, "Under torchrun: batch statistics over all processes, not over each process's share of the minibatch."
    )
    device: str = setting("auto", "Device to train on: auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Arithmetic of convolutions; auto is bfloat16 where the hardware computes faster in it."
    )

    def __post_init__(self) -> None:
        _check_fields(self, "training")


def _check_fields(settings: Recipe | TrainOptions, where: str) -> None:
    """Raises EvalkitError for a value below its field's minimum or outside its field's choices."""
    kinds = typing.get_type_hints(type(settings))
    for each in dataclasses.fields(settings):
        value, minimum = getattr(settings, each.name), each.metadata.get("minimum")
        if minimum is not None and value < minimum:
            raise EvalkitError(f"{where}: {each.name} = {value}, expected at least {minimum}")
        choices = _choices(kinds[each.name])
        if choices and value not in choices:
            raise EvalkitError(f"{where}: {each.name} = {value!r}, expected {' or '.join(choices)}")


def _choices(kind: Any) -> tuple[str, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


_FIVE_BY_FIVE: dict[str, Any] = {
    "kernel": 5,
    "d_channel_mults": (1, 2, 4),
    "d_strides": (2, 2, 2),
    "g_channel_mults": (4, 2, 1),
    "g_strides": (2, 2, 2),
}
_SIXTY_FOUR: dict[str, Any] = _FIVE_BY_FIVE | {
    "size": 64,
    "d_channel_mults": (1, 2, 4, 8),  # 128, 256, 512, 1024 [release]
    "d_strides": (2, 2, 2, 2),
    "g_channel_mults": (8, 4, 2, 1),  # 1024, 512, 256, 128 [s4 fig. 1]
    "g_strides": (2, 2, 2, 2),
    "z_dim": 100,  # [s4 fig. 1]
    "l2": 1e-5,  # [release]
}
RECIPES: dict[str, Recipe] = {
    # The network of the CIFAR-10 table [release: imagenet_gan_pretrain_128f_relu_lrelu_7l_3x3_256z]: all defaults.
    # 150,000 D updates are its 30 epochs of ImageNet-1k, one network per minibatch. L2 [?]: none.
    "imagenet32": Recipe("imagenet32"),
    # The network of the SVHN table [release: svhn_unsup_all_conv_dcgan_100z_gaussian_lr_0.0005_64mb].
    "svhn": Recipe(
        "svhn", images="svhn", base_channels=64, z_dim=100, z_distribution="normal", lr=5e-4, batch_size=64,
        d_updates=114_400,  # 200 epochs of 73,257 images
        **_FIVE_BY_FIVE,
    ),
    "lsun64": Recipe("lsun64", d_updates=296_000, **_SIXTY_FOUR),  # 25 epochs of 3.03 million
    "faces64": Recipe("faces64", d_updates=34_000, **_SIXTY_FOUR),  # 25 epochs of 350,000
    "mnist": Recipe(
        "mnist", images="mnist", size=28, channels=1, classes=10, base_channels=64, kernel=5,
        d_channel_mults=(1, 2), d_strides=(2, 2), d_hidden=(1024,), g_hidden=(1024,),
        g_channel_mults=(2, 1), g_strides=(2, 2),
        norm_scale_shift=False, output="sigmoid", z_dim=100, l2=2.5e-5,  # [release]
        d_updates=46_800, lr_decay_start=0.5,  # 100 epochs at 2e-4, 100 of linear decay
    ),
    # Ours: small enough to train in under a minute on two cores; updates both networks on every minibatch.
    "digits": Recipe(
        "digits", images="digits", base_channels=32, z_dim=32, schedule="both", d_updates=300,
        **_FIVE_BY_FIVE,
    ),
    # differs from the paper: G's moving average draws the samples (Karras et al. 2018); D is trained as before
    "imagenet32-ema": Recipe("imagenet32-ema", g_ema=0.999),
    # differs from the paper: spectral norm and the hinge loss (Miyato et al. 2018; Lim & Ye 2017), nothing else.
    "imagenet32-sn-hinge": Recipe("imagenet32-sn-hinge", d_norm="spectral", loss="hinge"),
}  # fmt: skip


def load_recipe(name: str, values: Mapping[str, Any] = MappingProxyType({})) -> Recipe:
    """A recipe by name, or from a TOML file (`NAME.toml`) whose `base` names the recipe that it changes.

    Args:
        values: values of the recipe to change, as `override` takes them.

    Raises:
        EvalkitError: no such recipe (the message lists them), an unreadable file, an unknown key or a bad value.
    """
    if values:
        return override(load_recipe(name), values)
    if name in RECIPES:
        return RECIPES[name]
    if not name.endswith(".toml"):
        raise EvalkitError(f"{name}: no such recipe; choose {', '.join(RECIPES)} or a .toml file")
    path = Path(name)
    try:
        stored = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file; expected a recipe in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise EvalkitError(f"{path}: not readable as TOML ({error})") from None
    base = load_recipe(str(stored.pop("base", "imagenet32")))
    return override(base, {"name": path.stem} | stored)


def override(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with some values changed; strings (from the command line) are parsed as TOML values.

    Raises:
        EvalkitError: an unknown key (the message lists the keys) or a value of the wrong type.
    """
    hints = typing.get_type_hints(Recipe)
    changed = {}
    for key, value in values.items():
        if key not in hints:
            raise EvalkitError(f"recipe {recipe.name}: no setting {key!r}; it has {', '.join(hints)}")
        changed[key] = _typed(key, value, hints[key])
    return dataclasses.replace(recipe, **changed)


def _typed(key: str, value: Any, kind: Any) -> Any:
    if isinstance(value, str) and kind is not str and not _choices(kind):
        try:
            value = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise EvalkitError(f"recipe setting {key} = {value!r}: expected {_kind_name(kind)}") from None
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, types.GenericAlias):
        if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
            return tuple(value)
    elif _choices(kind) or type(value) is kind:
        return value
    raise EvalkitError(f"recipe setting {key} = {value!r}: expected {_kind_name(kind)}")


def _kind_name(kind: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    return names.get(kind, "a list of integers, like [1, 2, 4]")
