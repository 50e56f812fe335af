"""The recipes by name, each value with its source.

Sources: [s4] = Radford, Metz & Chintala 2016, section 4; [s5] = section 5; [release] = the scripts and file shapes of
Newmu/dcgan_code at ee12b2d; [?] = neither states it, the value is ours.
"""

import tomllib
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.gan.recipe import Recipe as Recipe
from evalkit.gan.recipe import override as override

_FIVE_BY_FIVE: dict[str, Any] = {
    "kernel": 5,
    "d_maps": (1, 2, 4),
    "d_strides": (2, 2, 2),
    "g_maps": (4, 2, 1),
    "g_strides": (2, 2, 2),
}
_SIXTY_FOUR: dict[str, Any] = _FIVE_BY_FIVE | {
    "size": 64,
    "d_maps": (1, 2, 4, 8),  # 128, 256, 512, 1024 [release]
    "d_strides": (2, 2, 2, 2),
    "g_maps": (8, 4, 2, 1),  # 1024, 512, 256, 128 [s4 fig. 1]
    "g_strides": (2, 2, 2, 2),
    "z_length": 100,  # [s4 fig. 1]
    "l2": 1e-5,  # [release]
}

RECIPES: dict[str, Recipe] = {
    # The network of the CIFAR-10 table [release: imagenet_gan_pretrain_128f_relu_lrelu_7l_3x3_256z]: all defaults.
    # 150,000 D updates are its 30 epochs of ImageNet-1k, one network a minibatch. L2 [?]: none.
    "imagenet32": Recipe("imagenet32"),
    # The network of the SVHN table [release: svhn_unsup_all_conv_dcgan_100z_gaussian_lr_0.0005_64mb].
    "svhn": Recipe(
        "svhn", images="svhn", width=64, z_length=100, z_law="normal", lr=5e-4, batch_size=64,
        d_updates=114_400,  # 200 epochs of 73,257 pictures
        **_FIVE_BY_FIVE,
    ),
    "lsun64": Recipe("lsun64", d_updates=296_000, **_SIXTY_FOUR),  # 25 epochs of 3.03 million
    "faces64": Recipe("faces64", d_updates=34_000, **_SIXTY_FOUR),  # 25 epochs of 350,000
    "mnist": Recipe(
        "mnist", images="mnist", size=28, channels=1, classes=10, width=64, kernel=5,
        d_maps=(1, 2), d_strides=(2, 2), d_hidden=(1024,), g_hidden=(1024,), g_maps=(2, 1), g_strides=(2, 2),
        norm_scale_shift=False, output="sigmoid", z_length=100, l2=2.5e-5,  # [release]
        d_updates=46_800, decay_from=0.5,  # 100 epochs at 2e-4, 100 of linear decay
    ),
    # Ours: small enough to train in under a minute on two cores; trains at every step on both networks.
    "digits": Recipe(
        "digits", images="digits", width=32, z_length=32, schedule="both", d_updates=300,
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
