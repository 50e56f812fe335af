"""Batch-norm statistics of the pictures that weights were trained on, handed on with the weights.

With them `--batch-norm source` needs no pictures but those that are to be encoded.
"""

import torch
from safetensors.torch import save

from evalkit.device import resolve_device, resolve_precision
from evalkit.errors import EvalkitError
from evalkit.features.batchnorm import set_statistics, statistics
from evalkit.features.encoders.discriminators import discriminator_encoder
from evalkit.gan.networks import Discriminator
from evalkit.images import images_with_hash
from evalkit.pretrained.store import Pretrained
from evalkit.workspace import Workspace


def source_statistics(weights: Pretrained, dtype: torch.dtype, workspace: Workspace) -> tuple[bytes, str]:
    """The file's content, float32 by name as in "conv2.mean", and the arithmetic it was computed in.

    Args:
        weights: with a discriminator, trained on pictures that the workspace has.
        dtype: in which the discriminator is stored: the statistics are those of its rounded weights.

    Raises:
        EvalkitError: no batch norm, or pictures that are not there.
    """
    images = images_with_hash(workspace, weights.made_from.get("images_sha256", ""))
    if images is None:
        raise EvalkitError("source statistics need the pictures that the weights were trained on; prepare them first")
    network = Discriminator(weights.recipe)
    rounded = {
        key: value.to(dtype).float() if value.is_floating_point() else value
        for key, value in (weights.discriminator or {}).items()
    }
    network.load_state_dict(rounded)
    encoder = discriminator_encoder("source statistics", network, sha256="")
    if not encoder.network.norms():
        raise EvalkitError("source statistics: the discriminator has no batch norm")
    height, width = images.images.shape[1:3]
    encoder.preprocessing.check(height, width, "the discriminator")
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    encoder.network.to(device)
    set_statistics(
        encoder.network, images.training, preprocessing=encoder.preprocessing, precision=precision, device=device
    )
    return save({name: value.cpu() for name, value in statistics(encoder.network).items()}), precision
