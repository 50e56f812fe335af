"""Image sets: pictures in from any source, out as one uint8 array with labels and splits."""

from evalkit.images.faces import Faces as Faces
from evalkit.images.find import find_images as find_images
from evalkit.images.find import images_with_hash as images_with_hash
from evalkit.images.find import prepare_from as prepare_from
from evalkit.images.fit import DECODES as DECODES
from evalkit.images.fit import FILTERS as FILTERS
from evalkit.images.fit import Fit as Fit
from evalkit.images.imageset import ImageSet as ImageSet
from evalkit.images.imageset import load_images as load_images
from evalkit.images.known import known_files as known_files
from evalkit.images.named import dataset_names as dataset_names
from evalkit.images.named import prepare_named as prepare_named
from evalkit.images.output import summary as summary
from evalkit.images.prepare import prepare as prepare
from evalkit.images.sources import source_names as source_names
