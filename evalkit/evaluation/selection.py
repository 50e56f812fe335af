"""Selection of a classifier's hyperparameter (an SVM's C, the k of kNN) by validation accuracy.

Called by `evaluate` with the label subsets of a protocol, and by the training probe with one split. The candidates are
the classifier's, with further ones where the features' scale calls for them; the search goes on beyond the best values
until validation falls, unless the protocol or the classifier forbids it.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evalkit.errors import ConvergenceError
from evalkit.evaluation.label_subsets import LabelSubsets
from evalkit.probes.classifiers import Classifier, SolverOptions
from evalkit.solver.fit import FEW_ROWS

logger = logging.getLogger(__name__)

_AT_ONCE = 3  # candidates fitted together on many rows; the largest take most of the time and are seldom the best
_SELECTION_TOL = 1e-5  # accuracies are settled from here on (benchmarks/NOTES.md); the tested fits go further
_STEPS = 9  # beyond the outermost candidates, three decades either way: a best value still at the end is reported
_CLEAR_FALL = 0.005  # of accuracy; curves along C have one peak, but are flat and uneven within some 0.003 of it
# C times a squared norm. Far below, all weights are near zero; far above, a larger C hardly changes a fit.
_WEAKEST, _STRONGEST = 1e-2, 10.0
_SCALE_ROWS = 512  # rows that the scale of the features is estimated from

END_BEST = "end best"  # in `Selection.search_range`

Score = Callable[[Sequence[float]], Sequence[float]]


@dataclass(frozen=True)
class Selection:
    """A selected hyperparameter.

    Attributes:
        value: the value selected.
        scores: value -> validation accuracy (a fraction) of every value tried, in ascending order of the value.
        search_range: how far the search went, e.g. "extended 1e-05..0.01"; it names an end that is still best, e.g.
            "release (lower end best) 0.0001..0.01".
    """

    value: float
    scores: dict[float, float]
    search_range: str


@dataclass(frozen=True)
class Scale:
    """The scale of features (N, D), which fits see as the product with C.

    Attributes:
        squared_norm: the mean squared norm of a row.
        variance: the sum of the columns' variances; below `squared_norm` where the columns' means are not zero.
    """

    squared_norm: float
    variance: float


def scale_of(X: np.ndarray, rows: np.ndarray) -> Scale:
    """The scale of the features of some of the rows, evenly chosen."""
    chosen = rows[:: -(-len(rows) // _SCALE_ROWS)]
    total, sums, shift = 0.0, np.zeros(X.shape[1]), np.asarray(X[chosen[0]], np.float64)
    centered = 0.0
    for row in chosen:
        x = np.asarray(X[row], np.float64)
        total += float(x @ x)
        centered += float((x - shift) @ (x - shift))
        sums += x - shift
    mean = sums / len(chosen)
    return Scale(total / len(chosen), max(centered / len(chosen) - float(mean @ mean), 0.0))


def further_candidates(candidates: Sequence[float], scale: Scale) -> list[float]:
    """Decades below and above the candidates, where these are too large or too small for features of the scale.

    None for the released network's features, for which the release's candidates are made.
    """
    low, high = min(candidates), max(candidates)
    if not (scale.squared_norm > 0 and scale.variance > 0):  # constant features have no scale
        return []
    further = []
    if low * scale.squared_norm > _STRONGEST:
        power = math.floor(math.log10(low))
        last = math.floor(math.log10(_WEAKEST / scale.squared_norm))
        further += [float(f"1e{each}") for each in range(last, power)]
    if high * scale.variance < _STRONGEST:
        power = math.floor(math.log10(high))
        last = math.ceil(math.log10(_STRONGEST / scale.variance))
        further += [float(f"1e{each}") for each in range(power + 1, last + 1)]
    return [value for value in further if not low <= value <= high]


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
        scale=scale_of(X, label_subsets.select[0]) if classifier.extend_search else None,
        search_range=c_grid if classifier.extend_search else "fixed",
        at_once=_AT_ONCE if many else None,
        bounds=classifier.bounds,
    )
    best = 100 * selection.scores[selection.value]
    logger.info("%s %g is best on validation: %.2f %% (%s)", name, selection.value, best, selection.search_range)
    if END_BEST in selection.search_range:
        logger.warning(
            "%s: an end of the values searched is still best on validation, a value beyond it may be better%s",
            selection.search_range,
            "; --c-grid extended searches further" if c_grid == "release" and classifier.extend_search else "",
        )
    return selection


def search_hyperparameter(
    score: Score,
    candidates: Sequence[float],
    *,
    scale: Scale | None = None,
    search_range: str = "extended",
    at_once: int | None = None,
    bounds: tuple[float, float] = (0.0, math.inf),
) -> Selection:
    """The value of the best validation accuracy.

    Of neighbours that are equally good an `extended` search selects the middle one (of two the smaller), any other
    search the smallest.

    Args:
        score: maps values to validation accuracies.
        candidates: values to try.
        scale: of the features; an `extended` search adds `further_candidates`. None: unknown.
        search_range: `extended` goes on beyond the best values, both ways in steps of 1, 2, 5, until accuracy falls,
            and leaves out candidates beyond a clear fall and values whose fit does not converge. Any other word tries
            the candidates, all of them.
        at_once: number of candidates that an `extended` search tries at once, the smallest first; all by default.
        bounds: values beyond which there is nothing to search; no end that is one of them is reported.

    Raises:
        ConvergenceError: no fit converges; of a search that is not `extended`, one does not.
    """
    extends = search_range == "extended"
    if extends:
        scores = _search(score, candidates, scale, at_once)
    else:
        scores = dict(zip(sorted(candidates), score(sorted(candidates)), strict=True))
    best = _plateau(scores)
    low, high = min(scores), max(scores)
    # differs from the paper: the release's candidates end at 1e-4 and 1e-2 whatever validation says (`release`)
    open_ends = [end for end, is_open in (("lower", low > bounds[0]), ("upper", high < bounds[1])) if is_open]
    at_end = [end for end in open_ends if (low if end == "lower" else high) in best and scores[low] < 1 > scores[high]]
    flag = f" ({' and '.join(at_end)} {END_BEST})" if at_end else ""
    value = best[(len(best) - 1) // 2] if extends else min(scores, key=lambda each: (-scores[each], each))
    return Selection(value, dict(sorted(scores.items())), f"{search_range}{flag} {low:g}..{high:g}")


class _Scores:
    """Value -> accuracy of an `extended` search, without the values whose fits do not converge."""

    def __init__(self, score: Score) -> None:
        self._score = score
        self.accuracies: dict[float, float] = {}
        self.failures: dict[float, ConvergenceError] = {}

    def add(self, values: Sequence[float]) -> None:
        """Scores ascending values, together if all of them converge; those after a failure are left out."""
        try:
            self.accuracies |= zip(values, self._score(values), strict=True)
        except ConvergenceError as error:
            if len(values) == 1:
                self.failures[values[0]] = error
                logger.info("%g: left out of the search (%s)", values[0], error)
                return
            for value in values:
                if not self.failures or value < min(self.failures):  # a larger C is harder
                    self.add([value])


def _search(score: Score, candidates: Sequence[float], scale: Scale | None, at_once: int | None) -> dict[float, float]:
    """Value -> accuracy of an `extended` search.

    Raises:
        ConvergenceError: no fit converges, or those that the features' scale calls for do not.
    """
    values = sorted({*candidates, *(further_candidates(candidates, scale) if scale else ())})
    settled = 1 / scale.variance if scale and scale.variance else 0.0
    scores = _Scores(score)
    _score_candidates(scores, values, at_once=at_once, settled=settled)
    _walk(scores, values)
    failed, best = min(scores.failures, default=math.inf), max(_plateau(scores.accuracies), default=0.0)
    if not scores.accuracies or (best < settled and failed < settled):  # those that converge have weights near zero
        raise scores.failures[failed]
    return scores.accuracies


def _score_candidates(scores: _Scores, values: Sequence[float], *, at_once: int | None, settled: float) -> None:
    """Scores `at_once` values at a time; those beyond a clear fall are left out.

    A fall at values below `settled`, where weights are near zero, may be chance.
    """
    step = at_once or len(values)
    for first in range(0, len(values), step):
        group = values[first : first + step]
        scores.add(group)
        # differs from the paper: the release tries all of its candidates (`release`)
        last = scores.accuracies.get(group[-1])
        fell = last is not None and last < max(scores.accuracies.values()) - _CLEAR_FALL
        if scores.failures or (fell and group[-1] >= settled):
            break


def _walk(scores: _Scores, values: Sequence[float]) -> None:
    """Goes on beyond the best values, both ways, until accuracy falls; at most _STEPS beyond the outermost values."""
    low, high = _beyond(values[0], -_STEPS), _beyond(values[-1], _STEPS)
    for _ in range(2 * _STEPS):
        if not scores.accuracies:
            break
        best = _plateau(scores.accuracies)
        if len(best) > 1 and scores.accuracies[best[0]] == 1:
            break  # nothing is better
        neighbours = {_beyond(best[0], -1), _beyond(best[-1], 1)} - scores.accuracies.keys() - scores.failures.keys()
        added = [value for value in sorted(neighbours) if low <= value <= high]
        if not added:
            break
        scores.add(added)


def _plateau(scores: dict[float, float]) -> list[float]:
    """The best values, ascending: the longest run of neighbours of equal accuracy, of equally long ones the first."""
    highest = max(scores.values(), default=0.0)
    runs: list[list[float]] = [[]]
    for value in sorted(scores):
        if scores[value] == highest:
            runs[-1].append(value)
        elif runs[-1]:
            runs.append([])
    return max(runs, key=len)


def _beyond(value: float, steps: int) -> float:
    """The value so many steps up or down the series 1, 2, 5, 10, ..."""
    power = math.floor(math.log10(value))
    series = [float(f"{digit}e{each}") for each in range(power - 5, power + 6) for digit in (1, 2, 5)]
    return series[int(np.argmin(np.abs(np.log(series) - np.log(value)))) + steps]
