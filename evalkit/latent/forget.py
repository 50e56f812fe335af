"""forget: drops the maps of G that draw an object, and measures what goes (Radford et al. 2016, section 6.3.1)."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from torch import Tensor

from evalkit.errors import ConvergenceError, EvalkitError
from evalkit.latent.boxes import Box, check_boxes, covered
from evalkit.latent.finding import Finding, Picture
from evalkit.latent.gan import FrozenGAN
from evalkit.latent.layers import HiddenLayer, dropped, find_layer, recorded
from evalkit.latent.pictures import Row, captioned, png, sheet

_SHOWN = 12  # samples in the picture
_CONTROLS = 5  # random choices of as many maps, to compare with


def forget(
    gan: FrozenGAN,
    z: Tensor,
    boxes: Sequence[Box],
    *,
    layer: str | None = None,
    seed: int = 0,
    proposed_by: dict[str, Any] | None = None,
) -> Finding:
    """The same z drawn with and without the maps of a layer that speak for a box, and how much changed where.

    A logistic regression tells cells in a box from as many random cells of the same samples; every map with a weight
    above 0 is dropped everywhere. Change: mean absolute difference of pixels, of 255, within and outside the boxes.
    Beside it: the same number of maps dropped at random.

    Args:
        z: (N, Z); boxes are on the pictures of these, by number.
        layer: of G, "first", "deconv1" and so on [the second highest].
        seed: of the random cells and of the maps dropped at random.
        proposed_by: what proposed the boxes, for the record; None: a person.

    Raises:
        EvalkitError: no box, one outside its picture, no such layer, or boxes that leave no cell outside.
    """
    z, size, chosen = z.to(gan.device), gan.recipe.size, find_layer(gan, layer)
    boxes = check_boxes(boxes, samples=len(z), size=size)
    boxed = np.unique([box.sample for box in boxes])
    maps = recorded(gan, z[boxed], chosen)
    in_cells = covered(boxes, samples=len(z), size=size, side=maps.shape[2])[boxed]
    weights, accuracy, cells = map_weights(maps, in_cells, seed=seed)
    count = int((weights > 0).sum())
    before, after = gan.pictures(z), _without(gan, z, chosen, np.flatnonzero(weights > 0))
    inside = covered(boxes, samples=len(z), size=size, side=size)[boxed]
    by_chance = _random_changes(gan, z[boxed], chosen, count, before[boxed], inside, seed=seed)
    figures = {"maps": chosen.maps, "maps_dropped": count, "cells": cells, "fit_accuracy_percent": accuracy}
    figures |= {f"change_{where}": value for where, value in _change(before[boxed], after[boxed], inside).items()}
    figures |= {f"change_{where}_random_maps": value for where, value in by_chance.items()}
    return Finding(
        "forget",
        {"layer": chosen.name, "samples": len(z), "boxes": len(boxes), "seed": seed, "proposed_by": proposed_by},
        _shown(before, after, boxes, boxed),
        figures=figures,
        tables={"maps": pd.DataFrame({"map": np.arange(chosen.maps), "weight": weights, "dropped": weights > 0})},
        arrays={"z": z.cpu().numpy()},
        documents={"boxes": [box.as_dict() for box in boxes]},
    )


def map_weights(maps: np.ndarray, inside: np.ndarray, *, seed: int) -> tuple[np.ndarray, float, int]:
    """A weight for each map: how much it speaks for a cell within a box, by logistic regression.

    Args:
        maps: float (n, maps, h, w).
        inside: bool (n, h, w).

    Returns:
        Weights (maps,), the accuracy in percent on the cells fitted, and their number. As many random cells outside
        the boxes as there are inside (the paper does not say whether its random cells may lie inside).

    Raises:
        EvalkitError: no cell outside.
        ConvergenceError: the fit ended before its optimum.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    cells = maps.transpose(0, 2, 3, 1)
    positive, outside = cells[inside], cells[~inside]
    if not len(outside):
        raise EvalkitError("the boxes cover their samples whole, so nothing stands against them; draw smaller ones")
    rows = np.random.default_rng(seed).permutation(len(outside))[: len(positive)]
    x = np.concatenate([positive, outside[rows]])
    y = np.repeat([1, 0], [len(positive), len(rows)])
    model = LogisticRegression(max_iter=2000, class_weight="balanced")  # where boxes leave fewer cells outside
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            model.fit(x, y)
    except ConvergenceWarning:
        raise ConvergenceError(f"the regression on {len(x)} cells did not converge; give more boxes") from None
    return model.coef_[0], float(100 * model.score(x, y)), len(x)


def _without(gan: FrozenGAN, z: Tensor, layer: HiddenLayer, maps: np.ndarray) -> np.ndarray:
    with dropped(layer, maps):
        return gan.pictures(z)


def _random_changes(
    gan: FrozenGAN, z: Tensor, layer: HiddenLayer, count: int, before: np.ndarray, inside: np.ndarray, *, seed: int
) -> dict[str, float]:
    """The mean change over some random choices of `count` maps to drop."""
    random = np.random.default_rng(seed)
    chosen = [random.permutation(layer.maps)[:count] for _ in range(_CONTROLS)]
    changes = [_change(before, _without(gan, z, layer, maps), inside) for maps in chosen]
    return {where: float(np.mean([change[where] for change in changes])) for where in changes[0]}


def _change(before: np.ndarray, after: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    change = np.abs(after.astype(np.float32) - before).mean(3)
    found = {"inside": float(change[inside].mean())}
    if not inside.all():
        found["outside"] = float(change[~inside].mean())
    return found


def _shown(before: np.ndarray, after: np.ndarray, boxes: Sequence[Box], boxed: np.ndarray) -> dict[str, Picture]:
    framed = before.repeat(3, axis=3) if before.shape[3] == 1 else before.copy()
    for box in boxes:
        image = Image.fromarray(framed[box.sample])
        frame = (box.left, box.top, box.right - 1, box.bottom - 1)
        ImageDraw.Draw(image).rectangle(frame, outline="red")
        framed[box.sample] = np.asarray(image)
    some = boxed[:_SHOWN]
    rows = [Row("boxes", framed[some]), Row("as drawn", before[some]), Row("without the maps", after[some])]
    return {
        "forget.png": Picture("samples with and without the maps that draw what is in the boxes", png(captioned(rows))),
        "samples.png": Picture("all samples by number, with their boxes", png(sheet(framed))),
    }
