"""The release's seven C values on many rows: seconds, passes, certificates, accuracy, and the rates of the machine.

    python benchmarks/speed/solver/c_path.py --features features.npy [--rows 10000] [--linear-svc] [--memory 4GB]

--linear-svc adds LinearSVC on one class at the smallest and the largest C, in one process and in two; its time for all
classes and C values is interpolated, in rows that say so. To compare memory budgets run it once for each: peak_rss_gb
is the peak of the whole process.
"""

from collections.abc import Sequence

import numpy as np
from inputs import C_VALUES, Inputs, argument_parser, load_inputs, sample_rows
from linear_svc import check_room, fit_linear_svc, float64_file, two_linear_svcs
from machine_rates import measure_rates
from operations import count_products
from results_table import Table, timed

from evalkit.solver import LinearFit, l2svm_path

COLUMNS = ("features", "method", "problem", "rows", "dimensions", "wall_seconds", "cpu_seconds", "value", "unit")


def run_l2svm(
    table: Table, inputs: Inputs, rows: np.ndarray, *, memory: str | None, polish: bool, storage: str
) -> float:
    """Fits all C values and writes the results; returns the wall seconds."""
    shape = (len(rows), inputs.features.shape[1])
    with timed() as spent, count_products() as work:
        fits = l2svm_path(
            inputs.features, inputs.labels, C_VALUES, rows=rows, memory=memory, polish=polish, storage=storage
        )
        used = spent()
    how = f"7 C, memory {memory or 'as needed'}, storage {storage}" + (", polished" if polish else "")
    table.add(inputs.name, "L2SVM", how, *shape, *used, fits[0].n_passes, "passes")
    mean = work.columns / work.products
    table.add(inputs.name, "L2SVM", "products, including the sample's", *shape, "", "", mean, "columns on average")
    table.add(inputs.name, "L2SVM", "", *shape, "", "", 1e-9 * work.operations / used[0], "GFLOP/s of their operations")
    table.add(inputs.name, "L2SVM", "", *shape, "", "", 1e-9 * work.row_bytes / used[0], "GB/s of their rows")
    write_certificates(table, inputs, fits, shape)
    return used[0]


def write_certificates(table: Table, inputs: Inputs, fits: Sequence[LinearFit], shape: tuple[int, int]) -> None:
    """Objective, certificates and accuracy of each C."""
    for fit in fits:
        right = fit.predict(inputs.features, rows=inputs.test) == inputs.labels[inputs.test]
        for value, unit in (
            (float(fit.objective.sum()), "objective, sum of classes"),
            (float(fit.duality_gap.max()), "worst duality gap"),
            (float(fit.error_estimate.max()), "worst error estimate"),
            (100 * float(right.mean()), "% accuracy"),
        ):
            table.add(inputs.name, "L2SVM", f"C={fit.C:g}", *shape, "", "", value, unit)


def run_linear_svc(table: Table, inputs: Inputs, rows: np.ndarray, seconds: float) -> None:
    """Fits LinearSVC on class 3 at the smallest and largest C: alone, then in two processes at the same time."""
    signs = np.where(inputs.labels[rows] == 3, 1.0, -1.0)
    ends, shape = (C_VALUES[0], C_VALUES[-1]), (len(rows), inputs.features.shape[1])
    with float64_file(inputs.features[rows]) as features:
        walls = []
        for C in ends:
            fit = fit_linear_svc(features, signs, C)
            walls.append(fit.wall)
            table.add(inputs.name, "LinearSVC", f"class 3, C={C:g}", *shape, fit.wall, fit.cpu, "", "")
        _write_extrapolation(table, inputs, "LinearSVC", shape, walls, seconds)
        halves = []
        for C in ends:
            both = two_linear_svcs(features, signs, [C, C])
            halves.append(both / 2)
            table.add(inputs.name, "LinearSVC, 2 processes", f"class 3 twice, C={C:g}", *shape, both, "", "", "")
        _write_extrapolation(table, inputs, "LinearSVC, 2 processes", shape, halves, seconds)


def _write_extrapolation(
    table: Table, inputs: Inputs, method: str, shape: tuple[int, int], walls: Sequence[float], seconds: float
) -> None:
    """Writes the time for all classes and C values that follows from the time at the smallest and largest C."""
    between = np.interp(np.log(C_VALUES), np.log([C_VALUES[0], C_VALUES[-1]]), np.log(walls))
    classes = len(np.unique(inputs.labels))
    whole = classes * float(np.exp(between).sum())
    text = f"EXTRAPOLATED: {classes} classes x 7 C, seconds geometric in C between the two above"
    table.add(inputs.name, method, text, *shape, whole, "", whole / seconds, "x the wall time of L2SVM")


def main() -> None:
    """Parses the command line and runs the benchmark."""
    options = argument_parser(__doc__, "grid", rows=10_000)
    options.add_argument("--memory", help="memory budget, e.g. 4GB")
    options.add_argument("--storage", default="auto", help="auto, float16 or float32")
    options.add_argument("--polish", action="store_true", help="continue until the rigorous gap is 1e-4")
    options.add_argument("--linear-svc", action="store_true", help="also run LinearSVC, in one process and in two")
    arguments = options.parse_args()
    inputs, table = load_inputs(arguments), Table(arguments.out, COLUMNS)
    rows = sample_rows(inputs.pool, arguments.rows)
    if arguments.linear_svc:
        check_room(len(rows), inputs.features.shape[1])  # before the minutes that L2SVM takes
    how = {"memory": arguments.memory, "polish": arguments.polish, "storage": arguments.storage}
    seconds = run_l2svm(table, inputs, rows, **how)
    for unit, rate in measure_rates(inputs.features.shape[1]).items():
        table.add(inputs.name, "machine", "", "", inputs.features.shape[1], "", "", rate, unit)
    if arguments.linear_svc:
        run_linear_svc(table, inputs, rows, seconds)


if __name__ == "__main__":
    main()
