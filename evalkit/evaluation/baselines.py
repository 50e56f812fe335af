"""baseline: makes the features that a baseline needs, as far as they are missing, and evaluates it under a protocol.

`evaluation.protocol` lists the baselines: what to encode, how to scale, what to fit. A transductive SVM (tables 1 and 2
of the paper quote one) is not among them: no well-kept library has one, so its row stays a published one.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalkit.artifacts import sha256_json
from evalkit.encoders.shallow import KIND as DICTIONARY
from evalkit.encoders.shallow import train_kmeans
from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import Evaluation, evaluate
from evalkit.evaluation.label_subsets import LabelSubsets
from evalkit.evaluation.protocol import BASELINES, Baseline, BaselineOptions, Protocol
from evalkit.features.extract import extract
from evalkit.features.featureset import FeatureSet
from evalkit.gan.recipes import load_recipe
from evalkit.images import ImageSet, as_image_set
from evalkit.probes.supervised import Search, supervised_cnn
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)


def baseline(
    name: str,
    images: Any = "cifar10",
    protocol: Protocol | None = None,
    *,
    home: Workspace | Path | str | None = None,
    options: BaselineOptions = BaselineOptions(),
    label_subsets: LabelSubsets | Path | str | None = None,
    device: str = "auto",
) -> Evaluation:
    """Evaluates the baseline on a data set; an interrupted one resumes each of its steps.

    Args:
        name: one of `evalkit.evaluation.protocol.BASELINES`.
        images: whatever `as_image_set` takes: the name of a data set, an ImageSet, arrays, a torch Dataset.
        protocol, home, label_subsets: as for `evaluate`.
        options: settings of single baselines.
        device: where extraction and fits compute: auto, cpu, cuda or cuda:N.

    Raises:
        EvalkitError: an unknown name (the message lists the names), or what the steps raise.
    """
    if name not in BASELINES:
        raise EvalkitError(f"{name}: no such baseline; choose {', '.join(BASELINES)}")
    chosen, protocol, workspace = BASELINES[name], protocol or Protocol(), Workspace.of(home)
    if options.features and chosen.encoder and isinstance(images, str):
        dataset = images  # of the features named; no images are needed
    else:
        images = as_image_set(images, home=workspace)
        dataset = images.name
    if not chosen.encoder:
        features = image_features(images, options.recipe)
        search = _search(workspace, features, options, protocol)
        cnn = supervised_cnn(search, trials=options.trials)
        protocol = few_networks(protocol)
        return evaluate(features, protocol, home=home, classifier=cnn, label_subsets=label_subsets, device=device)
    return evaluate(
        _features(workspace, chosen, images, options, device),
        replace(protocol, dataset=protocol.dataset or dataset),
        home=home,
        classifier=chosen.classifier,
        scaling=chosen.scaling,
        label_subsets=label_subsets,
        device=device,
    )


def few_networks(protocol: Protocol) -> Protocol:
    """The protocol with one label subset to select the trial, and one to test unless it says otherwise."""
    if protocol.labels_per_class is None:
        return protocol
    return replace(protocol, num_selection_subsets=1, num_test_subsets=protocol.num_test_subsets or 1)


def image_features(images: ImageSet, recipe: str) -> FeatureSet:
    """The images as a feature set of uint8 rows, for a classifier that learns its own features."""
    return FeatureSet.from_arrays(
        images.images[:].reshape(len(images), -1),
        images.labels,
        splits=images.splits,
        name=images.name,
        encoder=f"{recipe} network",
        class_names=images.class_names,
        images_sha256=images.sha256,
        sha256=images.sha256,
    )


def _search(workspace: Workspace, features: FeatureSet, options: BaselineOptions, protocol: Protocol) -> Search:
    recipe = load_recipe(options.recipe)
    key = sha256_json([features.sha256, recipe.as_dict(), options.updates])[:12]
    folder = workspace.home / "searches" / f"{features.dataset}--{recipe.name}--{key}"
    return Search(recipe, folder, options.updates, options.minutes, protocol.seed)


def _features(
    workspace: Workspace, chosen: Baseline, images: Any, options: BaselineOptions, device: str
) -> FeatureSet | str:
    """The features that the options name, or else the baseline's own, made if they are missing."""
    if options.features:
        return options.features
    dictionary = f"{images.name}-{options.centroids}"
    if "{dictionary}" in chosen.encoder:
        path = workspace.path_of(DICTIONARY, dictionary)
        logger.info("dictionary: %s", path)
        train_kmeans(images, path, centroids=options.centroids, patches=options.patches)
    encoder = chosen.encoder.format(recipe=options.recipe, dictionary=dictionary)
    return extract(images, encoder, home=workspace, device=device)
