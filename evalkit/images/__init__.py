"""Image sets: images in from any source, out as one uint8 array with labels and splits.

Each name is imported when it is first used, so that settings can be read without NumPy. `prepare` and `dedup` are in
the modules of their names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.images.datasets import as_image_set as as_image_set
    from evalkit.images.datasets import find_images as find_images
    from evalkit.images.datasets import find_images_by_sha256 as find_images_by_sha256
    from evalkit.images.datasets import list_datasets as list_datasets
    from evalkit.images.datasets import prepare_from as prepare_from
    from evalkit.images.imageset import ImageSet as ImageSet
    from evalkit.images.imageset import load_images as load_images
    from evalkit.images.options import FaceOptions as FaceOptions
    from evalkit.images.options import PrepareOptions as PrepareOptions
    from evalkit.images.options import ResizeOptions as ResizeOptions
    from evalkit.images.sources.named import dataset_names as dataset_names

_HOMES = {
    "FaceOptions": "options",
    "ImageSet": "imageset",
    "PrepareOptions": "options",
    "ResizeOptions": "options",
    "as_image_set": "datasets",
    "dataset_names": "sources.named",
    "find_images": "datasets",
    "find_images_by_sha256": "datasets",
    "list_datasets": "datasets",
    "load_images": "imageset",
    "prepare_from": "datasets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evalkit.images' has no attribute {name!r}")
    return getattr(import_module(f"evalkit.images.{_HOMES[name]}"), name)
