"""An encoder made ready for many images: layers chosen, batch norms fixed, tried on a few, lowered.

What is found out about an encoder before it runs over all images: its layers, whether its outputs are usable.

One extraction as it was asked for: images, encoder, taps, batch norm, and what its features are made from.

Which axis of a layer's maps holds the channels: (N, C, h, w), or (N, h, w, C) as in Swin and other networks.

Shapes alone do not say. Height and width are the two axes that grow with the image: the network is run on an image
of twice the size, too. Where it takes no other size or the axes do not grow (adaptive pooling), height and width are
the two that are equal, for square images; where that leaves both open, channels come first. `--layout` overrides.
"""

import difflib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.artifacts import ArtifactWriter, write_atomically
from evalkit.encoders.encoder import Encoder, Reduce, shape_only, whole
from evalkit.errors import EvalkitError, one_line
from evalkit.features.augmentation import Augmentation
from evalkit.features.batchnorm import (
    has_running_statistics,
    load_statistics,
    normalise_by_batch,
    set_statistics,
    statistics,
)
from evalkit.features.featureset import Layer
from evalkit.features.pooling import LayerSelection, feature_columns
from evalkit.images.imageset import ImageSet
from evalkit.runtime import Ranks


def _refuse_ungathered(encoder: Encoder) -> None:
    if encoder.batch_norm != "running" and not has_running_statistics(encoder.network):
        raise EvalkitError(
            f"{encoder.name}: batch norm `running` needs statistics gathered in training, these weights have none; "
            f"use {encoder.batch_norm}"
        )


SAMPLE = 8  # images that are tried
_FEWER = 3  # of them once more, without the others
_TOLERANCE = 1e-3  # of a layer's largest output; float32 in another order differs by about 1e-6


