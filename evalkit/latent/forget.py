"""Forgetting: drops the maps of G that make an object, and measures what changes (Radford et al. 2016, section 6.3.1).

Boxes on samples mark the object: read from JSON, or proposed by a feature of the discriminator. A logistic regression
finds the maps of a hidden layer that speak for cells in boxes.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from evalkit.errors import ConvergenceError, EvalkitError
from evalkit.gan.networks import Generator
from evalkit.latent.experiment import ExperimentResult, RenderedImage, Row, captioned_rows, contact_sheet, png
from evalkit.latent.model import CHUNK, FrozenDiscriminator, FrozenGAN, as_z
from evalkit.latent.settings import ForgetSettings

_SHOWN = 12  # samples in the image
_CONTROLS = 5  # random choices of the same number of maps, for comparison


@dataclass(frozen=True)
class Box:
    """Pixels left to right - 1 and top to bottom - 1 of the image of number `sample`."""

    sample: int
    left: int
    top: int
    right: int
    bottom: int

    def as_dict(self) -> dict[str, Any]:
        """The box as boxes.json has it."""
        return {"sample": self.sample, "box": [self.left, self.top, self.right, self.bottom]}


def forget_object(
    gan: FrozenGAN,
    z: Tensor | np.ndarray,
    boxes: Sequence[Box] | Path | str | None = None,
    settings: ForgetSettings = ForgetSettings(),
) -> ExperimentResult:
    """Images of the same z with and without the maps of a layer that speak for a box, and how much changed where.

    A logistic regression separates cells in a box from as many random cells of the same samples; every map with a
    weight above 0 is dropped everywhere. Change: mean absolute difference of pixels, out of 255, inside and outside the
    boxes, beside that of the same number of maps dropped at random.

    Args:
        z: (N, z_dim).
        boxes: on the images of z, by number, or a JSON file of such boxes (see `read_boxes`); None: D proposes them.

    Raises:
        EvalkitError: no box, one outside its image, no such layer, or boxes that leave no cell outside.
    """
    z, size, layer = as_z(gan, z), gan.recipe.size, hidden_layer(gan, settings.layer)
    before = gan.images(z)
    boxes, proposed_by = _boxes(gan, before, boxes, settings)
    boxed = np.unique([box.sample for box in boxes])
    maps = record_maps(gan, z[boxed], layer)
    in_cells = cells_in_boxes(boxes, samples=len(z), size=size, side=maps.shape[2])[boxed]
    weights, accuracy, cells = map_weights(maps, in_cells, seed=settings.seed)
    after = _without(gan, z, layer, np.flatnonzero(weights > 0))
    count, inside = int((weights > 0).sum()), cells_in_boxes(boxes, samples=len(z), size=size, side=size)[boxed]
    at_random = _random_changes(gan, z[boxed], layer, count, before[boxed], inside, seed=settings.seed)
    measured = {"maps": layer.channels, "maps_dropped": count, "cells": cells, "fit_accuracy_percent": accuracy}
    measured |= {f"change_{where}": value for where, value in _change(before[boxed], after[boxed], inside).items()}
    measured |= {f"change_{where}_random_maps": value for where, value in at_random.items()}
    used = {"layer": layer.name, "samples": len(z), "boxes": len(boxes), "seed": settings.seed}
    return ExperimentResult(
        "forget",
        used | {"proposed_by": proposed_by},
        _rendered(before, after, boxes, boxed),
        measurements=measured,
        tables={"maps": pd.DataFrame({"map": np.arange(layer.channels), "weight": weights, "dropped": weights > 0})},
        arrays={"z": z.cpu().numpy()},
        documents={"boxes": [box.as_dict() for box in boxes]},
    )


def _boxes(
    gan: FrozenGAN, images: np.ndarray, boxes: Sequence[Box] | Path | str | None, settings: ForgetSettings
) -> tuple[list[Box], dict[str, Any] | None]:
    """The boxes, and the layer and feature that proposed them; None for given ones."""
    if boxes is None:
        return propose_boxes(
            FrozenDiscriminator(gan),
            images,
            layer=settings.propose_layer,
            feature=settings.propose_feature,
            count=settings.propose_count,
        )
    if isinstance(boxes, (str, Path)):
        return read_boxes(Path(boxes), samples=len(images), size=gan.recipe.size), None
    return check_boxes(boxes, samples=len(images), size=gan.recipe.size), None


def map_weights(maps: np.ndarray, inside: np.ndarray, *, seed: int) -> tuple[np.ndarray, float, int]:
    """A weight for each map by logistic regression: how much it speaks for a cell within a box.

    Args:
        maps: float (n, maps, h, w).
        inside: bool (n, h, w).

    Returns:
        Weights (maps,), the accuracy in percent on the cells fitted, and their number: all cells inside the boxes and
        as many random cells outside (the paper does not say whether its random cells may lie inside).

    Raises:
        EvalkitError: no cell outside.
        ConvergenceError: the fit ended before its optimum.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    cells = maps.transpose(0, 2, 3, 1)
    positive, outside = cells[inside], cells[~inside]
    if not len(outside):
        raise EvalkitError("the boxes cover their samples completely, which leaves no cell outside; draw smaller boxes")
    rows = np.random.default_rng(seed).permutation(len(outside))[: len(positive)]
    x = np.concatenate([positive, outside[rows]])
    y = np.repeat([1, 0], [len(positive), len(rows)])
    model = LogisticRegression(max_iter=2000, class_weight="balanced")  # boxes may leave fewer cells outside
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            model.fit(x, y)
    except ConvergenceWarning:
        raise ConvergenceError(f"the regression on {len(x)} cells did not converge; give more boxes") from None
    return model.coef_[0], float(100 * model.score(x, y)), len(x)


