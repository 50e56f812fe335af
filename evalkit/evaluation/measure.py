"""Measuring on feature sets of a workspace: figures with their run cards and label draws; one layer after another."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from evalkit.artifacts import read_manifest
from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import Evaluation, Progress, evaluate
from evalkit.evaluation.label_subsets import LabelSubsets, make_label_subsets, read_label_subsets, write_label_subsets
from evalkit.evaluation.protocol import Protocol
from evalkit.evaluation.record import record
from evalkit.evaluation.statistics import Comparison, check_comparable, compare_predictions
from evalkit.features.featureset import KIND as FEATURES
from evalkit.features.featureset import FeatureSet, load_features
from evalkit.features.transforms import scale
from evalkit.probes.classifiers import SVM, Classifier
from evalkit.results import Card, Result, card_path, method_name, read_card, read_predictions, read_results
from evalkit.workspace import Workspace


def quiet(line: str) -> None:
    """Says nothing; what functions over a workspace report to unless told otherwise."""


def measure(
    workspace: Workspace,
    protocol: Protocol,
    *,
    features: str | None = None,
    dataset: str | None = None,
    classifier: str = "svm",
    layers: str = "",
    scaling: str | None = None,
    label_subsets: Path | None = None,
    device: str = "auto",
    memory: str | None = None,
    say: Progress = quiet,
    show: Progress = quiet,
) -> Evaluation:
    """Measures one figure: a row of results.csv, its run card and the file of its label draws.

    Args:
        features: a feature set by name or path; by default the latest, of `dataset` where that is given.
        classifier, layers: as `evaluate` takes them.
        scaling: `standardise` or `whiten` the features first, by statistics of the training rows.
        draws: a file of label draws, instead of the protocol's own.
    """
    path = features_path(workspace, features, dataset)
    found = load_features(path)
    say(f"features: {path} ({found.features.shape[0]:,} x {found.features.shape[1]:,})")
    if scaling:
        found = scale(found, workspace.path_of(FEATURES, f"{path.name}--{scaling}"), scaling)
        workspace.mark_latest(path)  # the next command's default stays what was extracted last
        say(f"scaling: {scaling} ({found.features.shape[1]:,} columns)")
    options = {
        "classifier": classifier,
        "layers": layers,
        "label_subsets": label_subsets,
        "device": device,
        "memory": memory,
    }
    return measure_on(workspace, found, protocol, **options, say=say, show=show)  # type: ignore[arg-type]


def measure_on(
    workspace: Workspace,
    features: FeatureSet,
    protocol: Protocol,
    *,
    classifier: str | Classifier = "svm",
    layers: str = "",
    label_subsets: Path | None = None,
    device: str = "auto",
    memory: str | None = None,
    say: Progress = quiet,
    show: Progress = quiet,
) -> Evaluation:
    """`measure` on an opened feature set."""
    evaluation = evaluate(
        features,
        protocol,
        classifier=classifier,
        layers=layers,
        label_subsets=read_label_subsets(label_subsets, features) if label_subsets else None,
        device=device,
        memory=memory,
        say=say,
        show=show,
    )
    say(f"draws: {label_subsets or write_label_subsets(workspace.label_subsets, evaluation.label_subsets)}")
    return record(workspace, evaluation, features, protocol)


def features_path(workspace: Workspace, features: str | None, dataset: str | None) -> Path:
    """The feature set meant: by name or path, else the latest, else the latest of the data set.

    Raises:
        EvalkitError: none of that name or data set.
    """
    if features is None and dataset is None:
        return workspace.latest(FEATURES)
    paths = [workspace.find(FEATURES, features)] if features else workspace.artifacts(FEATURES)
    if dataset is None:
        return paths[0]
    found = [read_manifest(path, FEATURES)["settings"]["dataset"] for path in paths]
    if dataset not in found:
        listed = ", ".join(sorted(set(found))) or "none"
        raise EvalkitError(
            f"the protocol is of {dataset}, features are of {listed}; run `evalkit extract --dataset {dataset}`"
        )
    return paths[len(found) - 1 - found[::-1].index(dataset)]


def ablate(
    workspace: Workspace,
    protocol: Protocol,
    *,
    features: str | None = None,
    dataset: str | None = None,
    cumulative: bool = False,
    label_subsets: Path | None = None,
    device: str = "auto",
    say: Progress = quiet,
    show: Progress = quiet,
) -> Iterator[Evaluation]:
    """Measures each layer of a feature set alone, or the layers up to each, as far as results.csv has no such row."""
    path = features_path(workspace, features, dataset)
    found = load_features(path)
    say(f"features: {path}, {len(found.layers)} layers")
    drawn = read_label_subsets(label_subsets, found) if label_subsets else make_label_subsets(found, protocol)
    for layer in found.layers:
        name = f"{found.layers[0].name}..{layer.name}" if cumulative else layer.name
        if is_measured(workspace, found, protocol, layers=name, label_subsets=drawn):
            say(f"{name}: measured before")
        else:
            say(f"{name}:")
            options = {"layers": name, "label_subsets": label_subsets, "device": device}
            yield measure_on(workspace, found, protocol, **options, say=say, show=show)  # type: ignore[arg-type]


def is_measured(
    workspace: Workspace,
    features: FeatureSet,
    protocol: Protocol,
    *,
    layers: str = "",
    label_subsets: LabelSubsets | None = None,
) -> bool:
    """Whether results.csv has the L2-SVM's figure on these features under this protocol."""
    return measured_row(workspace, features, protocol, layers=layers, label_subsets=label_subsets) is not None


