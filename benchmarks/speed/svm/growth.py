"""How seconds and passes grow with rows, features, classes and C values, each doubled alone.

    python benchmarks/speed/svm/growth.py --features features.npy --rows 8000 [--dimensions 4096]

The largest problem has twice --rows. Fewer features are a random choice of the columns; fewer classes are labels modulo
their number.
"""

import numpy as np
from rows import chosen_rows, given, parser
from table import Table, timed

from evalkit.solver import l2svm_path

COLUMNS = ("features", "varied", "rows", "dimensions", "classes", "Cs", "wall_seconds", "cpu_seconds", "passes")


def sizes(rows: int, dimensions: int) -> list[tuple[str, int, int, int, int]]:
    """What is varied, and the numbers of rows, features, classes and C values."""
    varied = [("rows", each, dimensions, 10, 7) for each in (rows // 2, rows, 2 * rows)]
    varied += [("dimensions", rows, each, 10, 7) for each in (dimensions // 4, dimensions // 2, dimensions)]
    varied += [("classes", rows, dimensions, each, 7) for each in (2, 5, 10)]
    return varied + [("Cs", rows, dimensions, 10, each) for each in (1, 3, 7)]


def main() -> None:
    """Reads the command line and measures."""
    options = parser(__doc__, "growth", rows=8_000)
    options.add_argument("--dimensions", type=int, default=4096)
    arguments = options.parse_args()
    these, table = given(arguments), Table(arguments.out, COLUMNS)
    pool = chosen_rows(these.pool, 2 * arguments.rows)
    width = these.features.shape[1]
    columns = np.random.default_rng(0).permutation(width)[: min(arguments.dimensions, width)]
    labels = these.labels[pool]
    order = np.random.default_rng(1).permutation(len(pool))
    chosen = np.concatenate([these.features[part][:, columns] for part in np.array_split(pool, 16)])
    known: dict[tuple[int, ...], tuple[float, ...]] = {}
    for varied, *size in sizes(len(pool) // 2, len(columns)):
        rows, dimensions, classes, Cs = size
        if tuple(size) not in known:
            part = chosen[np.sort(order[:rows])][:, :dimensions].astype(np.float32) * np.sqrt(width / dimensions)
            with timed() as spent:
                fits = l2svm_path(
                    part.astype(np.float16), labels[np.sort(order[:rows])] % classes, np.geomspace(1e-4, 1e-2, Cs)
                )
                known[tuple(size)] = (*spent(), fits[0].n_passes)
        table.add(these.name, varied, *size, *known[tuple(size)])


if __name__ == "__main__":
    main()
