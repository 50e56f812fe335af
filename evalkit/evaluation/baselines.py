"""Running a baseline: makes the features that are missing and measures the figure.

Baselines under the tables' protocols: what to encode, how to scale and what to fit. `run` measures them.

A transductive SVM (tables 1 and 2 of the paper quote one) is not among them: no well-kept library has one, so its row
stays a published one.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from evalkit.artifacts import sha256_json
from evalkit.encoders.shallow import KIND as DICTIONARY
from evalkit.encoders.shallow import train_kmeans
from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import Evaluation
from evalkit.evaluation.measure import measure, measure_on, quiet
from evalkit.evaluation.protocol import BASELINES, Baseline, BaselineOptions, Protocol
from evalkit.features.extract import extract
from evalkit.features.featureset import KIND as FEATURES
from evalkit.features.featureset import FeatureSet
from evalkit.gan.recipes import load_recipe
from evalkit.images import ImageSet, find_images
from evalkit.probes.supervised import Search, supervised_cnn
from evalkit.workspace import Workspace

Say = Callable[[str], None]


def run_baseline(
    workspace: Workspace,
    name: str,
    dataset: str,
    protocol: Protocol,
    *,
    options: BaselineOptions = BaselineOptions(),
    label_subsets: Path | None = None,
    say: Say = quiet,
    show: Say = quiet,
) -> Evaluation:
    """Measures the baseline on a data set; every part goes on where it was interrupted.

    Raises:
        EvalkitError: an unknown name (the message lists the names), or what the steps raise.
    """
    if name not in BASELINES:
        raise EvalkitError(f"{name}: no such baseline; choose {', '.join(BASELINES)}")
    baseline = BASELINES[name]
    if not baseline.encoder:
        features = image_features(find_images(workspace, dataset, progress=True), options.recipe)
        classifier = supervised_cnn(_search(workspace, features, options, protocol), trials=options.trials)
        one = few_networks(protocol)
        return measure_on(
            workspace,
            features,
            one,
            classifier=classifier,
            label_subsets=label_subsets,
            device=options.device,
            say=say,
            show=show,
        )
    return measure(
        workspace,
        protocol,
        features=options.features or _own_features(workspace, baseline, dataset, options, say),
        dataset=dataset,
        classifier=baseline.classifier,
        scaling=baseline.scaling,
        label_subsets=label_subsets,
        device=options.device,
        say=say,
        show=show,
    )


def few_networks(protocol: Protocol) -> Protocol:
    """The protocol with one draw that chooses the trial, and one that is tested unless it says otherwise."""
    if protocol.labels_per_class is None:
        return protocol
    return replace(protocol, num_selection_subsets=1, num_test_subsets=protocol.num_test_subsets or 1)


def image_features(images: ImageSet, recipe: str) -> FeatureSet:
    """The images as a feature set of uint8 rows, for a classifier that learns its own features."""
    settings = {"dataset": images.name, "encoder": f"{recipe} network", "weights": "", "batch_norm": ""}
    return FeatureSet(
        features=images.images[:].reshape(len(images), -1),
        labels=images.labels,
        class_names=images.class_names,
        splits=images.splits,
        layers=[],
        manifest={
            "settings": settings,
            "made_from": {"weights_sha256": "", "images_sha256": images.sha256},
            "files": {"features.npy": {"sha256": images.sha256}},
        },
    )


def _search(workspace: Workspace, features: FeatureSet, options: BaselineOptions, protocol: Protocol) -> Search:
    recipe = load_recipe(options.recipe)
    key = sha256_json([features.sha256, recipe.as_dict(), options.updates])[:12]
    folder = workspace.home / "searches" / f"{features.dataset}--{recipe.name}--{key}"
    return Search(recipe, folder, options.updates, options.minutes, protocol.seed)


def _own_features(workspace: Workspace, baseline: Baseline, dataset: str, options: BaselineOptions, say: Say) -> str:
    """Path of the baseline's feature set, made if it is missing."""
    dictionary = f"{dataset}-{options.centroids}"
    if "{dictionary}" in baseline.encoder:
        place = workspace.path_of(DICTIONARY, dictionary)
        say(f"dictionary: {place}")
        images = find_images(workspace, dataset, progress=True)
        train_kmeans(images, place, centroids=options.centroids, patches=options.patches)
    encoder = baseline.encoder.format(recipe=options.recipe, dictionary=dictionary)
    extract(dataset, encoder, home=workspace, device=options.device)
    return str(workspace.latest(FEATURES))
