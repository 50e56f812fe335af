"""How good is an image representation? Train the DCGAN, take features, fit exact linear SVMs, print the table.

The names below are the public API; each is imported when it is first used, so that `import evalkit` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evalkit.errors import EvalkitError as EvalkitError
from evalkit.version import __version__ as __version__

if TYPE_CHECKING:
    from evalkit.encoders import load_encoder as load_encoder
    from evalkit.environment import doctor as doctor
    from evalkit.evaluation.ablation import ablate as ablate
    from evalkit.evaluation.baselines import baseline as baseline
    from evalkit.evaluation.comparison import compare as compare
    from evalkit.evaluation.evaluate import evaluate as evaluate
    from evalkit.evaluation.label_curve import label_curve as label_curve
    from evalkit.evaluation.nn_error import nn_error as nn_error
    from evalkit.evaluation.protocol import BaselineOptions as BaselineOptions
    from evalkit.evaluation.protocol import Protocol as Protocol
    from evalkit.evaluation.training_probe import TrainingProbe as TrainingProbe
    from evalkit.evaluation.verify import verify as verify
    from evalkit.features.concat import concat_features as concat_features
    from evalkit.features.describe import describe_features as describe_features
    from evalkit.features.exporting import export_features as export_features
    from evalkit.features.extract import extract as extract
    from evalkit.features.extract import list_layers as list_layers
    from evalkit.features.featureset import FeatureSet as FeatureSet
    from evalkit.features.featureset import load_features as load_features
    from evalkit.features.importing import import_features as import_features
    from evalkit.features.options import Augmentation as Augmentation
    from evalkit.features.options import LayerSelection as LayerSelection
    from evalkit.gan.recipes import Recipe as Recipe
    from evalkit.gan.recipes import TrainOptions as TrainOptions
    from evalkit.gan.recipes import load_recipe as load_recipe
    from evalkit.gan.train import TrainedGAN as TrainedGAN
    from evalkit.gan.train import train_gan as train_gan
    from evalkit.images.datasets import as_image_set as as_image_set
    from evalkit.images.datasets import find_images as find_images
    from evalkit.images.datasets import list_datasets as list_datasets
    from evalkit.images.dedup.dedup import dedup as dedup
    from evalkit.images.imageset import ImageSet as ImageSet
    from evalkit.images.imageset import load_images as load_images
    from evalkit.images.options import DedupOptions as DedupOptions
    from evalkit.images.options import PrepareOptions as PrepareOptions
    from evalkit.images.prepare import prepare as prepare
    from evalkit.latent.experiment import save_experiment as save_experiment
    from evalkit.latent.explore import explore_gan as explore_gan
    from evalkit.latent.filters import visualize_filters as visualize_filters
    from evalkit.latent.forget import forget_object as forget_object
    from evalkit.latent.invert import invert_images as invert_images
    from evalkit.latent.model import open_gan as open_gan
    from evalkit.latent.nearest import nearest_training_images as nearest_training_images
    from evalkit.latent.samples import latent_arithmetic as latent_arithmetic
    from evalkit.latent.samples import latent_turn as latent_turn
    from evalkit.latent.samples import latent_walk as latent_walk
    from evalkit.latent.samples import sample_gan as sample_gan
    from evalkit.pretrained import ImportOptions as ImportOptions
    from evalkit.pretrained.import_weights import import_weights as import_weights
    from evalkit.pretrained.registry import fetch_pretrained as fetch_pretrained
    from evalkit.pretrained.registry import list_pretrained as list_pretrained
    from evalkit.pretrained.registry import write_card as write_card
    from evalkit.probes.l2svm import L2SVM as L2SVM
    from evalkit.report.render import write_report as write_report
    from evalkit.report.tables import compare_with_published as compare_with_published
    from evalkit.report.tables import published_results as published_results
    from evalkit.report.tables import report_text as report_text
    from evalkit.reproduction import reproduce as reproduce
    from evalkit.workspace import Workspace as Workspace

_HOMES = {
    "Augmentation": "features.options",
    "BaselineOptions": "evaluation.protocol",
    "DedupOptions": "images.options",
    "FeatureSet": "features.featureset",
    "ImageSet": "images.imageset",
    "ImportOptions": "pretrained",
    "L2SVM": "probes.l2svm",
    "LayerSelection": "features.options",
    "PrepareOptions": "images.options",
    "Protocol": "evaluation.protocol",
    "Recipe": "gan.recipes",
    "TrainOptions": "gan.recipes",
    "TrainedGAN": "gan.train",
    "TrainingProbe": "evaluation.training_probe",
    "Workspace": "workspace",
    "ablate": "evaluation.ablation",
    "as_image_set": "images.datasets",
    "baseline": "evaluation.baselines",
    "compare": "evaluation.comparison",
    "compare_with_published": "report.tables",
    "concat_features": "features.concat",
    "dedup": "images.dedup.dedup",
    "describe_features": "features.describe",
    "doctor": "environment",
    "evaluate": "evaluation.evaluate",
    "explore_gan": "latent.explore",
    "export_features": "features.exporting",
    "extract": "features.extract",
    "fetch_pretrained": "pretrained.registry",
    "find_images": "images.datasets",
    "forget_object": "latent.forget",
    "import_features": "features.importing",
    "import_weights": "pretrained.import_weights",
    "invert_images": "latent.invert",
    "label_curve": "evaluation.label_curve",
    "latent_arithmetic": "latent.samples",
    "latent_turn": "latent.samples",
    "latent_walk": "latent.samples",
    "list_datasets": "images.datasets",
    "list_layers": "features.extract",
    "list_pretrained": "pretrained.registry",
    "load_encoder": "encoders",
    "load_features": "features.featureset",
    "load_images": "images.imageset",
    "load_recipe": "gan.recipes",
    "nearest_training_images": "latent.nearest",
    "nn_error": "evaluation.nn_error",
    "open_gan": "latent.model",
    "prepare": "images.prepare",
    "published_results": "report.tables",
    "report_text": "report.tables",
    "reproduce": "reproduction",
    "sample_gan": "latent.samples",
    "save_experiment": "latent.experiment",
    "train_gan": "gan.train",
    "verify": "evaluation.verify",
    "visualize_filters": "latent.filters",
    "write_card": "pretrained.registry",
    "write_report": "report.render",
}
__all__ = ["EvalkitError", "__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evalkit' has no attribute {name!r}")
    return getattr(import_module(f"evalkit.{_HOMES[name]}"), name)
