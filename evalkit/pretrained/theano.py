"""The release's arrays as our networks: which array is which parameter, and how Theano's conventions become torch's.

Theano convolves truly, with the kernel turned by 180 degrees; torch correlates. A kernel turned once gives the same
maps, in the discriminator's convolutions and in the generator's deconvolutions, which the release (lib/ops.py) takes
as the gradient of such a convolution. Matrices multiply from the right there (z @ w), from the left in torch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.gan.recipes import Recipe


@dataclass(frozen=True)
class Parameter:
    """One array of a release: its name in our network's state dict, and the layer it belongs to."""

    name: str
    layer: str


def discriminator_parameters(recipe: Recipe) -> list[Parameter]:
    """D's arrays in the release's order: w; then w, gain, bias a layer; last the output's weight."""
    found = []
    for index in range(len(recipe.d_maps)):
        names = ("conv.weight",) if index == 0 else ("conv.weight", "norm.weight", "norm.bias")
        found += [Parameter(f"blocks.{index}.{name}", f"conv{index + 1}") for name in names]
    return [*found, Parameter("out.weight", "out")]


def generator_parameters(recipe: Recipe) -> list[Parameter]:
    """G's arrays in the release's order: w, gain, bias of z's linear layer and of each deconv; the last has w alone."""
    found = [Parameter(name, "linear") for name in _normalised("linears.0", "linear_norms.0")]
    deconvs = len(recipe.g_maps)
    for index in range(deconvs):
        names = _normalised(f"deconvs.{index}", f"deconv_norms.{index}")[: 3 if index < deconvs - 1 else 1]
        found += [Parameter(name, f"deconv{index + 1}") for name in names]
    return found


def _normalised(layer: str, norm: str) -> tuple[str, str, str]:
    return f"{layer}.weight", f"{norm}.weight", f"{norm}.bias"


def read_array(path: Path, shape: torch.Size) -> Tensor:
    """One array of the release as the torch parameter of that shape, float32. No pickle is ever read.

    Raises:
        EvalkitError: no plain NumPy array, or not of the shape and type that the parameter needs.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise EvalkitError(f"{path}: no plain NumPy array ({error}); fetch the file again") from None
    expected = tuple(shape[::-1]) if len(shape) == 2 else tuple(shape)
    if not isinstance(array, np.ndarray) or array.shape != expected or array.dtype != np.float32:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise EvalkitError(f"{path}: {found}, expected float32 {expected}; is it a file of this model?")
    return torch.from_numpy(to_torch(array).copy())


def to_torch(array: np.ndarray) -> np.ndarray:
    """Kernels (o, i, h, w) turned by 180 degrees, matrices transposed, vectors (gains, biases) as they are."""
    if array.ndim == 4:
        return array[:, :, ::-1, ::-1]
    return array.T