def _change(before: np.ndarray, after: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    change = np.abs(after.astype(np.float32) - before).mean(3)
    changes = {"inside": float(change[inside].mean())}
    if not inside.all():
        changes["outside"] = float(change[~inside].mean())
    return changes


def _rendered(
    before: np.ndarray, after: np.ndarray, boxes: Sequence[Box], boxed: np.ndarray
) -> dict[str, RenderedImage]:
    framed = before.repeat(3, axis=3) if before.shape[3] == 1 else before.copy()
    for box in boxes:
        image = Image.fromarray(framed[box.sample])
        frame = (box.left, box.top, box.right - 1, box.bottom - 1)
        ImageDraw.Draw(image).rectangle(frame, outline="red")
        framed[box.sample] = np.asarray(image)
    some = boxed[:_SHOWN]
    rows = [Row("boxes", framed[some]), Row("original", before[some]), Row("without the maps", after[some])]
    return {
        "forget.png": RenderedImage(
            "samples with and without the maps that make what is in the boxes", png(captioned_rows(rows))
        ),
        "samples.png": RenderedImage("all samples by number, with their boxes", png(contact_sheet(framed))),
    }


def read_boxes(path: Path, *, samples: int, size: int) -> list[Box]:
    """The boxes in a JSON file: [{"sample": 3, "box": [left, top, right, bottom]}, ...], in pixels of the samples.

    Raises:
        EvalkitError: no such file, another form, no box, or a box outside the image; the message names the box.
    """
    try:
        items = json.loads(path.read_text())
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file; expected boxes as JSON") from None
    except (ValueError, OSError) as error:
        raise EvalkitError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(items, list):
        raise EvalkitError(f'{path}: expected a list like [{{"sample": 3, "box": [8, 4, 20, 16]}}]')
    return check_boxes([_box(path, item) for item in items], samples=samples, size=size, source=str(path))


def _box(path: Path, item: Any) -> Box:
    try:
        values = [item["sample"], *item["box"]]
        if len(values) != 5 or any(type(value) is not int for value in values):
            raise ValueError
        return Box(*values)
    except (KeyError, TypeError, ValueError):
        wanted = '{"sample": 3, "box": [left, top, right, bottom]} in whole pixels'
        raise EvalkitError(f"{path}: found {json.dumps(item)[:80]}, expected {wanted}") from None


def check_boxes(boxes: Sequence[Box], *, samples: int, size: int, source: str = "boxes") -> list[Box]:
    """The boxes, if there is at least one and all lie within their images.

    Raises:
        EvalkitError: no box, an empty one, one outside its image or of a sample that does not exist.
    """
    if not boxes:
        raise EvalkitError(f"{source}: there is no box; give at least one around the object to forget")
    for box in boxes:
        if not 0 <= box.sample < samples:
            raise EvalkitError(f"{source}: a box of sample {box.sample}, but the samples are 0 to {samples - 1}")
        if not (0 <= box.left < box.right <= size and 0 <= box.top < box.bottom <= size):
            values = [box.left, box.top, box.right, box.bottom]
            raise EvalkitError(
                f"{source}: box {values} of sample {box.sample} is empty or outside the image; "
                f"expected left < right and top < bottom within 0 to {size}"
            )
    return list(boxes)


def cells_in_boxes(boxes: Sequence[Box], *, samples: int, size: int, side: int) -> np.ndarray:
    """bool (samples, side, side): the cells of a side x side map that overlap a box of their sample."""
    inside = np.zeros((samples, side, side), bool)
    for box in boxes:
        rows = slice(box.top * side // size, -(-box.bottom * side // size))
        columns = slice(box.left * side // size, -(-box.right * side // size))
        inside[box.sample, rows, columns] = True
    return inside


def propose_boxes(
    discriminator: FrozenDiscriminator,
    images: np.ndarray,
    *,
    layer: str | None = None,
    feature: int | None = None,
    count: int = ForgetSettings.propose_count,
) -> tuple[list[Box], dict[str, Any]]:
    """Boxes where a feature of the discriminator responds most, on the `count` samples where it responds most.

    # differs from the paper: there a person drew 52 boxes around windows. Here the object is whatever the feature sees.
    A box extends from the strongest cell along its row and column as far as cells respond at least half as much.

    Args:
        layer: a conv layer of D [the last that is at least 8 cells wide].
        feature: a map of it [the one with the rarest and strongest responses, by kurtosis, as those to an object are].

    Returns:
        The boxes, and the layer and feature they come from.

    Raises:
        EvalkitError: no such layer or feature, or one that never responds.
    """
    sides = {name: discriminator.layer_outputs(images[:1], name).shape[2] for name in discriminator.layers}
    layer = layer or [name for name, side in sides.items() if side >= min(8, max(sides.values()))][-1]
    maps = np.clip(discriminator.layer_outputs(images, layer), 0, None)
    if feature is None:
        feature = _rarest(maps)
    if not 0 <= feature < maps.shape[1]:
        raise EvalkitError(f"{layer}: has features 0 to {maps.shape[1] - 1}, not {feature}")
    responses, scale = maps[:, feature], images.shape[1] / maps.shape[2]
    samples = np.argsort(-responses.max((1, 2)), kind="stable")[:count]
    boxes = [_box_around_peak(responses[s], int(s), scale) for s in samples if responses[s].max() > 0]
    if not boxes:
        raise EvalkitError(f"{layer}, feature {feature}: responds to no sample, so it proposes no box; choose another")
    return boxes, {"layer": layer, "feature": feature}


def _rarest(maps: np.ndarray) -> int:
    """The map (of n, maps, h, w) with the highest kurtosis over all samples and cells."""
    values = maps.transpose(1, 0, 2, 3).reshape(maps.shape[1], -1).astype(np.float64)
    centred = values - values.mean(1, keepdims=True)
    variance = (centred**2).mean(1)
    kurtosis = (centred**4).mean(1) / np.maximum(variance, 1e-12) ** 2
    return int(np.where(variance > 0, kurtosis, -1).argmax())


def _box_around_peak(response: np.ndarray, sample: int, scale: float) -> Box:
    y, x = np.unravel_index(response.argmax(), response.shape)
    strong = response >= response[y, x] / 2
    left, right = _run(strong[y], int(x))
    top, bottom = _run(strong[:, x], int(y))
    return Box(sample, *(round(edge * scale) for edge in (left, top, right, bottom)))


def _run(strong: np.ndarray, place: int) -> tuple[int, int]:
    """Start and end (exclusive) of the unbroken run of True around `place`."""
    weak = np.flatnonzero(~strong)
    before, after = weak[weak < place], weak[weak > place]
    return (int(before[-1]) + 1 if len(before) else 0), (int(after[0]) if len(after) else len(strong))


@dataclass(frozen=True)
class HiddenLayer:
    """A layer of the generator: its maps after their ReLU, `channels` of them, are the input of `next_layer`."""

    name: str
    next_layer: nn.Module
    channels: int


def _without(gan: FrozenGAN, z: Tensor, layer: HiddenLayer, maps: np.ndarray) -> np.ndarray:
    with drop_maps(layer, maps):
        return gan.images(z)


def _random_changes(
    gan: FrozenGAN, z: Tensor, layer: HiddenLayer, count: int, before: np.ndarray, inside: np.ndarray, *, seed: int
) -> dict[str, float]:
    """The mean change over random choices of `count` maps to drop."""
    random = np.random.default_rng(seed)
    chosen = [random.permutation(layer.channels)[:count] for _ in range(_CONTROLS)]
    changes = [_change(before, _without(gan, z, layer, maps), inside) for maps in chosen]
    return {where: float(np.mean([change[where] for change in changes])) for where in changes[0]}


def hidden_layers(generator: nn.Module) -> dict[str, HiddenLayer]:
    """ "first" (the reshaped linear layer), "deconv1" and so on up to the last before the image."""
    assert isinstance(generator, Generator)
    channels = [multiple * generator.recipe.base_channels for multiple in generator.recipe.g_channel_mults]
    names = ["first", *(f"deconv{index}" for index in range(1, len(channels)))]
    layers = zip(names, generator.deconvs, channels, strict=True)
    return {name: HiddenLayer(name, next_layer, count) for name, next_layer, count in layers}


def hidden_layer(gan: FrozenGAN, name: str | None) -> HiddenLayer:
    """A hidden layer of the generator by name; None: the second to last, the paper's choice (sec. 6.3.1).

    In the paper's bedroom network that is the layer with 256 maps: 200 of them are dropped, more than the last has.

    Raises:
        EvalkitError: no such layer; the message lists them.
    """
    layers = hidden_layers(gan.generator)
    if name is None:
        return list(layers.values())[max(0, len(layers) - 2)]
    if name not in layers:
        raise EvalkitError(f"recipe {gan.recipe.name}: its generator has no layer {name!r}; choose {', '.join(layers)}")
    return layers[name]


def record_maps(gan: FrozenGAN, z: Tensor, layer: HiddenLayer) -> np.ndarray:
    """The layer's maps for each z: float32 (N, maps, h, w)."""
    maps: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Tensor]) -> None:
        maps.append(inputs[0][:, : layer.channels].cpu())

    hook = layer.next_layer.register_forward_pre_hook(record)
    try:
        with torch.no_grad():
            for chunk in z.split(CHUNK):
                gan.decode(chunk)
    finally:
        hook.remove()
    return torch.cat(maps).numpy()


@contextmanager
def drop_maps(layer: HiddenLayer, maps: Sequence[int] | np.ndarray) -> Iterator[None]:
    """Within it, these maps of the layer are zero everywhere when the generator runs."""

    def zero(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        kept = inputs[0].clone()
        kept[:, maps] = 0
        return (kept,)

    hook = layer.next_layer.register_forward_pre_hook(zero)
    try:
        yield
    finally:
        hook.remove()
