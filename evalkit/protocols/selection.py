"""The choice of C on validation, over the release's grid and beyond its ends."""

from collections.abc import Callable, Sequence

import numpy as np

from evalkit.protocols.settings import RELEASE_GRID

_EXTENSIONS = 9  # steps beyond an end of the grid, three decades: a choice still at the end is then reported as such

Progress = Callable[[str], None]
Score = Callable[[Sequence[float]], Sequence[float]]


def choose_C(score: Score, *, grid: str, say: Progress) -> tuple[float, float, str]:
    """The C of the best validation accuracy (the smallest of equals), that accuracy, and the name of the grid tried.

    The name says how far the grid went, e.g. "extended 1e-05..0.01".

    `score` maps C values to validation accuracies. An `extended` grid goes on in steps of 1, 2, 5 while an end is best.
    """
    scores = dict(zip(RELEASE_GRID, score(RELEASE_GRID), strict=True))
    extended = 0
    while True:
        best = min(scores, key=lambda C: (-scores[C], C))
        say(f"C {best:g} is best on validation: {100 * scores[best]:.2f} %")
        if grid == "release" or best not in (min(scores), max(scores)) or extended == _EXTENSIONS:
            break
        # differs from the paper: the release's grid ends at 1e-4 and 1e-2 whatever validation says (`release`)
        beyond = _next_C(best, down=best == min(scores))
        say(f"that is an end of the grid: trying C {beyond:g}")
        scores[beyond] = score([beyond])[0]
        extended += 1
    return best, scores[best], f"{grid} {min(scores):g}..{max(scores):g}"


def _next_C(C: float, *, down: bool) -> float:
    """The neighbour of C in the series 1, 2, 5, 10, ..."""
    series = [float(f"{digit}e{power}") for power in range(-12, 13) for digit in (1, 2, 5)]
    place = int(np.argmin(np.abs(np.log(series) - np.log(C))))
    return series[place - 1 if down else place + 1]
