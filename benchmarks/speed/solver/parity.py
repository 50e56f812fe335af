"""Differences in objective, accuracy and intercept from LinearSVC at a tight tolerance.

    python benchmarks/speed/solver/parity.py few     --features features.npy    (all classes, all C)
    python benchmarks/speed/solver/parity.py many    --features features.npy --rows 10000  (one class, three C)
    python benchmarks/speed/solver/parity.py tall    [--rows 100000]            (Gaussian, 200 dimensions)
    python benchmarks/speed/solver/parity.py two     --features features.npy    (two classes: one problem)
    python benchmarks/speed/solver/parity.py weights --features features.npy    (balanced classes, row weights)

One row per C, with the worst value over its classes. A negative difference means that L2SVM has the lower objective.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from inputs import C_VALUES, Inputs, argument_parser, gaussian_features, load_inputs, sample_rows
from linear_svc import fit_linear_svc_tightly, objective
from results_table import Table, timed

from evalkit.solver import LinearFit, l2svm_path

COLUMNS = (
    *("kind", "features", "rows", "dimensions", "C", "problems", "relative_objective_difference"),
    *("accuracy_points_moved", "intercept_difference", "largest_intercept", "our_seconds_all_C", "their_seconds"),
)
KINDS = {"few": 1_000, "many": 10_000, "tall": 100_000, "two": 1_000, "weights": 1_000}  # training rows


def balanced(labels: np.ndarray, weight: np.ndarray, label: int) -> np.ndarray:
    """Cost of each row in the problem of one class with class_weight="balanced", as in liblinear."""
    counts = np.bincount(labels, weights=weight)
    own = counts.sum() / (np.count_nonzero(counts) * counts[label])
    return weight * np.where(labels == label, own, 1)


def compare(table: Table, kind: str, inputs: Inputs, rows: np.ndarray, *, classes: list[int], Cs: list[float]) -> None:
    """Fits both solvers and writes one row per C."""
    labels = inputs.labels[rows]
    weight = np.random.default_rng(1).uniform(0.2, 5, len(rows)) if kind == "weights" else None
    class_weight = None if weight is None else "balanced"
    with timed() as spent:
        fits = l2svm_path(
            inputs.features, labels, Cs, rows=rows, tol=1e-7, sample_weight=weight, class_weight=class_weight
        )
        seconds = spent()[0]
    chosen, unseen = (inputs.features[which].astype(np.float64) for which in (rows, inputs.test))
    for fit in fits:
        per_class = list(
            differences(fit, chosen, unseen, labels, inputs.labels[inputs.test], classes=classes, weight=weight)
        )
        moved, points, apart, intercepts, walls = zip(*per_class, strict=True)
        worst = (max(moved, key=abs), max(points), max(apart), max(intercepts))
        table.add(kind, inputs.name, *chosen.shape, fit.C, len(per_class), *worst, seconds, sum(walls))


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
    """For each class: relative difference of objectives, accuracy points moved, intercept difference, LinearSVC's
    absolute intercept and its seconds."""
    for label in classes:
        place = 0 if len(fit.classes) == 2 else int(np.searchsorted(fit.classes, label))
        costs = None if weight is None else balanced(labels, weight, label)
        signs = np.where(labels == label, 1.0, -1.0)
        other = fit_linear_svc_tightly(chosen, signs, fit.C, weight=costs)
        pairs = [(fit.coef[place], float(fit.intercept[place])), (other.coef, other.intercept)]
        each = 1.0 if costs is None else costs
        mine, best = (objective(chosen, signs, coef, intercept, fit.C * each) for coef, intercept in pairs)
        right = [100 * (((unseen @ coef + intercept) > 0) == (truth == label)).mean() for coef, intercept in pairs]
        apart = abs(pairs[0][1] - other.intercept)
        yield mine / best - 1, abs(right[0] - right[1]), apart, abs(other.intercept), other.wall


def select_classes(inputs: Inputs, labels: list[int]) -> Inputs:
    """Only the rows of these classes."""
    pool, test = (rows[np.isin(inputs.labels[rows], labels)] for rows in (inputs.pool, inputs.test))
    return replace(inputs, pool=pool, test=test)


def main() -> None:
    """Parses the command line and runs the comparison."""
    options = argument_parser(__doc__, "parity", rows=0)
    options.add_argument("kind", choices=KINDS)
    options.add_argument("--classes", type=int, nargs="+", help="classes to compare [default: all; one for many]")
    options.add_argument("--Cs", type=float, nargs="+", help="C values to compare [default: all seven; three for many]")
    arguments = options.parse_args()
    count = arguments.rows or KINDS[arguments.kind]
    inputs = load_inputs(arguments)
    if arguments.kind == "tall":
        features, labels = gaussian_features(count + 10_000, 200)
        inputs = Inputs(
            features.astype(np.float32), labels, "synthetic", np.arange(count), np.arange(count, count + 10_000)
        )
    if arguments.kind == "two":
        inputs = select_classes(inputs, [3, 5])
    classes = {"many": [3], "two": [5]}.get(arguments.kind, np.unique(inputs.labels).tolist())
    Cs = [1e-4, 1e-3, 1e-2] if arguments.kind == "many" else C_VALUES
    rows = sample_rows(inputs.pool, count)
    table = Table(arguments.out, COLUMNS)
    compare(table, arguments.kind, inputs, rows, classes=arguments.classes or classes, Cs=arguments.Cs or Cs)


if __name__ == "__main__":
    main()
