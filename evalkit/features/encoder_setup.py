"""An encoder made ready for many images: layers selected, batch norms set, tried on a few images, optimized.

`extract` runs the network that `setup_encoder` returns. `layer_table` says what an encoder's layers are.
"""

import difflib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.artifacts import ArtifactWriter, sha256_json, write_atomically
from evalkit.encoders.encoder import Encoder, Reduce, shape_only, whole
from evalkit.errors import EvalkitError, one_line
from evalkit.features.batchnorm import (
    has_running_statistics,
    load_statistics,
    normalise_by_batch,
    set_statistics,
    statistics,
)
from evalkit.features.featureset import Layer
from evalkit.features.options import Augmentation, LayerSelection
from evalkit.features.pooling import feature_columns, pool_output
from evalkit.features.rounding import NOISE, Rounding, measure, worst
from evalkit.images.imageset import ImageSet
from evalkit.runtime import Ranks
from evalkit.weights_files import listed

SAMPLE = 8  # images that an encoder is tried on
_SUBSET = 3  # of these images, run once more without the others
_TOLERANCE = 1e-3  # of a layer's largest output; float32 sums in another order differ by about 1e-6

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ExtractionJob:
    """All that determines an extraction; `mode` (of batch norm) is empty for a network without batch norm."""

    images: ImageSet
    encoder: Encoder
    selection: LayerSelection
    augmentation: Augmentation
    mode: str
    source_images: ImageSet | None
    dtype: str
    precision: str
    device: torch.device
    ranks: Ranks
    outputs_sha256: str = ""  # of own code, for fixed images
    requested: Mapping[str, str] = field(default_factory=dict)  # dtype and precision, which may be `auto`

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in the manifest; the features are the same only if they are equal."""
        return {
            "dataset": self.images.name,
            "encoder": self.encoder.name,
            "weights": self.encoder.weights,
            "batch_norm": self.mode,
            "dtype": self.dtype,
            "precision": self.precision,
            "requested": dict(self.requested),
            "default_layers": list(self.encoder.network.default),
            "splits": {name: list(rows) for name, rows in self.images.splits.items()},
        } | (self.selection.as_dict() | self.augmentation.as_dict())

    @property
    def made_from(self) -> dict[str, str]:
        """Hashes of weights, preprocessing, images, labels, and of the images that batch-norm statistics come from."""
        encoder = [self.encoder.preprocessing.as_dict(), self.outputs_sha256]
        hashes = {"weights_sha256": self.encoder.sha256, "encoder_sha256": sha256_json(encoder)}
        hashes["images_sha256"] = self.images.sha256
        hashes["labels_sha256"] = sha256_json([self.images.labels.tolist(), list(self.images.class_names)])
        if self.mode != "source":
            return hashes
        known = bool(self.encoder.source_statistics)
        return hashes | {"statistics_sha256": self.encoder.images_sha256 if known else self.statistics_images.sha256}

    @property
    def statistics_images(self) -> ImageSet:
        """The images that the batch-norm statistics are computed on, unless the encoder comes with them.

        Raises:
            EvalkitError: `source` without the images that the encoder was trained on, or with images of another size.
        """
        if self.mode != "source":
            return self.images
        given = self.source_images
        if given is None or given.sha256 != self.encoder.images_sha256:
            raise EvalkitError(
                f"{self.encoder.name}: batch norm `source` needs the images it was trained on, found "
                f"{given.name if given else 'none given'}"
            )
        height, width = given.images.shape[1:3]  # larger than the network's input if it was trained on crops
        self.encoder.preprocessing.check(height, width, f"{self.encoder.name}: batch norm `source`")
        return given

    def tensor(self, first: int, end: int) -> Tensor:
        """Images, uint8 (n, H, W, 3), on the device."""
        return torch.from_numpy(np.array(self.images.images[first:end])).to(self.device)


class Ready(NamedTuple):
    """A network to run, the columns of its layers, and what its arithmetic loses on the images that it was tried on."""

    network: nn.Module
    layers: list[Layer]
    rounding: Rounding


def setup_encoder(job: ExtractionJob, artifact: ArtifactWriter) -> Ready:
    """An encoder to run, with its batch norms frozen and folded; tried on a few images.

    Statistics are set in a copy, so that another extraction with the same encoder starts from the encoder's own.

    Raises:
        EvalkitError: no such layer, no statistics, too large a shift, outputs that are not finite or depend on the
            batch.
    """
    encoder, sample, selection = job.encoder, job.tensor(0, SAMPLE), job.selection
    if job.mode:
        encoder = replace(encoder, network=deepcopy(encoder.network))
    encoder.network.to(job.device).to(memory_format=torch.channels_last)
    shapes = layer_shapes(encoder, sample)
    job.augmentation.check(*encoder.preprocessing(sample).shape[2:])
    names = select_layers(encoder, shapes, selection)
    selected = {name: shapes[name] for name in names}
    last = channels_last_layers(encoder, sample, selected, selection)
    layers = feature_columns(selected, selection, channels_last=last)
    _set_batch_norms(job, encoder, artifact)
    check_outputs(encoder, sample, names, alone=job.mode != "batch")
    network = encoder.network.optimized_for_inference(
        names, precision=job.precision, sample=encoder.preprocessing(sample)
    )
    network = network.to(job.device)
    exact = job.precision == "float32"
    return Ready(
        network, layers, Rounding() if exact else _arithmetic_error(encoder, network, sample, layers, selection)
    )


def _arithmetic_error(
    encoder: Encoder, network: nn.Module, images: Tensor, layers: Sequence[Layer], selection: LayerSelection
) -> Rounding:
    """How far the features of a few images are from those of float32 arithmetic, layer by layer."""
    last = {layer.name: layer.channels_last for layer in layers}

    def reduce(name: str, output: Tensor) -> Tensor:
        return pool_output(output, selection, channels_last=last[name]).float().clone()

    exact = _run(encoder, images, list(last), reduce)
    with torch.no_grad():
        rounded = network(encoder.preprocessing(images), list(last), reduce)
    return worst([measure(torch, exact[name], rounded[name], noise=NOISE) for name in last])


def _set_batch_norms(job: ExtractionJob, encoder: Encoder, artifact: ArtifactWriter) -> None:
    """Freezes the network's batch norms; statistics are computed once and stored beside the features."""
    network, stored = encoder.network, artifact.path / "statistics.safetensors"
    if job.mode == "batch":
        normalise_by_batch(network)
    if job.mode in ("", "batch"):
        return
    if job.mode == "running":
        _check_running_statistics(encoder)
    if job.ranks.objects(stored.exists())[0]:
        load_statistics(network, load_file(stored, device=str(job.device)))
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
        write_atomically(stored, save({name: value.cpu() for name, value in statistics(network).items()}))


