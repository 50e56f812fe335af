"""Recipe: what defines a DCGAN and its training; any value can be changed by a file or on the command line.

Sources: [s4] = Radford, Metz & Chintala 2016, section 4; [release] = the scripts and file shapes of Newmu/dcgan_code at
ee12b2d. Values without one are not of the paper; their default is its way.

The recipes by name, each value with its source.

Sources: [s4] = Radford, Metz & Chintala 2016, section 4; [s5] = section 5; [release] = the scripts and file shapes of
Newmu/dcgan_code at ee12b2d; [?] = neither states it, the value is ours.

How to run a training, as opposed to what to train (the recipe).
"""

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import EvalkitError


@dataclass(frozen=True)
class Recipe:
    """A DCGAN and its training. Maps are multiples of `width`; strides give the image's way down and up.

    Raises:
        EvalkitError: values that make no network or no training, on construction.
    """

    name: str
    images: str = ""  # the image set it trains on; empty: the latest prepared one
    size: int = 32  # height and width of the images
    channels: int = 3
    classes: int = 0  # > 0: class-conditional on that many classes
    base_channels: int = 128
    kernel: int = 3
    d_channel_mults: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    d_strides: tuple[int, ...] = (1, 2, 1, 2, 1, 2)
    d_hidden: tuple[int, ...] = ()  # units of fully connected layers after the convs
    g_hidden: tuple[int, ...] = ()  # units of fully connected layers before the first maps
    g_channel_mults: tuple[int, ...] = (4, 4, 2, 2, 1, 1)  # the first is the reshaped linear layer's
    g_strides: tuple[int, ...] = (2, 1, 2, 1, 2, 1)  # the last one's output is the image
    norm_scale_shift: bool = True
    g_first_norm: Literal["unit", "map"] = "unit"  # gains of G's linear layer: one a unit [release], or one a map
    d_norm: Literal["batch", "spectral"] = "batch"  # spectral: of D's weights, with biases, in place of batch norm
    output: Literal["tanh", "sigmoid"] = "tanh"
    negative_slope: float = 0.2  # slope of the leaky ReLU [s4]
    z_dim: int = 256
    z_distribution: Literal["uniform", "normal"] = "uniform"  # U(-1, 1) or N(0, 1)
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
    random_flip: bool = False  # real images are mirrored at random
    random_crop: bool = False  # of larger images a random square of `size` each time
    input_noise_std: float = 0.0  # standard deviation of noise on all that D sees in training, in G's range
    schedule: Literal["alternate", "both"] = "alternate"  # one network a minibatch, or both [release: alternate]
    d_updates: int = 150_000  # length of the training, in updates of the discriminator
    lr_decay_start: float = 1.0  # share of the training after which lr falls linearly to zero

    def __post_init__(self) -> None:
        for key, smallest in _SMALLEST.items():
            if getattr(self, key) < smallest:
                raise EvalkitError(f"recipe {self.name}: {key} = {getattr(self, key)}, expected at least {smallest}")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise EvalkitError(
                    f"recipe {self.name}: {key} = {getattr(self, key)!r}, expected {' or '.join(choices)}"
                )
        for maps, strides in (("d_channel_mults", "d_strides"), ("g_channel_mults", "g_strides")):
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
        """How much larger the image is than the generator's first maps."""
        total = 1
        for stride in self.g_strides:
            total *= stride
        return total

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}


_SMALLEST = {
    "size": 8, "channels": 1, "classes": 0, "base_channels": 1, "kernel": 1, "z_dim": 1, "batch_size": 2, "lr": 0.0,
    "l2": 0.0, "d_updates": 1, "beta1": 0.0, "beta2": 0.0, "lr_decay_start": 0.0, "g_ema": 0.0,
    "d_ema": 0.0, "input_noise_std": 0.0,
}  # fmt: skip
_CHOICES = {
    "output": ("tanh", "sigmoid"), "z_distribution": ("uniform", "normal"), "schedule": ("alternate", "both"),
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
    # 150,000 D updates are its 30 epochs of ImageNet-1k, one network a minibatch. L2 [?]: none.
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
    # Ours: small enough to train in under a minute on two cores; trains at every step on both networks.
    "digits": Recipe(
        "digits", images="digits", base_channels=32, z_dim=32, schedule="both", d_updates=300,
        **_FIVE_BY_FIVE,
    ),
    # differs from the paper: G's moving average draws the samples (Karras et al. 2018); D is trained as before
    "imagenet32-ema": Recipe("imagenet32-ema", g_ema=0.999),
    # differs from the paper: spectral norm and the hinge loss (Miyato et al. 2018; Lim & Ye 2017), all else as it was.
    "imagenet32-sn-hinge": Recipe("imagenet32-sn-hinge", d_norm="spectral", loss="hinge"),
}  # fmt: skip


def recipe_named(name: str) -> Recipe:
    """A recipe by name, or from a TOML file (`NAME.toml`) whose `base` names the recipe that it changes.

    Raises:
        EvalkitError: no such recipe (the message lists them), an unreadable file, an unknown key or a bad value.
    """
    if name in RECIPES:
        return RECIPES[name]
    if not name.endswith(".toml"):
        raise EvalkitError(f"{name}: no such recipe; choose {', '.join(RECIPES)} or a .toml file")
    path = Path(name)
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file; expected a recipe as TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise EvalkitError(f"{path}: not readable as TOML ({error})") from None
    base = recipe_named(str(values.pop("base", "imagenet32")))
    return override(base, {"name": path.stem} | values)


ON_COLLAPSE = ("stop", "rewind")


@dataclass(frozen=True)
class TrainOptions:
    """Of these only `seed`, `precision`, `sync_batch_norm` and a rewind change the weights.

    Seed and precision belong to the run; the others may change when it goes on, and its checkpoints say so.

    Raises:
        EvalkitError: a number below its least sensible value.
    """

    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False  # torch.compile the networks: slow to start, faster on GPUs
    sync_batch_norm: bool = False  # statistics over all processes; else each normalises its share of the minibatch
    checkpoint_minutes: float = 10.0  # time between checkpoints
    checkpoint_updates: int = 0  # D updates between checkpoints besides; 0: by time alone
    keep: int = 3  # checkpoints kept, the latest ones
    milestones: int = 0  # checkpoints at multiples of this many D updates are kept for good
    log_updates: int = 20  # D updates between lines of metrics.csv
    nnd_samples: int = 0  # samples for the nearest-neighbour distance at each checkpoint; 0: not measured
    tensorboard: bool = False  # the lines of metrics.csv as TensorBoard events, too
    on_collapse: Literal["stop", "rewind"] = "stop"

    def __post_init__(self) -> None:
        smallest = {"seed": 0, "checkpoint_minutes": 0, "keep": 1, "milestones": 0, "log_updates": 1, "nnd_samples": 0}
        for key, least in smallest.items():
            if getattr(self, key) < least:
                raise EvalkitError(f"training: {key} = {getattr(self, key)}, expected at least {least}")
        if self.on_collapse not in ON_COLLAPSE:
            raise EvalkitError(f"training: on_collapse = {self.on_collapse!r}, expected {' or '.join(ON_COLLAPSE)}")
