"""The few-label protocol and LinearSVC: C selected from 7 on 10 label subsets, then 100 subsets tested.

    python benchmarks/speed/solver/protocol.py --features features.npy [--num-selection-subsets 10] [--memory 4GB]

LinearSVC is measured on one class of one label subset at every C, in one process and in two; its time for all fits is
extrapolated, in rows that say so.
"""

import numpy as np
from inputs import C_VALUES, Inputs, argument_parser, load_inputs, sample_rows
from linear_svc import fit_linear_svc, float64_file, two_linear_svcs
from results_table import Table, timed

from evalkit.solver import l2svm_subsets

COLUMNS = ("features", "method", "problem", "rows", "dimensions", "wall_seconds", "cpu_seconds", "value", "unit")


def run_l2svm(table: Table, inputs: Inputs, subsets: list[np.ndarray], *, selection: int, memory: str | None) -> tuple:
    """Runs the protocol; returns its wall seconds and the selected C."""
    shape = (len(subsets[0]), inputs.features.shape[1])
    validation = sample_rows(inputs.pool, len(inputs.test))
    with timed() as spent:
        tried = l2svm_subsets(
            inputs.features, inputs.labels, subsets[:selection], C_VALUES, evaluate_rows=validation, memory=memory
        )
        accuracy = (tried.predictions == inputs.labels[validation]).mean((0, 2))
        gap = float(tried.duality_gap.max())
        table.add(inputs.name, "L2SVM", f"7 C x {selection} subsets", *shape, *spent(), gap, "worst duality gap")
        best = C_VALUES[int(accuracy.argmax())]
        final = l2svm_subsets(inputs.features, inputs.labels, subsets, [best], evaluate_rows=inputs.test, memory=memory)
        percent = 100 * (final.predictions[:, 0] == inputs.labels[inputs.test]).mean(1)
        text, unit = f"7 C x {selection} subsets + {len(subsets)} subsets", f"% accuracy at C={best:g}"
        table.add(inputs.name, "L2SVM", text, *shape, *spent(), float(percent.mean()), unit)
        seconds = spent()[0]
    gap, deviation = float(final.duality_gap.max()), float(percent.std(ddof=1))
    table.add(inputs.name, "L2SVM", f"{len(subsets)} subsets", *shape, "", "", gap, "worst duality gap")
    table.add(
        inputs.name, "L2SVM", f"{len(subsets)} subsets", *shape, "", "", deviation, "% points, standard deviation"
    )
    return seconds, best


def run_linear_svc(
    table: Table, inputs: Inputs, subsets: list[np.ndarray], *, selection: int, seconds: float, best: float
) -> None:
    """Fits LinearSVC on class 3 of the first subset at each C, and extrapolates to the protocol."""
    shape = (len(subsets[0]), inputs.features.shape[1])
    features = inputs.features[subsets[0]].astype(np.float64)
    signs = np.where(inputs.labels[subsets[0]] == 3, 1.0, -1.0)
    walls = {}
    for C in C_VALUES:
        fit = fit_linear_svc(features, signs, C)
        walls[C] = fit.wall
        table.add(inputs.name, "LinearSVC", f"class 3 of one subset, C={C:g}", *shape, fit.wall, fit.cpu, "", "")
    classes = len(np.unique(inputs.labels))
    whole = classes * (selection * sum(walls.values()) + len(subsets) * walls[best])
    text = f"EXTRAPOLATED: {classes} classes x ({selection} subsets x 7 C + {len(subsets)} subsets) from"
    unit = "x the wall time of L2SVM"
    table.add(inputs.name, "LinearSVC", f"{text} the 7 fits above", *shape, whole, "", whole / seconds, unit)
    ends = [C_VALUES[0], C_VALUES[-1]]
    with float64_file(features) as shared:
        share = two_linear_svcs(shared, signs, ends) / sum(walls[C] for C in ends)
    text = f"{text} two at a time: {share:.3f} of the time of one process"
    table.add(inputs.name, "LinearSVC, 2 processes", text, *shape, whole * share, "", whole * share / seconds, unit)


def main() -> None:
    """Parses the command line and runs the benchmark."""
    options = argument_parser(__doc__, "protocol", rows=1000)
    options.add_argument("--num-selection-subsets", type=int, default=10, help="label subsets that select C")
    options.add_argument("--num-test-subsets", type=int, default=100, help="label subsets tested")
    options.add_argument("--memory", help="memory budget, e.g. 4GB")
    options.add_argument("--ours-only", action="store_true", help="do not run LinearSVC")
    arguments = options.parse_args()
    inputs, table = load_inputs(arguments), Table(arguments.out, COLUMNS)
    validation = sample_rows(inputs.pool, len(inputs.test))
    pool = np.setdiff1d(inputs.pool, validation)
    generator = np.random.default_rng(0)
    subsets = [
        np.sort(generator.choice(pool, arguments.rows, replace=False)) for _ in range(arguments.num_test_subsets)
    ]
    seconds, best = run_l2svm(
        table, inputs, subsets, selection=arguments.num_selection_subsets, memory=arguments.memory
    )
    if not arguments.ours_only:
        run_linear_svc(table, inputs, subsets, selection=arguments.num_selection_subsets, seconds=seconds, best=best)


if __name__ == "__main__":
    main()