def _check_running_statistics(encoder: Encoder) -> None:
    if encoder.batch_norm != "running" and not has_running_statistics(encoder.network):
        raise EvalkitError(
            f"{encoder.name}: batch norm `running` needs the statistics of the training, and these weights have none; "
            f"use {encoder.batch_norm}"
        )


def variant(
    encoder: Encoder, selection: LayerSelection, batch_norm: str | None, augmentation: Augmentation
) -> list[str]:
    """What differs from the encoder's own batch norm and the paper's layers and images, in words for results."""
    other = batch_norm not in (None, encoder.batch_norm) and encoder.network.batch_norms()
    return ([f"{batch_norm} batch norm"] if other else []) + selection.variant() + augmentation.variant()


class LayerEntry(NamedTuple):
    """One layer of an encoder.

    Attributes:
        layer: its name, and the columns that it would have if all layers were selected.
        shape: of its output, without the first axis.
        selected: whether its features would be extracted.
    """

    layer: Layer
    shape: Shape
    selected: bool


def layer_table(encoder: Encoder, images: Tensor, selection: LayerSelection) -> list[LayerEntry]:
    """Every layer of an encoder for images uint8 (N, H, W, 3), in the order in which they are computed."""
    shapes = layer_shapes(encoder, images)
    names = select_layers(encoder, shapes, selection)
    last = channels_last_layers(encoder, images, shapes, selection)
    layers = feature_columns(shapes, selection, channels_last=last)
    return [LayerEntry(layer, shapes[layer.name], layer.name in names) for layer in layers]


def select_layers(encoder: Encoder, shapes: Mapping[str, Shape], selection: LayerSelection) -> list[str]:
    """Names of the selected layers, in the encoder's order.

    Raises:
        EvalkitError: no layer of that name; the message offers the nearest names.
    """
    outputs = [name for name in shapes if name.split(".")[0] == "output"]
    wanted = selection.layers or encoder.network.default or outputs
    for name in wanted:
        if name not in shapes:
            near = difflib.get_close_matches(name, shapes, n=3, cutoff=0) or ["none"]
            raise EvalkitError(f"{encoder.name}: no layer {name!r}; nearest: {', '.join(near)}; see --list-layers")
    if not wanted:
        raise EvalkitError(f"{encoder.name}: returns no tensor (N, ...) of floats; name its layers, see --list-layers")
    return [name for name in shapes if name in wanted]


