"""evaluate: from a feature set and a protocol to one figure.

C is chosen on validation rows taken out of the training split (Radford et al. 2016, section 5 and the release's SVHN
script); test rows are used once, for the figure.

Evaluation: a figure with everything that led to it, for run cards and paired comparisons.

The choice of a classifier's setting (an SVM's C) on validation, over its grid and beyond the grid's ends.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evalkit.evaluation.label_subsets import LabelSubsets, check_labels, make_label_subsets
from evalkit.evaluation.protocol import Protocol
from evalkit.evaluation.statistics import uncertainty_of
from evalkit.features.featureset import FeatureSet, layer_columns
from evalkit.probes.classifiers import Classifier, Predictions, SolverOptions, classifier_named
from evalkit.results import Result
from evalkit.runtime import describe_device, resolve_device
from evalkit.solver.fit import FEW_ROWS
from evalkit.version import stamps

_ERROR_DATASETS = ("svhn",)  # figures published as error rates
_AT_ONCE = 3  # values tried together on many rows; the largest take most of the time and are seldom the best
_SELECTION_TOL = 1e-5  # accuracies are settled from here on (benchmarks/NOTES.md); the figure's own fits go further


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        figure: the row of results.csv.
        C_curve: (value, validation accuracy in percent) of every C tried, in order (of every k, for kNN).
        draws: the rows validated on and drawn.
        predictions: int64 (fits, test rows), predicted labels.
        test_rows, test_labels: int64 (test rows,).
        seconds: wall time by stage: "draw", "choose", "test".
    """

    result: Result
    validation_curve: tuple[tuple[float, float], ...]
    label_subsets: LabelSubsets
    predictions: np.ndarray
    test_rows: np.ndarray
    test_labels: np.ndarray
    seconds: Mapping[str, float]


_EXTENSIONS = 9  # steps beyond an end of the grid, three decades: a choice still at the end is then reported as such
_CLEAR_FALL = 0.005  # of accuracy; curves along C have one peak, but are flat and uneven within some 0.003 of it
Progress = Callable[[str], None]


def evaluate(
    features: FeatureSet,
    protocol: Protocol,
    *,
    classifier: str | Classifier = "svm",
    layers: str = "",
    label_subsets: LabelSubsets | None = None,
    device: str = "auto",
    memory: str | None = None,
    say: Progress = lambda line: None,
    show: Progress = lambda line: None,
) -> Evaluation:
    """Measures one figure.

    Args:
        features: rows with labels, splits `train` and `test`.
        protocol: what to draw and where to choose C.
        classifier: a name in `evalkit.probes.classifiers.CLASSIFIERS`, or a classifier itself.
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
    label_subsets = label_subsets or make_label_subsets(features, protocol)
    options = SolverOptions(str(resolve_device(device)), memory, progress=show)
    drawn = time.monotonic()
    choice = _select_hyperparameter(fitted_by, columns, features.labels, label_subsets, protocol.c_grid, options, say)
    chosen = time.monotonic()
    found = fitted_by.predict(columns, features.labels, label_subsets.test, [choice.value], test_rows, options)
    ended = time.monotonic()
    figure = _result(features, label_subsets, fitted_by, choice, found, features.labels[test_rows])
    return Evaluation(
        result=replace(
            figure,
            layers=layers,
            num_features=columns.shape[1],
            seconds=ended - started,
            device=describe_device(resolve_device(device)),
        ),
        validation_curve=tuple((value, 100 * score) for value, score in choice.scores.items()),
        label_subsets=label_subsets,
        predictions=found.labels[:, 0],
        test_rows=test_rows,
        test_labels=features.labels[test_rows],
        seconds={"draw": drawn - started, "choose": chosen - drawn, "test": ended - chosen},
    )


Score = Callable[[Sequence[float]], Sequence[float]]


@dataclass(frozen=True)
class Selection:
    """The value chosen, the validation accuracy of every value tried, and the grid's name, "extended 1e-05..0.01"."""

    value: float
    scores: dict[float, float]
    search_range: str


