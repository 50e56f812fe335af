"""The settings of an extraction: which layers, how they are pooled, batch norm, augmentation, type on disk.

Standard library only: the command line reads its options from here.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from evalkit.errors import EvalkitError
from evalkit.settings import setting

Pool = Literal["max", "average", "none"]
Tokens = Literal["mean", "class"]
Layout = Literal["auto", "channels-first", "channels-last"]
BatchNormMode = Literal["target", "source", "running", "batch"]
FeatureType = Literal["auto", "float16", "float32"]


@dataclass(frozen=True)
class LayerSelection:
    """Which layers, and how their outputs become features; the defaults follow Radford et al. 2016, sec. 5.1.

    Attributes:
        layers: names; empty: the encoder's own choice.
        pool_size: maps are pooled to pool_size x pool_size cells; a side that is smaller stays as it is.
        pool: by maximum, by average, or not at all.
        tokens: what is kept of a transformer's tokens (N, T, C): their mean, or the first, the class token.
        layout: whether maps are (N, C, h, w) or (N, h, w, C); auto: determined for each layer, see `encoder_setup.py`.

    Raises:
        EvalkitError: a pool size below 1, or a choice that is not listed.
    """

    layers: tuple[str, ...] = ()
    pool_size: int = setting(4, "Cells per side of the pooled maps.", minimum=1)
    pool: Pool = setting("max", "How maps are pooled; none: they stay whole.")
    tokens: Tokens = setting("mean", "What is kept of a transformer's tokens: their mean, or the class token.")
    layout: Layout = setting(
        "auto", "Axes of maps in the network; auto: the axes that grow with the image are height and width."
    )

    def __post_init__(self) -> None:
        if self.pool_size < 1:
            raise EvalkitError(f"pool size {self.pool_size}: expected at least 1")
        for value, choices in ((self.pool, Pool), (self.tokens, Tokens), (self.layout, Layout)):
            if value not in get_args(choices):
                raise EvalkitError(f"{value!r}: expected {', '.join(get_args(choices))}")

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self) | {"layers": list(self.layers)}

    def variant(self) -> list[str]:
        """What differs from the paper's selection, in words for the encoder's name in results."""
        layers = "+".join(self.layers)
        parts = {
            layers if len(layers) <= 40 else f"{len(self.layers)} layers {self.layers[0]} to {self.layers[-1]}": layers,
            f"pool size {self.pool_size}": self.pool_size != 4 and self.pool != "none",
            "average pooled": self.pool == "average",
            "not pooled": self.pool == "none",
            "class token": self.tokens == "class",
            self.layout: self.layout != "auto",
        }
        return [name for name, differs in parts.items() if differs]


@dataclass(frozen=True)
class Augmentation:
    """Augmented copies of each image, whose features are averaged with its own.

    differs from the paper: its features are those of the image alone, which is the default.

    Attributes:
        hflip: add the horizontally flipped copy of the image and of each shifted copy.
        shift: if above 0, add four copies shifted by that many pixels of the network's input along both axes; the
            edges are filled by reflection.

    Raises:
        EvalkitError: a negative shift.
    """

    hflip: bool = setting(False, "Average the features of each image and its horizontally flipped copy.")
    shift: int = setting(
        0,
        "Average the features of each image and four copies shifted along both axes by this many pixels (five times "
        "the work).",
        minimum=0,
        metavar="PIXELS",
    )

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise EvalkitError(f"shift = {self.shift}, expected a number of pixels, 0 for none")

    def check(self, height: int, width: int) -> None:
        """Refuses a shift that is too large for images of this size.

        Raises:
            EvalkitError: names the shift and the size.
        """
        if self.shift >= min(height, width):
            raise EvalkitError(f"shift = {self.shift}, expected less than the images' {min(height, width)} pixels")

    def as_dict(self) -> dict[str, Any]:
        """The settings that are not the default, as JSON values."""
        return ({"hflip": True} if self.hflip else {}) | ({"shift": self.shift} if self.shift else {})

    def variant(self) -> list[str]:
        """What differs from the paper, in words for the encoder's name in results."""
        shifted = [f"shifted by {self.shift}"] if self.shift else []
        return shifted + (["with mirror image"] if self.hflip else [])


@dataclass(frozen=True)
class ExtractOptions:
    """The other settings of an extraction.

    Attributes:
        batch_norm: whose statistics the batch norms use, see `batchnorm.py`; None: the encoder's own choice.
        dtype: of the features on disk; auto: float16 unless it loses what a classifier could see, see `rounding.py`.
    """

    batch_norm: BatchNormMode | None = setting(
        None,
        "Batch-norm statistics: of the data set's training images, of the images the network was trained on, of its "
        "training, or of each batch [default: target, as in the paper, for runs and random:RECIPE, else running].",
    )
    dtype: FeatureType = setting("auto", "Type of the features on disk; auto: float16, or float32 where that loses.")