def layer_shapes(encoder: Encoder, images: Tensor) -> dict[str, Shape]:
    """The shape of every layer's output, without its first axis, for images uint8 (N, H, W, 3).

    Raises:
        EvalkitError: images of a size that the encoder does not take, or the network fails on them.
    """
    encoder.preprocessing.check(images.shape[1], images.shape[2], encoder.name)
    return {name: tuple(output.shape[1:]) for name, output in _run(encoder, images, None, shape_only).items()}


def check_outputs(encoder: Encoder, images: Tensor, layers: Sequence[str], *, alone: bool) -> None:
    """Runs the network on a few images and checks its outputs.

    Args:
        encoder: its network is run.
        images: uint8 (N, H, W, 3), at most SAMPLE.
        layers: names of the layers to check.
        alone: whether an image's features must not depend on the other images in the batch.

    Raises:
        EvalkitError: outputs that are not finite, or that change with the batch; the message names the layer.
    """
    outputs = _run(encoder, images, layers, whole)
    for name, output in outputs.items():
        if encoder.missing and torch.isnan(output).any():
            raise EvalkitError(
                f"{encoder.name}: layer {name} needs weights that their file lacks, of {listed(encoder.missing)}; "
                "choose other layers, see --list-layers"
            )
        if not torch.isfinite(output).all():
            wrong = output[~torch.isfinite(output)][0]
            raise EvalkitError(
                f"{encoder.name}: layer {name} gives {wrong:g}, expected finite numbers; the weights may have "
                f"diverged, or expect another range than {encoder.preprocessing.describe()}"
            )
    if not alone or len(images) <= _SUBSET:
        return
    for name, output in _run(encoder, images[:_SUBSET], layers, whole).items():
        difference = (output - outputs[name][:_SUBSET]).abs().max()
        if difference > _TOLERANCE * outputs[name].abs().max():
            raise EvalkitError(
                f"{encoder.name}: layer {name} of an image changes by {difference:.2g} with the number of images in "
                "the batch or from run to run; expected the same (is it in eval mode? normalised over the batch?)"
            )


def _run(encoder: Encoder, images: Tensor, layers: Sequence[str] | None, reduce: Reduce | None) -> dict[str, Tensor]:
    """The network's outputs; any exception inside the network becomes a one-line error about the encoder."""
    try:
        with torch.no_grad():
            return encoder.network(encoder.preprocessing(images), layers, reduce)
    except Exception as error:  # other people's code
        height, width = images.shape[1:3]
        raise EvalkitError(
            f"{encoder.name}: fails on {len(images)} images of {height}x{width} ({one_line(error)}); "
            "expected a network for any number of images of this size"
        ) from error


def channels_last_layers(
    encoder: Encoder, images: Tensor, shapes: Mapping[str, Shape], selection: LayerSelection
) -> frozenset[str]:
    """Names of the layers whose maps are (N, h, w, C), as in Swin and other networks, and not (N, C, h, w).

    Shapes alone do not say. Height and width are the two axes that grow with the image, so the network is also run on
    an image of twice the size. Where it takes no other size, or the axes do not grow (adaptive pooling), height and
    width are the two that are equal, for square images; where that decides nothing, channels come first.

    Args:
        encoder: its network is run on a larger image.
        images: uint8 (N, H, W, 3), of which the first is used.
        shapes: the shape of each layer's output for such images, without its first axis.
        selection: its `layout` decides, unless it is `auto`.
    """
    maps = {name: shape for name, shape in shapes.items() if len(shape) == 3}
    if selection.layout != "auto" or not maps:
        return frozenset(maps if selection.layout == "channels-last" else ())
    image = encoder.preprocessing(images[:1])
    larger = _shapes_of_larger(encoder, image, list(maps))
    square = image.shape[2] == image.shape[3]
    return frozenset(name for name, shape in maps.items() if _is_channels_last(shape, larger.get(name), square))


def _shapes_of_larger(encoder: Encoder, images: Tensor, layers: list[str]) -> dict[str, Shape]:
    """The layers' shapes for images of twice the size; empty where the network does not take them."""
    try:
        with torch.no_grad():
            outputs = encoder.network(F.interpolate(images, scale_factor=2), layers, shape_only)
    except Exception:  # other people's code
        return {}
    return {name: tuple(output.shape[1:]) for name, output in outputs.items()}


def _is_channels_last(shape: Shape, larger: Shape | None, square: bool) -> bool:
    grown = [new > old for old, new in zip(shape, larger or shape, strict=False)]
    if sum(grown) == 2:
        return grown == [True, True, False]
    return square and shape[0] == shape[1] != shape[2]