def _select_hyperparameter(
    classifier: Classifier,
    columns: np.ndarray,
    labels: np.ndarray,
    draws: LabelSubsets,
    grid: str,
    options: SolverOptions,
    say: Progress,
) -> Selection:
    """The value with the best mean accuracy over the draws that choose, each on its own validation rows."""
    options = replace(options, tol=_SELECTION_TOL)

    def score(values: Sequence[float]) -> list[float]:
        means = []
        for fold, rows in enumerate(draws.validation):
            select = draws.select[fold :: len(draws.validation)]
            found = classifier.predict(columns, labels, select, values, rows, options).labels
            means.append((found == labels[rows]).mean(axis=2))
        accuracies = np.concatenate(means).mean(axis=0)
        pairs = zip(values, accuracies, strict=True)
        say(", ".join(f"{classifier.hyperparameter} {value:g}: {100 * accuracy:.2f} %" for value, accuracy in pairs))
        return accuracies.tolist()

    grid = grid if classifier.extend_search else "fixed"
    at_once = _AT_ONCE if len(draws.select[0]) > FEW_ROWS else None  # few rows share what costs most
    return search_hyperparameter(
        score, classifier.candidates, letter=classifier.hyperparameter, grid=grid, at_once=at_once, say=say
    )


def _result(
    features: FeatureSet,
    draws: LabelSubsets,
    classifier: Classifier,
    choice: Selection,
    found: Predictions,
    truth: np.ndarray,
) -> Result:
    error = features.dataset.split("-")[0] in _ERROR_DATASETS
    correct = found.labels[:, 0] == truth
    spread = uncertainty_of(~correct if error else correct)
    return Result(
        dataset=features.dataset,
        encoder=features.encoder,
        num_features=features.features.shape[1],
        protocol=draws.protocol,
        metric="error_percent" if error else "accuracy_percent",
        n=len(correct),
        C=choice.value if classifier.hyperparameter == "C" else float("nan"),
        search_range=choice.search_range,
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
        classifier=classifier.display_name,
        scaling=features.manifest["settings"].get("scaling", ""),
        hyperparameter=f"{classifier.hyperparameter} = {choice.value:g}",
        select_on=draws.select_on,
        label_subsets_sha256=draws.sha256,
        **spread.columns(),
        **stamps(),
    )


def search_hyperparameter(
    score: Score,
    values: Sequence[float],
    *,
    letter: str = "C",
    grid: str = "extended",
    at_once: int | None = None,
    say: Progress = print,
) -> Selection:
    """The value of the best validation accuracy, the smallest of equals.

    `score` maps values to validation accuracies. An `extended` grid goes on in steps of 1, 2, 5 while an end is best;
    its values are tried `at_once` at a time, the smallest first, and those beyond a clear fall are left out.
    """
    values = sorted(values)
    some = at_once if at_once and grid == "extended" else len(values)
    scores: dict[float, float] = {}
    for first in range(0, len(values), some):
        part = values[first : first + some]
        scores |= zip(part, score(part), strict=True)
        # differs from the paper: the release tries its whole grid (`release`)
        if scores[part[-1]] < max(scores.values()) - _CLEAR_FALL:
            break
    extended = 0
    while True:
        best = min(scores, key=lambda value: (-scores[value], value))
        say(f"{letter} {best:g} is best on validation: {100 * scores[best]:.2f} %")
        if grid != "extended" or best not in (min(scores), max(scores)) or extended == _EXTENSIONS:
            break
        # differs from the paper: the release's grid ends at 1e-4 and 1e-2 whatever validation says (`release`)
        beyond = _next_value(best, down=best == min(scores))
        say(f"that is an end of the grid: trying {letter} {beyond:g}")
        scores[beyond] = score([beyond])[0]
        extended += 1
    return Selection(best, dict(sorted(scores.items())), f"{grid} {min(scores):g}..{max(scores):g}")


def _next_value(value: float, *, down: bool) -> float:
    """The neighbour of a value in the series 1, 2, 5, 10, ..."""
    series = [float(f"{digit}e{power}") for power in range(-12, 13) for digit in (1, 2, 5)]
    place = int(np.argmin(np.abs(np.log(series) - np.log(value))))
    return series[place - 1 if down else place + 1]
