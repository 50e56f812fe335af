"""Objective, accuracy and intercept beside LinearSVC at a tight tolerance.

    python benchmarks/speed/svm/parity.py few     --features features.npy               (all classes, all C)
    python benchmarks/speed/svm/parity.py many    --features features.npy --rows 10000  (one class, three C)
    python benchmarks/speed/svm/parity.py tall    [--rows 100000]                       (Gaussian, 200 dimensions)
    python benchmarks/speed/svm/parity.py two     --features features.npy               (two classes as one problem)
    python benchmarks/speed/svm/parity.py weights --features features.npy               (balanced classes, row weights)

One line a C, each figure the worst of its classes. A negative difference of objectives says that ours is the lower one.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from beside import objective, tight_peer
from rows import GRID, Given, chosen_rows, gaussian, given, parser
from table import Table, timed

from evalkit.solver import LinearFit, l2svm_path

COLUMNS = (
    *("kind", "features", "rows", "dimensions", "C", "problems", "relative_objective_difference"),
    *("accuracy_points_moved", "intercept_difference", "largest_intercept", "our_seconds_all_C", "their_seconds"),
)
KINDS = {"few": 1_000, "many": 10_000, "tall": 100_000, "two": 1_000, "weights": 1_000}  # training rows


def balanced(labels: np.ndarray, weight: np.ndarray, label: int) -> np.ndarray:
    """Cost of each row in the problem of a class under class_weight="balanced", as liblinear has it."""
    counts = np.bincount(labels, weights=weight)
    own = counts.sum() / (np.count_nonzero(counts) * counts[label])
    return weight * np.where(labels == label, own, 1)


def compare(table: Table, kind: str, these: Given, rows: np.ndarray, *, classes: list[int], Cs: list[float]) -> None:
    """Fits both and writes a line a C."""
    labels = these.labels[rows]
    weight = np.random.default_rng(1).uniform(0.2, 5, len(rows)) if kind == "weights" else None
    class_weight = None if weight is None else "balanced"
    with timed() as spent:
        fits = l2svm_path(
            these.features, labels, Cs, rows=rows, tol=1e-7, sample_weight=weight, class_weight=class_weight
        )
        seconds = spent()[0]
    chosen, unseen = (these.features[which].astype(np.float64) for which in (rows, these.test))
    for fit in fits:
        found = list(differences(fit, chosen, unseen, labels, these.labels[these.test], classes=classes, weight=weight))
        moved, points, apart, intercepts, walls = zip(*found, strict=True)
        worst = (max(moved, key=abs), max(points), max(apart), max(intercepts))
        table.add(kind, these.name, *chosen.shape, fit.C, len(found), *worst, seconds, sum(walls))


def differences(
    fit: LinearFit,
    chosen: np.ndarray,
    unseen: np.ndarray,
    labels: np.ndarray,
    truth: np.ndarray,
    *,
    classes: list[int],
    weight: np.ndarray | None,
) -> Iterator[tuple[float, float, float, float, float]]:
    """Of each class: relative difference of objectives, points moved, difference of intercepts, theirs, its seconds."""
    for label in classes:
        place = 0 if len(fit.classes) == 2 else int(np.searchsorted(fit.classes, label))
        costs = None if weight is None else balanced(labels, weight, label)
        signs = np.where(labels == label, 1.0, -1.0)
        other = tight_peer(chosen, signs, fit.C, weight=costs)
        pairs = [(fit.coef[place], float(fit.intercept[place])), (other.coef, other.intercept)]
        each = 1.0 if costs is None else costs
        mine, best = (objective(chosen, signs, coef, intercept, fit.C * each) for coef, intercept in pairs)
        right = [100 * (((unseen @ coef + intercept) > 0) == (truth == label)).mean() for coef, intercept in pairs]
        apart = abs(pairs[0][1] - other.intercept)
        yield mine / best - 1, abs(right[0] - right[1]), apart, abs(other.intercept), other.wall


def only(these: Given, labels: list[int]) -> Given:
    """The rows of some classes alone."""
    pool, test = (rows[np.isin(these.labels[rows], labels)] for rows in (these.pool, these.test))
    return replace(these, pool=pool, test=test)


def main() -> None:
    """Reads the command line and compares."""
    options = parser(__doc__, "parity", rows=0)
    options.add_argument("kind", choices=KINDS)
    options.add_argument("--classes", type=int, nargs="+", help="classes compared; all when not given, one for many")
    options.add_argument("--Cs", type=float, nargs="+", help="C compared; the grid when not given, three for many")
    arguments = options.parse_args()
    count = arguments.rows or KINDS[arguments.kind]
    these = given(arguments)
    if arguments.kind == "tall":
        features, labels = gaussian(count + 10_000, 200)
        these = Given(
            features.astype(np.float32), labels, "synthetic", np.arange(count), np.arange(count, count + 10_000)
        )
    if arguments.kind == "two":
        these = only(these, [3, 5])
    classes = {"many": [3], "two": [5]}.get(arguments.kind, np.unique(these.labels).tolist())
    Cs = [1e-4, 1e-3, 1e-2] if arguments.kind == "many" else GRID
    rows = chosen_rows(these.pool, count)
    table = Table(arguments.out, COLUMNS)
    compare(table, arguments.kind, these, rows, classes=arguments.classes or classes, Cs=arguments.Cs or Cs)


if __name__ == "__main__":
    main()
