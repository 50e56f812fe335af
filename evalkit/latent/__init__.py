"""Looking inside a trained GAN: its latent space and its filters (Radford et al. 2016, sections 6 and 7).

`open_gan` turns a run into a fixed function; each experiment takes it and returns an `ExperimentResult`, which
`save_experiment` writes as a folder. The names below are public; each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.latent.experiment import ExperimentResult as ExperimentResult
    from evalkit.latent.experiment import gallery as gallery
    from evalkit.latent.experiment import save_experiment as save_experiment
    from evalkit.latent.explore import explore_gan as explore_gan
    from evalkit.latent.filters import visualize_filters as visualize_filters
    from evalkit.latent.forget import Box as Box
    from evalkit.latent.forget import forget_object as forget_object
    from evalkit.latent.forget import read_boxes as read_boxes
    from evalkit.latent.invert import invert_images as invert_images
    from evalkit.latent.model import FrozenDiscriminator as FrozenDiscriminator
    from evalkit.latent.model import FrozenGAN as FrozenGAN
    from evalkit.latent.model import freeze_gan as freeze_gan
    from evalkit.latent.model import open_gan as open_gan
    from evalkit.latent.nearest import nearest_training_images as nearest_training_images
    from evalkit.latent.samples import Concept as Concept
    from evalkit.latent.samples import latent_arithmetic as latent_arithmetic
    from evalkit.latent.samples import latent_turn as latent_turn
    from evalkit.latent.samples import latent_walk as latent_walk
    from evalkit.latent.samples import sample_gan as sample_gan
    from evalkit.latent.vectors import parse_numbers as parse_numbers
    from evalkit.latent.vectors import read_z as read_z

_MODULES = {
    "Box": "forget",
    "Concept": "samples",
    "ExperimentResult": "experiment",
    "FrozenDiscriminator": "model",
    "FrozenGAN": "model",
    "explore_gan": "explore",
    "forget_object": "forget",
    "freeze_gan": "model",
    "gallery": "experiment",
    "invert_images": "invert",
    "latent_arithmetic": "samples",
    "latent_turn": "samples",
    "latent_walk": "samples",
    "nearest_training_images": "nearest",
    "open_gan": "model",
    "parse_numbers": "vectors",
    "read_boxes": "forget",
    "read_z": "vectors",
    "sample_gan": "samples",
    "save_experiment": "experiment",
    "visualize_filters": "filters",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'evalkit.latent' has no attribute {name!r}")
    return getattr(import_module(f"evalkit.latent.{_MODULES[name]}"), name)
