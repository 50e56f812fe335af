"""The choice of a classifier's setting (an SVM's C) on validation, over its grid and beyond the grid's ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_EXTENSIONS = 9  # steps beyond an end of the grid, three decades: a choice still at the end is then reported as such
_CLEAR_FALL = 0.005  # of accuracy; curves along C have one peak, but are flat and uneven within some 0.003 of it

Progress = Callable[[str], None]
Score = Callable[[Sequence[float]], Sequence[float]]


@dataclass(frozen=True)
class Choice:
    """The value chosen, the validation accuracy of every value tried, and the grid's name, "extended 1e-05..0.01"."""

    value: float
    scores: dict[float, float]
    grid: str


def choose(
    score: Score,
    values: Sequence[float],
    *,
    letter: str = "C",
    grid: str = "extended",
    at_once: int | None = None,
    say: Progress = print,
) -> Choice:
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
    return Choice(best, dict(sorted(scores.items())), f"{grid} {min(scores):g}..{max(scores):g}")


def _next_value(value: float, *, down: bool) -> float:
    """The neighbour of a value in the series 1, 2, 5, 10, ..."""
    series = [float(f"{digit}e{power}") for power in range(-12, 13) for digit in (1, 2, 5)]
    place = int(np.argmin(np.abs(np.log(series) - np.log(value))))
    return series[place - 1 if down else place + 1]
