"""The SVHN-style protocol beside LinearSVC: 7 C on 10 draws chosen on validation rows, then 100 draws tested.

    python benchmarks/speed/svm/protocol.py --features features.npy [--selection 10] [--repeats 100] [--memory 4GB]

LinearSVC is measured on one class of one draw at every C, with one process and with two; what is extrapolated from
that to all fits is a line that says so.
"""

import numpy as np
from beside import in_a_file, peer, two_peers
from rows import GRID, Given, chosen_rows, given, parser
from table import Table, timed

from evalkit.solver import l2svm_subsets

COLUMNS = ("features", "method", "problem", "rows", "dimensions", "wall_seconds", "cpu_seconds", "value", "unit")


def ours(table: Table, these: Given, draws: list[np.ndarray], *, selection: int, memory: str | None) -> tuple:
    """Wall seconds of the whole protocol, and the C chosen."""
    shape = (len(draws[0]), these.features.shape[1])
    validation = chosen_rows(these.pool, len(these.test))
    with timed() as spent:
        tried = l2svm_subsets(
            these.features, these.labels, draws[:selection], GRID, evaluate_rows=validation, memory=memory
        )
        accuracy = (tried.predictions == these.labels[validation]).mean((0, 2))
        gap = float(tried.duality_gap.max())
        table.add(these.name, "L2SVM", f"7 C x {selection} draws", *shape, *spent(), gap, "worst duality gap")
        best = GRID[int(accuracy.argmax())]
        final = l2svm_subsets(these.features, these.labels, draws, [best], evaluate_rows=these.test, memory=memory)
        percent = 100 * (final.predictions[:, 0] == these.labels[these.test]).mean(1)
        text, unit = f"7 C x {selection} draws + {len(draws)} draws", f"% accuracy at C={best:g}"
        table.add(these.name, "L2SVM", text, *shape, *spent(), float(percent.mean()), unit)
        seconds = spent()[0]
    gap, spread = float(final.duality_gap.max()), float(percent.std(ddof=1))
    table.add(these.name, "L2SVM", f"{len(draws)} draws", *shape, "", "", gap, "worst duality gap")
    table.add(these.name, "L2SVM", f"{len(draws)} draws", *shape, "", "", spread, "% points of spread")
    return seconds, best


def theirs(table: Table, these: Given, draws: list[np.ndarray], *, selection: int, seconds: float, best: float) -> None:
    """LinearSVC on class 3 of the first draw at each C, and what follows for the protocol."""
    shape = (len(draws[0]), these.features.shape[1])
    features = these.features[draws[0]].astype(np.float64)
    signs = np.where(these.labels[draws[0]] == 3, 1.0, -1.0)
    walls = {}
    for C in GRID:
        fit = peer(features, signs, C)
        walls[C] = fit.wall
        table.add(these.name, "LinearSVC", f"class 3 of one draw, C={C:g}", *shape, fit.wall, fit.cpu, "", "")
    classes = len(np.unique(these.labels))
    whole = classes * (selection * sum(walls.values()) + len(draws) * walls[best])
    text = f"EXTRAPOLATED: {classes} classes x ({selection} draws x 7 C + {len(draws)} draws) from"
    unit = "x the wall time of L2SVM"
    table.add(these.name, "LinearSVC", f"{text} the 7 fits above", *shape, whole, "", whole / seconds, unit)
    ends = [GRID[0], GRID[-1]]
    with in_a_file(features) as shared:
        share = two_peers(shared, signs, ends) / sum(walls[C] for C in ends)
    text = f"{text} two at a time: {share:.3f} of the time of one process"
    table.add(these.name, "LinearSVC, 2 processes", text, *shape, whole * share, "", whole * share / seconds, unit)


def main() -> None:
    """Reads the command line and measures."""
    options = parser(__doc__, "protocol", rows=1000)
    options.add_argument("--selection", type=int, default=10, help="draws that choose C")
    options.add_argument("--num-test-subsets", type=int, default=100, help="draws tested")
    options.add_argument("--memory", help="budget, such as 4GB")
    options.add_argument("--ours-only", action="store_true", help="without LinearSVC")
    arguments = options.parse_args()
    these, table = given(arguments), Table(arguments.out, COLUMNS)
    validation = chosen_rows(these.pool, len(these.test))
    pool = np.setdiff1d(these.pool, validation)
    generator = np.random.default_rng(0)
    draws = [np.sort(generator.choice(pool, arguments.rows, replace=False)) for _ in range(arguments.repeats)]
    seconds, best = ours(table, these, draws, selection=arguments.selection, memory=arguments.memory)
    if not arguments.ours_only:
        theirs(table, these, draws, selection=arguments.selection, seconds=seconds, best=best)


if __name__ == "__main__":
    main()
