"""The settings of the latent experiments: one dataclass each, with defaults, bounds and help for the command line.

Standard library only, so that `evalkit --help` loads neither torch nor numpy.
"""

from dataclasses import dataclass
from typing import Literal

from evalkit.settings import setting

Path = Literal["straight", "spherical"]


@dataclass(frozen=True)
class SampleSettings:
    """Random samples on a contact sheet; `sample_gan`."""

    count: int = setting(100, "Number of samples.", minimum=1, maximum=10_000)
    columns: int = setting(10, "Samples per line.", minimum=1)
    by_score: bool = setting(True, "Number the samples from D's most to its least real, else in random order.")
    truncate: float = setting(
        0.0, "Sample every entry of z within +-TRUNCATE of its distribution; 0: the whole of it.", minimum=0
    )
    seed: int = setting(0, "Random seed of z.", minimum=0)


@dataclass(frozen=True)
class WalkSettings:
    """A path through some z; `latent_walk`."""

    steps: int = setting(10, "Steps from one z to the next.", minimum=1)
    path: Path = setting("straight", "straight: a line; spherical: an arc whose angle grows evenly.")
    loop: bool = setting(False, "Return to the first z, and also write the walk as a looped GIF.")
    seed: int = setting(0, "Random seed of the samples that steps are compared with, and of random z.", minimum=0)


@dataclass(frozen=True)
class ArithmeticSettings:
    """A signed sum of concepts; `latent_arithmetic`."""

    noise: float = setting(
        0.25,  # U(-0.25, 0.25) is added for the neighbors [paper, figure 7]
        "The eight neighbors of the result lie within +-NOISE of it.",
        minimum=0,
    )
    seed: int = setting(0, "Random seed of the neighbors.", minimum=0)


@dataclass(frozen=True)
class TurnSettings:
    """A move along the difference of two means; `latent_turn`."""

    steps: int = setting(9, "Images per sample.", minimum=2)
    reach: float = setting(1.0, "Length of the move from the middle to an end of the row, in turn vectors.")


@dataclass(frozen=True)
class InvertSettings:
    """Gradient descent on z; `invert_images`."""

    steps: int = setting(150, "Steps of Adam per start.", minimum=1)
    restarts: int = setting(
        4, "Starts per image, the nearest random samples; the best result counts.", minimum=1, maximum=128
    )
    seed: int = setting(0, "Random seed of the samples to start from.", minimum=0)


@dataclass(frozen=True)
class NearestSettings:
    """Which images samples are compared with; `nearest_training_images`."""

    held_out_count: int = setting(128, "Number of random held-out images.", minimum=2)
    num_images: int = setting(100_000, "Number of random training images compared in pixels; 0: all.", minimum=0)
    feature_images: int = setting(
        1000,
        "Number of these, chosen at random, that are compared in features, in addition to the four nearest in pixels "
        "of each image; 0: all.",
        minimum=0,
    )
    seed: int = setting(0, "Random seed of all random choices.", minimum=0)


@dataclass(frozen=True)
class FilterSettings:
    """Which features of D to visualize; `visualize_filters`. The paper shows the first 6 of the last layer."""

    layer: str | None = setting(None, "Conv layer of D, conv1 being the first [default: the last].")
    features: tuple[int, ...] = tuple(range(6))
    top: int = setting(6, "Images per feature, the strongest first.", minimum=1)
    num_images: int = setting(512, "Number of random images searched for the strongest.", minimum=2)
    steps: int = setting(64, "Steps of gradient ascent on the input.", minimum=1)
    seed: int = setting(0, "Random seed of the images, the random weights and the start of the ascent.", minimum=0)


@dataclass(frozen=True)
class ForgetSettings:
    """Which layer of G loses maps, and how boxes are proposed where there are none; `forget_object`."""

    layer: str | None = setting(
        None, "Layer of G whose maps are dropped: first, deconv1 and so on [default: the second to last]."
    )
    propose_layer: str | None = setting(
        None, "Layer of D that proposes boxes [default: the last that is at least 8 cells wide]."
    )
    propose_feature: int | None = setting(
        None, "Feature map of that layer [default: the one with the rarest responses].", minimum=0
    )
    propose_count: int = setting(52, "Number of boxes to propose.", minimum=1)  # as many as in the paper
    seed: int = setting(0, "Random seed of the cells outside boxes and of the maps dropped for comparison.", minimum=0)


@dataclass(frozen=True)
class ExploreSettings:
    """The page of `evalkit latent explore`."""

    count: int = setting(64, "Number of samples to pick from.", minimum=2, maximum=400)
    port: int = setting(8765, "Port on 127.0.0.1; 0: any free one.", minimum=0, maximum=65535)
    seed: int = setting(0, "Random seed of the samples and of the neighbors of a sum.", minimum=0)
