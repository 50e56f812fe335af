"""Image sets: images in from any source, out as one uint8 array with labels and splits."""

from evalkit.images.datasets import dataset_names as dataset_names
from evalkit.images.datasets import find_images as find_images
from evalkit.images.datasets import find_images_by_sha256 as find_images_by_sha256
from evalkit.images.datasets import known_files as known_files
from evalkit.images.datasets import prepare_from as prepare_from
from evalkit.images.datasets import prepare_named as prepare_named
from evalkit.images.decode import DECODES as DECODES
from evalkit.images.decode import FILTERS as FILTERS
from evalkit.images.decode import ResizeOptions as ResizeOptions
from evalkit.images.faces import Faces as Faces
from evalkit.images.imageset import ImageSet as ImageSet
from evalkit.images.imageset import load_images as load_images
from evalkit.images.prepare import prepare as prepare
from evalkit.images.prepare import summary as summary
from evalkit.images.sources import source_names as source_names
