"""The solver on several kinds of features: seconds, passes, proof, accuracy; with and without few rows.

    python benchmarks/speed/svm/kinds.py A/features.npy B/features.npy [--rows 5000]

Each feature set is scaled as it is stored, on the release's grid of C. A fit that misses its tolerance is a line, too.
"""

import argparse
from pathlib import Path

import numpy as np
from rows import GRID, Given, chosen_rows, given, parser
from table import Table, timed

from evalkit.errors import EvalkitError
from evalkit.solver import l2svm_path

COLUMNS = (
    *("features", "rows", "dimensions", "mean_squared_length", "wall_seconds", "cpu_seconds", "passes"),
    *("most_steps", "worst_duality_gap", "worst_error_estimate", "best_accuracy_percent", "at_C", "remark"),
)


def measure(table: Table, these: Given, rows: np.ndarray) -> None:
    """The grid on these rows."""
    shape = (these.name, len(rows), these.features.shape[1])
    length = float(np.square(these.features[rows[:1000]], dtype=np.float32).sum(1).mean())
    with timed() as spent:
        try:
            fits = l2svm_path(these.features, these.labels, GRID, rows=rows)
        except EvalkitError as error:
            table.add(*shape, length, *spent(), "", "", "", "", "", "", str(error))
            return
        used = spent()
    truth = these.labels[these.test]
    right = [100 * float((fit.predict(these.features, rows=these.test) == truth).mean()) for fit in fits]
    best = int(np.argmax(right))
    gap, estimate = (float(max(getattr(fit, name).max() for fit in fits)) for name in ("duality_gap", "error_estimate"))
    steps = max(fit.n_iterations for fit in fits)
    table.add(*shape, length, *used, fits[0].n_passes, steps, gap, estimate, right[best], GRID[best], "")


def main() -> None:
    """Reads the command line and measures."""
    options = parser(__doc__, "kinds", rows=5_000)
    options.add_argument("more", type=Path, nargs="+", help="features .npy; labels.npy lies beside each")
    arguments = options.parse_args()
    table = Table(arguments.out, COLUMNS)
    for path in arguments.more:
        these = given(argparse.Namespace(**{**vars(arguments), "features": path}))
        for count in (1_000, arguments.rows):
            measure(table, these, chosen_rows(these.pool, count))


if __name__ == "__main__":
    main()
