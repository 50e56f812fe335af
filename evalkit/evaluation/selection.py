"""Selection of a classifier's hyperparameter (an SVM's C, the k of kNN) by validation accuracy.

Called by `evaluate` with the label subsets of a protocol, and by the training probe with one split. The candidates are
the classifier's; the search goes beyond an end of them that is best, unless the protocol or the classifier forbids it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evalkit.evaluation.label_subsets import LabelSubsets
from evalkit.probes.classifiers import Classifier, SolverOptions
from evalkit.solver.fit import FEW_ROWS

logger = logging.getLogger(__name__)

_AT_ONCE = 3  # candidates fitted together on many rows; the largest take most of the time and are seldom the best
_SELECTION_TOL = 1e-5  # accuracies are settled from here on (benchmarks/NOTES.md); the tested fits go further
_EXTENSIONS = 9  # steps beyond an end of the candidates, three decades: a best value still at the end is reported
_CLEAR_FALL = 0.005  # of accuracy; curves along C have one peak, but are flat and uneven within some 0.003 of it

Score = Callable[[Sequence[float]], Sequence[float]]


@dataclass(frozen=True)
class Selection:
    """A selected hyperparameter.

    Attributes:
        value: the value selected.
        scores: value -> validation accuracy (a fraction) of every value tried, in ascending order of the value.
        search_range: how far the search went, e.g. "extended 1e-05..0.01".
    """

    value: float
    scores: dict[float, float]
    search_range: str


def select_hyperparameter(
    classifier: Classifier,
    X: np.ndarray,
    y: np.ndarray,
    label_subsets: LabelSubsets,
    *,
    c_grid: str,
    options: SolverOptions,
) -> Selection:
    """The value with the best mean accuracy over the selection subsets, each scored on its own validation rows.

    Args:
        X, y: features (N, D) and labels (N,) of all rows.
        label_subsets: the rows to fit and to score.
        c_grid: `extended` or `release`, see `Protocol`; classifiers that forbid an extension search `fixed` values.
        options: of the solver; selection uses a tolerance of its own.
    """
    options = replace(options, tol=_SELECTION_TOL)
    name, num_folds = classifier.hyperparameter, len(label_subsets.validation)

    def score(values: Sequence[float]) -> list[float]:
        accuracies = []
        for fold, rows in enumerate(label_subsets.validation):
            subsets = label_subsets.select[fold::num_folds]
            predictions = classifier.predict(X, y, subsets, values, rows, options).labels
            accuracies.append((predictions == y[rows]).mean(axis=2))
        means = np.concatenate(accuracies).mean(axis=0)
        logger.info(", ".join(f"{name} {v:g}: {100 * mean:.2f} %" for v, mean in zip(values, means, strict=True)))
        return means.tolist()

    many = len(label_subsets.select[0]) > FEW_ROWS  # few rows share what costs most
    selection = search_hyperparameter(
        score,
        classifier.candidates,
        search_range=c_grid if classifier.extend_search else "fixed",
        at_once=_AT_ONCE if many else None,
    )
    best = 100 * selection.scores[selection.value]
    logger.info("%s %g is best on validation: %.2f %% (%s)", name, selection.value, best, selection.search_range)
    return selection


def search_hyperparameter(
    score: Score, candidates: Sequence[float], *, search_range: str = "extended", at_once: int | None = None
) -> Selection:
    """The value of the best validation accuracy; of equals the smallest.

    Args:
        score: maps values to validation accuracies.
        candidates: values to try.
        search_range: `extended` goes on beyond an end of the candidates, in steps of 1, 2, 5, while that end is best,
            and leaves out candidates beyond a clear fall. Any other word tries the candidates, all of them.
        at_once: number of candidates that an `extended` search tries at once, the smallest first; all by default.
    """
    extends = search_range == "extended"
    scores = _score_candidates(score, sorted(candidates), at_once=at_once if extends else None)
    best = _best(scores)
    for _ in range(_EXTENSIONS if extends else 0):
        # differs from the paper: the release's candidates end at 1e-4 and 1e-2 whatever validation says (`release`)
        if best not in (min(scores), max(scores)):
            break
        beyond = _next_value(best, down=best == min(scores))
        scores[beyond] = score([beyond])[0]
        best = _best(scores)
    return Selection(best, dict(sorted(scores.items())), f"{search_range} {min(scores):g}..{max(scores):g}")


def _score_candidates(score: Score, values: Sequence[float], *, at_once: int | None) -> dict[float, float]:
    """Value -> accuracy, `at_once` values at a time; those beyond a clear fall are left out."""
    step = at_once or len(values)
    scores: dict[float, float] = {}
    for first in range(0, len(values), step):
        group = values[first : first + step]
        scores |= zip(group, score(group), strict=True)
        # differs from the paper: the release tries all of its candidates (`release`)
        if scores[group[-1]] < max(scores.values()) - _CLEAR_FALL:
            break
    return scores


def _best(scores: dict[float, float]) -> float:
    return min(scores, key=lambda value: (-scores[value], value))


def _next_value(value: float, *, down: bool) -> float:
    """The neighbour of a value in the series 1, 2, 5, 10, ..."""
    series = [float(f"{digit}e{power}") for power in range(-12, 13) for digit in (1, 2, 5)]
    nearest = int(np.argmin(np.abs(np.log(series) - np.log(value))))
    return series[nearest - 1 if down else nearest + 1]
