"""How seconds and passes scale with rows, features, classes and C values, each varied on its own.

    python benchmarks/speed/solver/scaling.py --features features.npy --rows 8000 [--dimensions 4096]

The largest problem has twice --rows. Fewer features are a random subset of the columns; fewer classes are labels modulo
the number of classes.
"""

import numpy as np
from inputs import argument_parser, load_inputs, sample_rows
from results_table import Table, timed

from evalkit.solver import l2svm_path

COLUMNS = ("features", "varied", "rows", "dimensions", "classes", "Cs", "wall_seconds", "cpu_seconds", "passes")


def sizes(rows: int, dimensions: int) -> list[tuple[str, int, int, int, int]]:
    """The varied quantity, and the numbers of rows, features, classes and C values."""
    varied = [("rows", each, dimensions, 10, 7) for each in (rows // 2, rows, 2 * rows)]
    varied += [("dimensions", rows, each, 10, 7) for each in (dimensions // 4, dimensions // 2, dimensions)]
    varied += [("classes", rows, dimensions, each, 7) for each in (2, 5, 10)]
    return varied + [("Cs", rows, dimensions, 10, each) for each in (1, 3, 7)]


def main() -> None:
    """Parses the command line and runs the benchmark."""
    options = argument_parser(__doc__, "growth", rows=8_000)
    options.add_argument("--dimensions", type=int, default=4096)
    arguments = options.parse_args()
    inputs, table = load_inputs(arguments), Table(arguments.out, COLUMNS)
    pool = sample_rows(inputs.pool, 2 * arguments.rows)
    width = inputs.features.shape[1]
    columns = np.random.default_rng(0).permutation(width)[: min(arguments.dimensions, width)]
    labels = inputs.labels[pool]
    order = np.random.default_rng(1).permutation(len(pool))
    features = np.concatenate([inputs.features[part][:, columns] for part in np.array_split(pool, 16)])
    measured: dict[tuple[int, ...], tuple[float, ...]] = {}
    for varied, *size in sizes(len(pool) // 2, len(columns)):
        rows, dimensions, classes, Cs = size
        if tuple(size) not in measured:
            part = features[np.sort(order[:rows])][:, :dimensions].astype(np.float32) * np.sqrt(width / dimensions)
            with timed() as spent:
                fits = l2svm_path(
                    part.astype(np.float16), labels[np.sort(order[:rows])] % classes, np.geomspace(1e-4, 1e-2, Cs)
                )
                measured[tuple(size)] = (*spent(), fits[0].n_passes)
        table.add(inputs.name, varied, *size, *measured[tuple(size)])


if __name__ == "__main__":
    main()
