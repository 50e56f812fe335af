"""Boxes on samples: read from JSON, checked, or proposed by a feature of the discriminator. Input of forget."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.latent.critic import Critic


@dataclass(frozen=True)
class Box:
    """Pixels left to right - 1 and top to bottom - 1 of the picture with number `sample`."""

    sample: int
    left: int
    top: int
    right: int
    bottom: int

    def as_dict(self) -> dict[str, Any]:
        """The box as boxes.json has it."""
        return {"sample": self.sample, "box": [self.left, self.top, self.right, self.bottom]}


def read_boxes(path: Path, *, samples: int, size: int) -> list[Box]:
    """The boxes in a JSON file: [{"sample": 3, "box": [left, top, right, bottom]}, ...], in pixels of the samples.

    Raises:
        EvalkitError: no such file, another form, no box, or a box outside the picture; the message names the box.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise EvalkitError(f"{path}: no such file; expected boxes as JSON") from None
    except (ValueError, OSError) as error:
        raise EvalkitError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(found, list):
        raise EvalkitError(f'{path}: expected a list like [{{"sample": 3, "box": [8, 4, 20, 16]}}]')
    return check_boxes([_box(path, item) for item in found], samples=samples, size=size, said=str(path))


def _box(path: Path, item: Any) -> Box:
    try:
        values = [item["sample"], *item["box"]]
        if len(values) != 5 or any(type(value) is not int for value in values):
            raise ValueError
        return Box(*values)
    except (KeyError, TypeError, ValueError):
        wanted = '{"sample": 3, "box": [left, top, right, bottom]} in whole pixels'
        raise EvalkitError(f"{path}: found {json.dumps(item)[:80]}, expected {wanted}") from None


def check_boxes(boxes: Sequence[Box], *, samples: int, size: int, said: str = "boxes") -> list[Box]:
    """The boxes, if there is one and all lie within their pictures.

    Raises:
        EvalkitError: none, an empty one, one outside its picture or of a sample that is not there.
    """
    if not boxes:
        raise EvalkitError(f"{said}: no box at all; draw at least one round the object to forget")
    for box in boxes:
        if not 0 <= box.sample < samples:
            raise EvalkitError(f"{said}: a box of sample {box.sample}, but the samples are 0 to {samples - 1}")
        if not (0 <= box.left < box.right <= size and 0 <= box.top < box.bottom <= size):
            values = [box.left, box.top, box.right, box.bottom]
            raise EvalkitError(
                f"{said}: box {values} of sample {box.sample} is empty or outside the picture; "
                f"expected left < right and top < bottom within 0 to {size}"
            )
    return list(boxes)


def covered(boxes: Sequence[Box], *, samples: int, size: int, side: int) -> np.ndarray:
    """bool (samples, side, side): the cells of a side x side map that overlap a box of their sample."""
    inside = np.zeros((samples, side, side), bool)
    for box in boxes:
        rows = slice(box.top * side // size, -(-box.bottom * side // size))
        columns = slice(box.left * side // size, -(-box.right * side // size))
        inside[box.sample, rows, columns] = True
    return inside


def propose_boxes(
    critic: Critic, pictures: np.ndarray, *, layer: str | None = None, feature: int | None = None, count: int = 52
) -> tuple[list[Box], dict[str, Any]]:
    """Boxes where a feature of the discriminator responds most, on the `count` samples where it does so most.

    # differs from the paper: there a person drew 52 boxes round windows. Here the object is whatever the feature sees.
    A box reaches from the strongest cell along its row and its column as far as cells respond at least half as much.

    Args:
        layer: a conv layer of D [the last that is at least 8 cells wide].
        feature: a map of it [the one whose responses are rarest and strongest, by kurtosis: most like an object's].

    Returns:
        The boxes, and the layer and feature they come from.

    Raises:
        EvalkitError: no such layer or feature, or one that never responds.
    """
    sides = {name: critic.taps(pictures[:1], name).shape[2] for name in critic.layers}
    layer = layer or [name for name, side in sides.items() if side >= min(8, max(sides.values()))][-1]
    maps = np.clip(critic.taps(pictures, layer), 0, None)
    if feature is None:
        feature = _rarest(maps)
    if not 0 <= feature < maps.shape[1]:
        raise EvalkitError(f"{layer}: has features 0 to {maps.shape[1] - 1}, not {feature}")
    responses, scale = maps[:, feature], pictures.shape[1] / maps.shape[2]
    samples = np.argsort(-responses.max((1, 2)), kind="stable")[:count]
    boxes = [_round_the_peak(responses[s], int(s), scale) for s in samples if responses[s].max() > 0]
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


def _round_the_peak(response: np.ndarray, sample: int, scale: float) -> Box:
    y, x = np.unravel_index(response.argmax(), response.shape)
    strong = response >= response[y, x] / 2
    left, right = _run(strong[y], int(x))
    top, bottom = _run(strong[:, x], int(y))
    return Box(sample, *(round(edge * scale) for edge in (left, top, right, bottom)))


def _run(strong: np.ndarray, place: int) -> tuple[int, int]:
    """Where the unbroken run of True round `place` starts, and the place after its end."""
    weak = np.flatnonzero(~strong)
    before, after = weak[weak < place], weak[weak > place]
    return (int(before[-1]) + 1 if len(before) else 0), (int(after[0]) if len(after) else len(strong))
