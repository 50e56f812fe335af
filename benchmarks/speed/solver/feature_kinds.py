"""The solver on several kinds of features, on few rows and on many: seconds, passes, certificates, accuracy.

    python benchmarks/speed/solver/feature_kinds.py A/features.npy B/features.npy [--rows 5000]

Feature sets are used with the scale in which they are stored, at the release's C values. A fit that misses its
tolerance is also a row of the results.
"""

import argparse
from pathlib import Path

import numpy as np
from inputs import C_VALUES, Inputs, argument_parser, load_inputs, sample_rows
from results_table import Table, timed

from evalkit.errors import EvalkitError
from evalkit.solver import l2svm_path

COLUMNS = (
    *("features", "rows", "dimensions", "mean_squared_length", "wall_seconds", "cpu_seconds", "passes"),
    *("most_steps", "worst_duality_gap", "worst_error_estimate", "best_accuracy_percent", "at_C", "remark"),
)


def measure(table: Table, inputs: Inputs, rows: np.ndarray) -> None:
    """Fits all C values on these rows and writes the results."""
    shape = (inputs.name, len(rows), inputs.features.shape[1])
    length = float(np.square(inputs.features[rows[:1000]], dtype=np.float32).sum(1).mean())
    with timed() as spent:
        try:
            fits = l2svm_path(inputs.features, inputs.labels, C_VALUES, rows=rows)
        except EvalkitError as error:
            table.add(*shape, length, *spent(), "", "", "", "", "", "", str(error))
            return
        used = spent()
    truth = inputs.labels[inputs.test]
    right = [100 * float((fit.predict(inputs.features, rows=inputs.test) == truth).mean()) for fit in fits]
    best = int(np.argmax(right))
    gap, estimate = (float(max(getattr(fit, name).max() for fit in fits)) for name in ("duality_gap", "error_estimate"))
    steps = max(fit.n_iterations for fit in fits)
    table.add(*shape, length, *used, fits[0].n_passes, steps, gap, estimate, right[best], C_VALUES[best], "")


def main() -> None:
    """Parses the command line and runs the benchmark."""
    options = argument_parser(__doc__, "kinds", rows=5_000)
    options.add_argument("more", type=Path, nargs="+", help="features.npy files, each with labels.npy next to it")
    arguments = options.parse_args()
    table = Table(arguments.out, COLUMNS)
    for path in arguments.more:
        inputs = load_inputs(argparse.Namespace(**{**vars(arguments), "features": path}))
        for count in (1_000, arguments.rows):
            measure(table, inputs, sample_rows(inputs.pool, count))


if __name__ == "__main__":
    main()