def measured_row(
    workspace: Workspace,
    features: FeatureSet,
    protocol: Protocol,
    *,
    layers: str = "",
    label_subsets: LabelSubsets | None = None,
) -> Result | None:
    """The L2-SVM's figure on these features under this protocol, from results.csv.

    The draws, by default the protocol's, are compared by their hash, which covers all of the protocol but its grid.
    """
    table = read_results(workspace.results)
    expected = {
        "features_sha256": features.sha256,
        "encoder": features.encoder,
        "layers": layers,
        "classifier": SVM.display_name,
        "label_subsets_sha256": (label_subsets or make_label_subsets(features, protocol)).sha256,
    }
    same = (table["dataset"] == features.dataset) & table["search_range"].str.startswith(f"{protocol.c_grid} ")
    for column, value in expected.items():
        same &= table[column] == value
    found = table[same]
    return None if found.empty else Result(**{str(key): value for key, value in found.iloc[-1].items()})


def compare(results: Path, a: str, b: str) -> tuple[list[str], Comparison]:
    """What the run cards A and B are of, and whether they differ; cards by the start of their names, or by path.

    Raises:
        EvalkitError: no such card, or figures that cannot be paired.
    """
    (card_a, predicted_a, labels), (card_b, predicted_b, labels_b) = _card(results, a), _card(results, b)
    check_comparable(card_a, card_b, (labels, labels_b))
    draws = card_a["label_subsets_sha256"], card_b["label_subsets_sha256"]
    figures = [pd.Series(card["result"]) for card in (card_a, card_b)]
    names = [f"{method_name(row)}; {row['dataset']}, labels a class: {row['protocol']}" for row in figures]
    return names, compare_predictions(predicted_a, predicted_b, labels, draws=draws, names=(a, b))


def _card(results: Path, name: str) -> tuple[Card, np.ndarray, np.ndarray]:
    """A card with its predictions and labels."""
    if Path(name).suffix == ".json":
        results, name = Path(name).parent.parent / results.name, Path(name).stem
    known = [path.stem for path in card_path(results, name).parent.glob("*.json")]
    matching = [stem for stem in known if stem.startswith(name)]
    if len(matching) != 1:
        listed = ", ".join(sorted(matching or known)) or "none"
        raise EvalkitError(f"{name}: {len(matching)} run cards of that name beside {results}; there are {listed}")
    card = read_card(results, matching[0])
    return card, *read_predictions(results, matching[0], card)