def layer_shapes(encoder: Encoder, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Every layer's output shape, without its first axis, for images uint8 (N, H, W, 3).

    Raises:
        EvalkitError: images of a size that the encoder does not take, or the network fails on them.
    """
    encoder.preprocessing.check(images.shape[1], images.shape[2], encoder.name)
    return {name: tuple(output.shape[1:]) for name, output in _tried(encoder, images, None, shape_only).items()}


def list_layers(
    encoder: Encoder, images: Tensor, layer_selection: LayerSelection
) -> list[tuple[Layer, tuple[int, ...], bool]]:
    """Every layer with its features' length under `taps`, its output's shape, and whether it would be taken."""
    shapes = layer_shapes(encoder, images)
    chosen = choose_layers(encoder, shapes, layer_selection)
    last = channels_last_layers(encoder, images, shapes, layer_selection)
    layers = feature_columns(shapes, layer_selection, channels_last=last)
    return [(layer, shapes[layer.name], layer.name in chosen) for layer in layers]


def choose_layers(encoder: Encoder, shapes: dict[str, tuple[int, ...]], layer_selection: LayerSelection) -> list[str]:
    """The layers to take, in the encoder's order.

    Raises:
        EvalkitError: no layer of that name; the message offers the nearest.
    """
    wanted = (
        layer_selection.layers or encoder.network.default or [name for name in shapes if name.split(".")[0] == "output"]
    )
    for name in wanted:
        if name not in shapes:
            near = difflib.get_close_matches(name, shapes, n=3, cutoff=0) or ["none"]
            raise EvalkitError(f"{encoder.name}: no layer {name!r}; nearest: {', '.join(near)}; see --list-layers")
    if not wanted:
        raise EvalkitError(f"{encoder.name}: returns no tensor (N, ...) of floats; name its layers, see --list-layers")
    return [name for name in shapes if name in wanted]


def check_outputs(encoder: Encoder, images: Tensor, layers: Sequence[str], *, alone: bool) -> None:
    """Tries a few images.

    Args:
        images: uint8 (N, H, W, 3), at most SAMPLE.
        alone: whether an image's features must not depend on the images beside it.

    Raises:
        EvalkitError: outputs that are not finite, or that change with the batch; the message names the layer.
    """
    outputs = _tried(encoder, images, layers, whole)
    for name, output in outputs.items():
        if not torch.isfinite(output).all():
            bad = output[~torch.isfinite(output)][0]
            raise EvalkitError(
                f"{encoder.name}: layer {name} gives {bad:g}, expected finite numbers; the weights may have diverged, "
                f"or expect another range than {encoder.preprocessing.describe()}"
            )
    if not alone or len(images) <= _FEWER:
        return
    for name, output in _tried(encoder, images[:_FEWER], layers, whole).items():
        difference = (output - outputs[name][:_FEWER]).abs().max()
        if difference > _TOLERANCE * outputs[name].abs().max():
            raise EvalkitError(
                f"{encoder.name}: layer {name} of an image changes by {difference:.2g} with the number of images "
                "beside it or from run to run; expected the same (is it in eval mode? normalised over the batch?)"
            )


def _tried(encoder: Encoder, images: Tensor, layers: Sequence[str] | None, reduce: Reduce | None) -> dict[str, Tensor]:
    """The network's outputs; whatever fails inside it is the encoder's error, in one line."""
    try:
        with torch.no_grad():
            return encoder.network(encoder.preprocessing(images), layers, reduce)
    except Exception as error:  # other people's code
        height, width = images.shape[1:3]
        raise EvalkitError(
            f"{encoder.name}: fails on {len(images)} images of {height}x{width} ({one_line(error)}); "
            "expected a network for any number of images of this size"
        ) from error


@dataclass(frozen=True)
class ExtractionJob:
    """What `extract` was asked for; `mode` is empty for a network without batch norm."""

    images: ImageSet
    encoder: Encoder
    layer_selection: LayerSelection
    augmentation: Augmentation
    mode: str
    source_images: ImageSet | None
    dtype: str
    precision: str
    device: torch.device
    ranks: Ranks

    @property
    def settings(self) -> dict[str, Any]:
        """What is stamped and has to be equal for the features to be the same."""
        return {
            "dataset": self.images.name,
            "encoder": self.encoder.name,
            "weights": self.encoder.weights,
            "batch_norm": self.mode,
            "dtype": self.dtype,
            "precision": self.precision,
        } | (self.layer_selection.as_dict() | self.augmentation.as_dict())

    @property
    def made_from(self) -> dict[str, str]:
        """Hashes of weights and images."""
        found = {"weights_sha256": self.encoder.sha256, "images_sha256": self.images.sha256}
        if self.mode != "source":
            return found
        known = bool(self.encoder.source_statistics)
        return found | {"statistics_sha256": self.encoder.images_sha256 if known else self.statistics_images.sha256}

    @property
    def statistics_images(self) -> ImageSet:
        """The images whose statistics normalise, where the encoder does not bring them.

        Raises:
            EvalkitError: `source` without the images that the encoder was trained on, or with ones of another size.
        """
        if self.mode != "source":
            return self.images
        given = self.source_images
        if given is None or given.sha256 != self.encoder.images_sha256:
            found = given.name if given else "none given"
            raise EvalkitError(
                f"{self.encoder.name}: batch norm `source` needs the images it was trained on, found {found}"
            )
        height, width = given.images.shape[1:3]  # larger ones, where it was trained on crops
        self.encoder.preprocessing.check(height, width, f"{self.encoder.name}: batch norm `source`")
        return given

    def tensor(self, first: int, end: int) -> Tensor:
        """Images, uint8 (n, H, W, 3), on the device."""
        return torch.from_numpy(np.array(self.images.images[first:end])).to(self.device)


def setup_encoder(job: ExtractionJob, artifact: ArtifactWriter) -> tuple[nn.Module, list[Layer]]:
    """A network to run, statistics fixed and folded in, and its layers' places; tried on a few images.

    Statistics are set in a copy, so that another extraction with the same encoder starts from its own.

    Raises:
        EvalkitError: no such layer, no statistics, too large a shift, outputs that are not finite or depend on the
            batch.
    """
    encoder, sample = job.encoder, job.tensor(0, SAMPLE)
    if job.mode:
        encoder = replace(encoder, network=deepcopy(encoder.network))
    encoder.network.to(job.device).to(memory_format=torch.channels_last)
    shapes = layer_shapes(encoder, sample)
    job.augmentation.check(*encoder.preprocessing(sample).shape[2:])
    layers = choose_layers(encoder, shapes, job.layer_selection)
    taken = {name: shapes[name] for name in layers}
    places = feature_columns(
        taken, job.layer_selection, channels_last=channels_last_layers(encoder, sample, taken, job.layer_selection)
    )
    _fix_batch_norms(job, encoder, artifact)
    check_outputs(encoder, sample, layers, alone=job.mode != "batch")
    network = encoder.network.optimized_for_inference(
        layers, precision=job.precision, sample=encoder.preprocessing(sample)
    )
    return network.to(job.device), places


def _fix_batch_norms(job: ExtractionJob, encoder: Encoder, artifact: ArtifactWriter) -> None:
    """Sets the network's batch norms; statistics are computed once and kept beside the features."""
    network, kept = encoder.network, artifact.path / "statistics.safetensors"
    if job.mode == "batch":
        normalise_by_batch(network)
    if job.mode in ("", "batch"):
        return
    if job.mode == "running":
        _refuse_ungathered(encoder)
    if job.ranks.objects(kept.exists())[0]:
        load_statistics(network, load_file(kept, device=str(job.device)))
        return
    if job.mode == "source" and encoder.source_statistics:
        load_statistics(network, encoder.source_statistics)
    elif job.mode != "running":
        set_statistics(
            network,
            job.statistics_images.training,
            preprocessing=encoder.preprocessing,
            precision=job.precision,
            device=job.device,
            ranks=job.ranks,
        )
    if job.ranks.writes:
        write_atomically(kept, save({name: value.cpu() for name, value in statistics(network).items()}))


def variant(
    encoder: Encoder, layer_selection: LayerSelection, batch_norm: str | None, augmentation: Augmentation
) -> list[str]:
    """What differs from the encoder's own batch norm and the paper's taps and views, in words that a figure carries."""
    other = batch_norm not in (None, encoder.batch_norm) and encoder.network.batch_norms()
    return ([f"{batch_norm} batch norm"] if other else []) + layer_selection.variant() + augmentation.variant()


Shapes = Mapping[str, tuple[int, ...]]


def channels_last_layers(
    encoder: Encoder, images: Tensor, shapes: Shapes, layer_selection: LayerSelection
) -> frozenset[str]:
    """Names of the layers whose maps are (N, h, w, C).

    Args:
        images: uint8 (N, H, W, 3), of which the first is tried.
        shapes: each layer's output for such images, without its first axis.
        taps: whose `layout` decides, unless it is `auto`.
    """
    maps = {name: shape for name, shape in shapes.items() if len(shape) == 3}
    if layer_selection.layout != "auto" or not maps:
        return frozenset(maps if layer_selection.layout == "channels-last" else ())
    pictures = encoder.preprocessing(images[:1])
    larger = _shapes_of_larger(encoder, pictures, list(maps))
    square = pictures.shape[2] == pictures.shape[3]
    return frozenset(name for name, shape in maps.items() if _is_channels_last(shape, larger.get(name), square))


def _shapes_of_larger(encoder: Encoder, images: Tensor, layers: list[str]) -> Shapes:
    """The layers' shapes for images of twice the size; empty where the network does not take them."""
    try:
        with torch.no_grad():
            outputs = encoder.network(F.interpolate(images, scale_factor=2), layers, shape_only)
    except Exception:  # other people's code
        return {}
    return {name: tuple(output.shape[1:]) for name, output in outputs.items()}


def _is_channels_last(shape: tuple[int, ...], larger: tuple[int, ...] | None, square: bool) -> bool:
    grown = [new > old for old, new in zip(shape, larger or shape, strict=False)]
    if sum(grown) == 2:
        return grown == [True, True, False]
    return square and shape[0] == shape[1] != shape[2]
