"""The release's grid of C on many rows: seconds, passes, proof, accuracy, and what the machine could do.

    python benchmarks/speed/svm/grid.py --features features.npy --rows 10000 [--beside] [--memory 4GB] [--polish]

--beside adds LinearSVC on one class at both ends of the grid, with one process and with two; the whole grid follows by
interpolation, in lines that say so. For a budget beside RAM run it twice: peak_rss_gb is of the process.
"""

from collections.abc import Sequence

import numpy as np
from beside import check_room, in_a_file, peer, two_peers
from counting import counted
from rates import rates
from rows import GRID, Given, chosen_rows, given, parser
from table import Table, timed

from evalkit.solver import LinearFit, l2svm_path

COLUMNS = ("features", "method", "problem", "rows", "dimensions", "wall_seconds", "cpu_seconds", "value", "unit")


def ours(table: Table, these: Given, rows: np.ndarray, *, memory: str | None, polish: bool, storage: str) -> float:
    """Fits the grid, writes what came out; wall seconds."""
    shape = (len(rows), these.features.shape[1])
    with timed() as spent, counted() as work:
        fits = l2svm_path(these.features, these.labels, GRID, rows=rows, memory=memory, polish=polish, storage=storage)
        used = spent()
    how = f"7 C, memory {memory or 'as needed'}, storage {storage}" + (", polished" if polish else "")
    table.add(these.name, "L2SVM", how, *shape, *used, fits[0].n_passes, "passes")
    mean = work.columns / work.products
    table.add(these.name, "L2SVM", "products, the sample's too", *shape, "", "", mean, "columns on average")
    table.add(these.name, "L2SVM", "", *shape, "", "", 1e-9 * work.operations / used[0], "GFLOP/s of their operations")
    table.add(these.name, "L2SVM", "", *shape, "", "", 1e-9 * work.row_bytes / used[0], "GB/s of their rows")
    proof(table, these, fits, shape)
    return used[0]


def proof(table: Table, these: Given, fits: Sequence[LinearFit], shape: tuple[int, int]) -> None:
    """Objective, certificates and accuracy of each C."""
    for fit in fits:
        right = fit.predict(these.features, rows=these.test) == these.labels[these.test]
        for value, unit in (
            (float(fit.objective.sum()), "objective, sum of classes"),
            (float(fit.duality_gap.max()), "worst duality gap"),
            (float(fit.error_estimate.max()), "worst error estimate"),
            (100 * float(right.mean()), "% accuracy"),
        ):
            table.add(these.name, "L2SVM", f"C={fit.C:g}", *shape, "", "", value, unit)


def theirs(table: Table, these: Given, rows: np.ndarray, seconds: float) -> None:
    """LinearSVC on class 3 at the ends of the grid: by itself, then in two processes that fit it at the same time."""
    signs = np.where(these.labels[rows] == 3, 1.0, -1.0)
    ends, shape = (GRID[0], GRID[-1]), (len(rows), these.features.shape[1])
    with in_a_file(these.features[rows]) as features:
        walls = []
        for C in ends:
            fit = peer(features, signs, C)
            walls.append(fit.wall)
            table.add(these.name, "LinearSVC", f"class 3, C={C:g}", *shape, fit.wall, fit.cpu, "", "")
        _whole(table, these, "LinearSVC", shape, walls, seconds)
        halves = []
        for C in ends:
            both = two_peers(features, signs, [C, C])
            halves.append(both / 2)
            table.add(these.name, "LinearSVC, 2 processes", f"class 3 twice, C={C:g}", *shape, both, "", "", "")
        _whole(table, these, "LinearSVC, 2 processes", shape, halves, seconds)


def _whole(
    table: Table, these: Given, method: str, shape: tuple[int, int], walls: Sequence[float], seconds: float
) -> None:
    """What a fit's time at both ends of the grid comes to for all classes and C."""
    between = np.interp(np.log(GRID), np.log([GRID[0], GRID[-1]]), np.log(walls))
    classes = len(np.unique(these.labels))
    whole = classes * float(np.exp(between).sum())
    text = f"EXTRAPOLATED: {classes} classes x 7 C, seconds geometric in C between the two above"
    table.add(these.name, method, text, *shape, whole, "", whole / seconds, "x the wall time of L2SVM")


def main() -> None:
    """Reads the command line and measures."""
    options = parser(__doc__, "grid", rows=10_000)
    options.add_argument("--memory", help="budget, such as 4GB")
    options.add_argument("--storage", default="auto", help="auto, float16 or float32")
    options.add_argument("--polish", action="store_true", help="drive the rigorous gap to 1e-4, too")
    options.add_argument("--beside", action="store_true", help="LinearSVC with one and with two processes, too")
    arguments = options.parse_args()
    these, table = given(arguments), Table(arguments.out, COLUMNS)
    rows = chosen_rows(these.pool, arguments.rows)
    if arguments.beside:
        check_room(len(rows), these.features.shape[1])  # before ours takes its minutes
    how = {"memory": arguments.memory, "polish": arguments.polish, "storage": arguments.storage}
    seconds = ours(table, these, rows, **how)
    for unit, rate in rates(these.features.shape[1]).items():
        table.add(these.name, "machine", "", "", these.features.shape[1], "", "", rate, unit)
    if arguments.beside:
        theirs(table, these, rows, seconds)


if __name__ == "__main__":
    main()
