"""evaluate: from a feature set and a protocol to one figure.

C is chosen on validation rows taken out of the training split (Radford et al. 2016, section 5 and the release's SVHN
script); test rows are used once, for the figure.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evalkit.device import describe_device, resolve_device
from evalkit.features.columns import layer_columns
from evalkit.features.featureset import FeatureSet
from evalkit.probes import classifier_named
from evalkit.probes.classifier import Classifier, FitOptions, Predictions
from evalkit.probes.l2svm.path import FEW_ROWS
from evalkit.protocols.draws import Draws, check_labels, make_draws
from evalkit.protocols.evaluation import Evaluation
from evalkit.protocols.selection import Choice, Progress, choose
from evalkit.protocols.settings import Protocol
from evalkit.protocols.spreads import spread_of
from evalkit.results import Figure
from evalkit.version import stamps

_ERROR_DATASETS = ("svhn",)  # figures published as error rates
_AT_ONCE = 3  # values tried together on many rows; the largest take most of the time and are seldom the best
_CHOICE_TOL = 1e-5  # accuracies are settled from here on (benchmarks/NOTES.md); the figure's own fits go further


def evaluate(
    features: FeatureSet,
    protocol: Protocol,
    *,
    classifier: str | Classifier = "svm",
    layers: str = "",
    draws: Draws | None = None,
    device: str = "auto",
    memory: str | None = None,
    say: Progress = lambda line: None,
    show: Progress = lambda line: None,
) -> Evaluation:
    """Measures one figure.

    Args:
        features: rows with labels, splits `train` and `test`.
        protocol: what to draw and where to choose C.
        classifier: a name in `evalkit.probes.CLASSIFIERS`, or a classifier itself.
        layers: use only these of the encoder's layers: "conv3", or "conv1..conv4".
        draws: rows to use instead of the protocol's own, as read from a file.
        device: of the solver.
        memory: budget of the solver, e.g. "4GB"; None takes what the rows need.
        say: called with a line whenever something is known.
        show: called with a line at every step of the solver, for a display that the next one replaces.

    Raises:
        EvalkitError: one class only, fewer labels than the protocol draws, or a fit that missed its tolerance.
    """
    started = time.monotonic()
    fitted_by = classifier_named(classifier) if isinstance(classifier, str) else classifier
    check_labels(features, features.rows("train"))
    test_rows = features.rows("test")
    columns = layer_columns(features, layers)
    draws = draws or make_draws(features, protocol)
    options = FitOptions(str(resolve_device(device)), memory, progress=show)
    drawn = time.monotonic()
    choice = _choose(fitted_by, columns, features.labels, draws, protocol.grid, options, say)
    chosen = time.monotonic()
    found = fitted_by.predict(columns, features.labels, draws.test, [choice.value], test_rows, options)
    ended = time.monotonic()
    figure = _figure(features, draws, fitted_by, choice, found, features.labels[test_rows])
    return Evaluation(
        figure=replace(
            figure,
            layers=layers,
            features=columns.shape[1],
            seconds=ended - started,
            device=describe_device(resolve_device(device)),
        ),
        C_curve=tuple((value, 100 * score) for value, score in choice.scores.items()),
        draws=draws,
        predictions=found.labels[:, 0],
        test_rows=test_rows,
        test_labels=features.labels[test_rows],
        seconds={"draw": drawn - started, "choose": chosen - drawn, "test": ended - chosen},
    )


def _choose(
    classifier: Classifier,
    columns: np.ndarray,
    labels: np.ndarray,
    draws: Draws,
    grid: str,
    options: FitOptions,
    say: Progress,
) -> Choice:
    """The value with the best mean accuracy over the draws that choose, each on its own validation rows."""
    options = replace(options, tol=_CHOICE_TOL)

    def score(values: Sequence[float]) -> list[float]:
        means = []
        for fold, rows in enumerate(draws.validation):
            select = draws.select[fold :: len(draws.validation)]
            found = classifier.predict(columns, labels, select, values, rows, options).labels
            means.append((found == labels[rows]).mean(axis=2))
        accuracies = np.concatenate(means).mean(axis=0)
        pairs = zip(values, accuracies, strict=True)
        say(", ".join(f"{classifier.letter} {value:g}: {100 * accuracy:.2f} %" for value, accuracy in pairs))
        return accuracies.tolist()

    grid = grid if classifier.extends else "fixed"
    at_once = _AT_ONCE if len(draws.select[0]) > FEW_ROWS else None  # few rows share what costs most
    return choose(score, classifier.values, letter=classifier.letter, grid=grid, at_once=at_once, say=say)


def _figure(
    features: FeatureSet, draws: Draws, classifier: Classifier, choice: Choice, found: Predictions, truth: np.ndarray
) -> Figure:
    error = features.dataset.split("-")[0] in _ERROR_DATASETS
    correct = found.labels[:, 0] == truth
    spread = spread_of(~correct if error else correct)
    return Figure(
        dataset=features.dataset,
        encoder=features.encoder,
        features=features.features.shape[1],
        protocol=draws.protocol,
        metric="error_percent" if error else "accuracy_percent",
        n=len(correct),
        C=choice.value if classifier.letter == "C" else float("nan"),
        grid=choice.grid,
        validation_percent=100 * choice.scores[choice.value],
        n_train=len(draws.test[0]),
        n_validation=len(draws.validation[0]),
        n_test=len(truth),
        duality_gap=found.duality_gap,
        error_estimate=found.error_estimate,
        weights_sha256=features.weights_sha256,
        features_sha256=features.sha256,
        seed=draws.seed,
        seconds=0.0,
        device="",
        classifier=classifier.label,
        scaling=features.manifest["settings"].get("scaling", ""),
        chosen=f"{classifier.letter} = {choice.value:g}",
        selected_on=draws.selected_on,
        draws_sha256=draws.sha256,
        **spread.columns(),
        **stamps(),
    )
