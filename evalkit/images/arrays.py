"""Images that are objects already (arrays, tensors, torch data sets and loaders) as batches of uint8 RGB and labels.

`ImageSet.from_arrays` and `as_image_set` write these batches.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from evalkit.errors import EvalkitError
from evalkit.images.decode import to_rgb

BATCH = 500  # images: 1.5 MB at 32x32
_ACCEPTED = (
    "expected an array (N, H, W, C), a pair (images, labels), a torch Dataset or DataLoader of (image, label), "
    "or a dict of splits"
)


class Batch(NamedTuple):
    """Images, uint8 (n, H, W, 3), and labels, int64 (n,), -1 for none."""

    images: np.ndarray
    labels: np.ndarray


def batches_of(images: Any) -> Iterator[Batch]:
    """The images of one split: an array or tensor, a pair (images, labels), a torch Dataset or a DataLoader.

    Raises:
        EvalkitError: anything else, or images or labels that are not valid.
    """
    if isinstance(images, tuple) and len(images) == 2:
        return array_batches(*images)
    if _is_array(images):
        return array_batches(images)
    import torch.utils.data

    if isinstance(images, torch.utils.data.DataLoader):
        return _loader_batches(images)
    if isinstance(images, torch.utils.data.Dataset):
        return _dataset_batches(images)
    raise EvalkitError(f"images are a {type(images).__name__}; {_ACCEPTED}")


def array_batches(images: Any, labels: Any = None) -> Iterator[Batch]:
    """An array or tensor (N, H, W, C) or (N, C, H, W), uint8 or floats in [0, 1]; labels are whole numbers (N,).

    Raises:
        EvalkitError: not an array of images, or labels that do not fit.
    """
    if not _is_array(images):
        raise EvalkitError(f"images are a {type(images).__name__}; {_ACCEPTED}")
    shape = tuple(images.shape)
    if len(shape) != 4:
        hint = "; add the channel axis: images[..., None]" if len(shape) == 3 else ""
        raise EvalkitError(f"images have shape {shape}, expected (N, H, W, C) or (N, C, H, W){hint}")
    if shape[3] not in (1, 3) and shape[1] not in (1, 3):
        raise EvalkitError(f"images have shape {shape}, expected 1 or 3 channels, last or second")
    numbers = _checked_labels(labels, len(images))
    return (
        Batch(_as_uint8_rgb(images[first : first + BATCH]), numbers[first : first + BATCH])
        for first in range(0, len(images), BATCH)
    )


def _as_uint8_rgb(images: Any) -> np.ndarray:
    """Images (n, H, W, C) or (n, C, H, W) with 1 or 3 channels, uint8 or floats in [0, 1], as uint8 (n, H, W, 3)."""
    array = _as_numpy(images)
    if array.shape[3] not in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if np.issubdtype(array.dtype, np.floating):
        array = _from_unit_range(array)
    elif array.dtype != np.uint8:
        raise EvalkitError(f"images are {array.dtype}, expected uint8 or floats from 0 to 1")
    return np.repeat(array, 3, axis=3) if array.shape[3] == 1 else array


def _from_unit_range(array: np.ndarray) -> np.ndarray:
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # refuses NaN, too
        raise EvalkitError(
            f"images are floats from {low:g} to {high:g}, expected 0 to 1; undo the normalization, or give uint8"
        )
    return np.floor(array.astype(np.float32) * 255 + np.float32(0.5)).astype(np.uint8)


def _checked_labels(labels: Any, count: int) -> np.ndarray:
    if labels is None:
        return np.full(count, -1, np.int64)
    numbers = _as_numpy(labels)
    if numbers.shape != (count,):
        raise EvalkitError(f"labels have shape {numbers.shape}, expected one label per image, ({count},)")
    if count and not np.issubdtype(numbers.dtype, np.integer):
        raise EvalkitError(f"labels are {numbers.dtype}, expected whole numbers from 0 (or -1 for no label)")
    return numbers.astype(np.int64)


def _loader_batches(loader: Any) -> Iterator[Batch]:
    for item in loader:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise EvalkitError(f"the DataLoader yields {_described(item)}, expected pairs (images, labels)")
        yield from array_batches(*item)


def _dataset_batches(dataset: Any) -> Iterator[Batch]:
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for item in _items(dataset):
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise EvalkitError(f"the Dataset yields {_described(item)}, expected pairs (image, label)")
        images.append(_image_array(item[0]))
        labels.append(_as_numpy(item[1]))
        if images[0].shape != images[-1].shape:
            shapes = f"{images[0].shape} and {images[-1].shape}"
            raise EvalkitError(f"the Dataset has images of shape {shapes}; resize them to one size")
        if labels[-1].ndim:
            raise EvalkitError(f"the Dataset has a label of shape {labels[-1].shape}, expected one whole number")
        if len(images) == BATCH:
            yield from array_batches(np.stack(images), np.array(labels))
            images, labels = [], []
    if images:
        yield from array_batches(np.stack(images), np.array(labels))


def _items(dataset: Any) -> Iterator[Any]:
    """The items in order; a Dataset with a length need not raise IndexError at its end."""
    return (dataset[k] for k in range(len(dataset))) if hasattr(dataset, "__len__") else iter(dataset)


def _image_array(image: Any) -> np.ndarray:
    """One image of a Dataset as (H, W, C) or (C, H, W)."""
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    if not _is_array(image):
        raise EvalkitError(f"the Dataset has images of type {type(image).__name__}, expected PIL, array or tensor")
    return _as_numpy(image)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "ndim") and hasattr(value, "dtype")


def _as_numpy(value: Any) -> np.ndarray:
    """An array, a tensor on any device, or a list as a NumPy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value  # NumPy has no bfloat16
    return np.asarray(value)


def _described(item: Any) -> str:
    return f"{len(item)} values" if isinstance(item, (tuple, list)) else f"a {type(item).__name__}"
