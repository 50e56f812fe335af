"""Encoder: a frozen network with its preprocessing, and the interface that networks of encoders implement.

The kinds of encoders (the other files here) create them; `features` sets their batch norms and runs them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.batch_statistics import BatchNorm as BatchNorm
from evalkit.errors import EvalkitError
from evalkit.workspace import Workspace

Reduce = Callable[[str, Tensor], Tensor]  # a layer's name and output -> what is kept of it


@dataclass(frozen=True)
class Preprocessing:
    """The step from uint8 images (N, H, W, 3) to the network's input, float32 (N, channels, h, w).

    Attributes:
        size: height and width the network takes; None: any.
        resize: images of another size are resized to `size` (bilinear, antialiased); otherwise they are refused.
        channels: 3, or 1 for the first channel alone.
        range: the values that 0 and 255 are mapped to.
        mean, std: subtracted and divided by after that, one value or one per channel.
    """

    size: int | None = None
    resize: bool = False
    channels: int = 3
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        ordered = len(self.range) == 2 and self.range[0] < self.range[1]
        fitting = len(self.mean) in (1, self.channels) and len(self.std) in (1, self.channels) and 0 not in self.std
        if not (ordered and fitting):
            raise EvalkitError(
                f"{self}: expected range (low, high), and mean and std with one value or one per channel, std not 0"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) -> float32 (N, channels, h, w), channels last in memory."""
        x = images.permute(0, 3, 1, 2)[:, : self.channels].float()
        if self.size and x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        low, high = self.range
        x = x / (255 / (high - low)) + low
        if self.mean == (0.0,) and self.std == (1.0,):
            return x
        mean, std = (torch.tensor(values, device=x.device).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std

    def check(self, height: int, width: int, who: str) -> None:
        """Refuses images of a size that the network does not take.

        Args:
            who: the network, as the message begins.

        Raises:
            EvalkitError: the message has both sizes.
        """
        if self.size and not self.resize and (height, width) != (self.size, self.size):
            raise EvalkitError(
                f"{who} takes images of {self.size}x{self.size}, these are {height}x{width}; "
                f"prepare them with --size {self.size}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def describe(self) -> str:
        """The preprocessing in one line."""
        size = f"{self.size} x {self.size} pixels{', resized' if self.resize else ''}" if self.size else "any size"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{size}; range {self.range[0]:g} to {self.range[1]:g}, mean {mean}, std {std}"


class Network(nn.Module, ABC):
    """An encoder's network: preprocessed images (N, C, h, w), float -> outputs of named layers."""

    default: tuple[str, ...]  # the layers taken unless others are selected; empty: all that the network returns

    @abstractmethod
    def forward(self, images: Tensor, layers: Sequence[str] | None = None, reduce: Reduce | None = None) -> Any:
        """{layer: output} in order of computation; all layers where `layers` is None.

        Each output goes through `reduce` as soon as it is computed, so that large maps need not be kept.
        """

    @abstractmethod
    def batch_norms(self) -> dict[str, BatchNorm]:
        """The batch norms whose statistics can be set, by name, in order of computation."""

    @abstractmethod
    def optimized_for_inference(self, layers: Sequence[str], *, precision: str, sample: Tensor) -> nn.Module:
        """A copy for many images, called as `forward` with all three arguments: batch norms folded, in `precision`.

        `sample` holds a few preprocessed images to test the folding on.
        """


def whole(name: str, output: Tensor) -> Tensor:
    """A Reduce: a layer's whole output, copied before later layers overwrite it."""
    return output.clone()


def shape_only(name: str, output: Tensor) -> Tensor:
    """A Reduce: a layer's output without its values."""
    return torch.empty(output.shape, device="meta")


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder.

    Attributes:
        name: name in features and results, e.g. "imagenet32@800" (run @ D updates), "random:imagenet32", "pixels".
        network: float32, on the CPU, in eval mode.
        preprocessing: from uint8 images to the network's input.
        sha256: hash of the weights (of the file, where there is one); empty for pixels.
        weights: path of the weights file, empty where there is none.
        images_sha256: hash of the images the network was trained on; empty where that is not known.
        batch_norm: its default mode: `target` for a DCGAN, as in the paper, else `running`.
        source_statistics: batch-norm statistics of those images by name, float32 (channels,); empty where the weights
            came without.
    """

    name: str
    network: Network
    preprocessing: Preprocessing
    sha256: str = ""
    weights: str = ""
    images_sha256: str = ""
    batch_norm: str = "running"
    source_statistics: Mapping[str, Tensor] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    own_code: bool = False
    _workspace: Workspace | None = field(default=None, repr=False, compare=False)  # keeps a temporary one

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)
