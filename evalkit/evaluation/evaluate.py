"""evaluate: from a feature set and a protocol to one result.

The hyperparameter (an SVM's C) is selected on validation rows held out of the training split (Radford et al. 2016,
section 5 and the release's SVHN script); test rows are used once, for the result. Features come from `extract` or from
the caller's arrays; with a workspace the result becomes a row of results.csv with its run card (`record`).
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evalkit.artifacts import read_manifest
from evalkit.errors import EvalkitError
from evalkit.evaluation.label_subsets import (
    LabelSubsets,
    check_features_labels,
    make_label_subsets,
    read_label_subsets,
)
from evalkit.evaluation.labels import log_missing_classes
from evalkit.evaluation.protocol import Protocol
from evalkit.evaluation.record import record
from evalkit.evaluation.selection import Selection, select_hyperparameter
from evalkit.evaluation.statistics import uncertainty_of
from evalkit.features.featureset import KIND as FEATURES
from evalkit.features.featureset import FeatureSet, Provenance, as_feature_set, layer_columns
from evalkit.features.transforms import scale
from evalkit.probes.classifiers import Classifier, Predictions, SolverOptions, classifier_named
from evalkit.results import Result
from evalkit.runtime import describe_device, resolve_device
from evalkit.version import stamps
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
_ERROR_DATASETS = ("svhn",)  # data sets whose results are published as error rates


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        result: the row of results.csv.
        validation_curve: (value, validation accuracy in percent) of every value of the hyperparameter that was tried.
        label_subsets: the rows fitted and validated on.
        predictions: int64 (fits, test rows), predicted labels.
        test_rows, test_labels: int64 (test rows,).
        seconds: wall time of each stage: "label_subsets", "selection", "test".
    """

    result: Result
    validation_curve: tuple[tuple[float, float], ...]
    label_subsets: LabelSubsets
    predictions: np.ndarray
    test_rows: np.ndarray
    test_labels: np.ndarray
    seconds: Mapping[str, float]

    @property
    def value(self) -> float:
        """The test accuracy (or error, see `result.metric`) in percent, the mean over fits."""
        return self.result.value

    @property
    def uncertainty(self) -> float:
        """The ± of the published tables in percent points; `result.uncertainty_type` names it."""
        return self.result.uncertainty

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval in percent; `result.interval_type` names it."""
        return self.result.interval_low, self.result.interval_high

    @property
    def C(self) -> float:
        """The C selected; NaN for a classifier without one."""
        return self.result.C


def evaluate(
    features: FeatureSet | Arrays | Path | str | None = None,
    protocol: Protocol | None = None,
    *,
    home: Workspace | Path | str | None = None,
    labels_per_class: int | None = None,
    classifier: str | Classifier = "svm",
    layers: str = "",
    scaling: str | None = None,
    label_subsets: LabelSubsets | Path | str | None = None,
    device: str = "auto",
    memory: str | None = None,
    results: Path | str | None = None,
) -> Evaluation:
    """Fits a classifier on the training features under a protocol and measures it on the test features.

    With `home` or `results` it records the result: a row of results.csv, its run card, and the file of its label
    subsets. Without, it writes nothing.

    Args:
        features: a feature set, its name in the workspace or its path, or arrays (X, y, X_test, y_test); by default
            the workspace's latest (of the protocol's data set, if the protocol names one).
        protocol: which labels to use and where to select C; by default all labels.
        home: the workspace, or its folder.
        labels_per_class: short for Protocol(labels_per_class=...).
        classifier: a name in `evalkit.probes.classifiers.CLASSIFIERS`, or a classifier.
        layers: use only these of the encoder's layers: "conv3", or "conv1..conv4".
        scaling: `standardise` or `whiten` the features first, by statistics of the training rows.
        label_subsets: rows to use instead of the protocol's own: from `make_label_subsets`, or a file of them.
        device: where the solver computes: auto, cpu, cuda or cuda:N.
        memory: memory budget of the solver, e.g. "4GB"; by default what the rows need.
        results: the results.csv to record in, instead of the workspace's.

    Raises:
        EvalkitError: no such features, a single class, fewer labels than the protocol needs, or a fit that missed its
            tolerance.
    """
    protocol = _with_labels_per_class(protocol or Protocol(), labels_per_class)
    if isinstance(classifier, str):
        classifier = classifier_named(classifier)
    feature_set = find_features(features, home=home, dataset=protocol.dataset)
    if scaling:
        workspace = Workspace.of(home)  # a temporary one lasts as long as this function
        feature_set = _scaled(feature_set, scaling, workspace)
    if isinstance(label_subsets, str | Path):
        label_subsets = read_label_subsets(Path(label_subsets), feature_set)
    evaluation = _fit_and_test(feature_set, protocol, classifier, layers, label_subsets, device, memory)
    if home is None and results is None:
        return evaluation
    return record(evaluation, feature_set, protocol, home=home, results=results)


def find_features(
    features: FeatureSet | Arrays | Path | str | None,
    *,
    home: Workspace | Path | str | None = None,
    dataset: str | None = None,
) -> FeatureSet:
    """The feature set meant, as `evaluate` takes it; by default the workspace's latest, of `dataset` if that is given.

    Raises:
        EvalkitError: there is none, or it is of another data set.
    """
    if features is None and home is not None and dataset is not None:
        features = _latest_of(dataset, Workspace.of(home))
    feature_set = as_feature_set(features, home=home)
    _check_dataset(dataset, [feature_set.dataset])
    rows, columns = feature_set.features.shape
    logger.info("features: %s (%s x %s)", feature_set.path or feature_set.dataset, f"{rows:,}", f"{columns:,}")
    return feature_set


def _latest_of(dataset: str, workspace: Workspace) -> Path:
    paths = workspace.artifacts(FEATURES)
    datasets = [Provenance.from_manifest(read_manifest(path, FEATURES)).dataset for path in paths]
    _check_dataset(dataset, datasets)
    return paths[len(datasets) - 1 - datasets[::-1].index(dataset)]  # the latest comes last


def _check_dataset(dataset: str | None, available: list[str]) -> None:
    if dataset is not None and dataset not in available:
        listed = ", ".join(sorted(set(available))) or "none"
        raise EvalkitError(
            f"the protocol is for {dataset}, the features are of {listed}; run `evalkit extract --dataset {dataset}`"
        )


def features_name(features: FeatureSet) -> str:
    """The name that files made from a feature set carry."""
    if features.path is not None:
        return features.path.name
    return re.sub(r"[^\w.@+-]+", "-", f"{features.dataset}--{features.encoder}")


def _with_labels_per_class(protocol: Protocol, labels_per_class: int | None) -> Protocol:
    return protocol if labels_per_class is None else replace(protocol, labels_per_class=labels_per_class)


def _scaled(features: FeatureSet, scaling: str, workspace: Workspace) -> FeatureSet:
    latest = workspace.artifacts(FEATURES)[-1:]
    scaled = scale(features, workspace.path_of(FEATURES, f"{features_name(features)}--{scaling}"), scaling)
    for path in latest:  # what was extracted last stays what the next command takes
        workspace.mark_latest(path)
    logger.info("scaling: %s (%s columns)", scaling, f"{scaled.features.shape[1]:,}")
    return scaled


def _fit_and_test(
    features: FeatureSet,
    protocol: Protocol,
    classifier: Classifier,
    layers: str,
    label_subsets: LabelSubsets | None,
    device: str,
    memory: str | None,
) -> Evaluation:
    """Selects the hyperparameter on validation rows, fits every test subset at it, and predicts the test rows."""
    started = time.monotonic()
    check_features_labels(features)
    log_missing_classes(features, features.dataset)
    X, y, test_rows = layer_columns(features, layers), features.labels, features.rows("test")
    label_subsets = label_subsets or make_label_subsets(features, protocol)
    subsets_made = time.monotonic()
    with _status_line() as progress:
        options = SolverOptions(str(resolve_device(device)), memory, progress=progress)
        selection = select_hyperparameter(classifier, X, y, label_subsets, c_grid=protocol.c_grid, options=options)
        selected = time.monotonic()
        predictions = classifier.predict(X, y, label_subsets.test, [selection.value], test_rows, options)
    tested = time.monotonic()
    result = _result(features, label_subsets, classifier, selection, predictions, y[test_rows])
    return Evaluation(
        result=replace(
            result,
            layers=layers,
            num_features=X.shape[1],
            seconds=tested - started,
            device=describe_device(resolve_device(device)),
        ),
        validation_curve=tuple((value, 100 * accuracy) for value, accuracy in selection.scores.items()),
        label_subsets=label_subsets,
        predictions=predictions.labels[:, 0],
        test_rows=test_rows,
        test_labels=y[test_rows],
        seconds={
            "label_subsets": subsets_made - started,
            "selection": selected - subsets_made,
            "test": tested - selected,
        },
    )


@contextmanager
def _status_line() -> Iterator[Callable[[str], None]]:
    """A function that shows a line in place of the previous one, on standard error, if that is a terminal."""
    with tqdm(bar_format="{desc}", leave=False, disable=None) as line:
        yield line.set_description_str


def _result(
    features: FeatureSet,
    label_subsets: LabelSubsets,
    classifier: Classifier,
    selection: Selection,
    predictions: Predictions,
    test_labels: np.ndarray,
) -> Result:
    is_error = features.dataset.split("-")[0] in _ERROR_DATASETS
    correct = predictions.labels[:, 0] == test_labels  # (fits, test rows)
    uncertainty = uncertainty_of(~correct if is_error else correct)
    return Result(
        dataset=features.dataset,
        encoder=features.encoder,
        num_features=features.features.shape[1],
        protocol=label_subsets.protocol,
        metric="error_percent" if is_error else "accuracy_percent",
        n=len(correct),
        C=selection.value if classifier.hyperparameter == "C" else float("nan"),
        search_range=selection.search_range,
        validation_percent=100 * selection.scores[selection.value],
        n_train=len(label_subsets.test[0]),
        n_validation=len(label_subsets.validation[0]),
        n_test=len(test_labels),
        duality_gap=predictions.duality_gap,
        error_estimate=predictions.error_estimate,
        weights_sha256=features.weights_sha256,
        features_sha256=features.sha256,
        seed=label_subsets.seed,
        seconds=0.0,
        device="",
        classifier=classifier.display_name,
        scaling=features.provenance.scaling,
        hyperparameter=f"{classifier.hyperparameter} = {selection.value:g}",
        select_on=label_subsets.select_on,
        label_subsets_sha256=label_subsets.sha256,
        **uncertainty.columns(),
        **stamps(),
    )
