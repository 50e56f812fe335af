"""Duality gap and accuracy against seconds and passes: L2SVM, LinearSVC and L-BFGS without preconditioner.

    python benchmarks/speed/solver/convergence.py --features features.npy --rows 5000 [--C 1e-3] [--label 3]

One binary problem; writes a CSV file and a plot. The gap of a point is half the squared gradient norm at its weights,
relative to the objective there, which bounds the error of any method. L2SVM and LinearSVC (dual) run at decreasing
tolerances, each point is a fit from scratch; SciPy's L-BFGS uses the same float32 products, each point is an iteration.
"""

import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import torch
from inputs import Inputs, argument_parser, load_inputs, sample_rows
from linear_svc import fit_linear_svc
from matplotlib.ticker import NullFormatter
from results_table import Table, timed

from evalkit.solver import l2svm_path
from evalkit.solver.passes import fastest_matrix_product

COLUMNS = ("features", "method", "rows", "dimensions", "C", "seconds", "passes", "gap_by_gradient", "accuracy_percent")
_METHODS = {"L2SVM": "C0", "LinearSVC": "C1", "L-BFGS, no preconditioner": "C2"}
_ITERATIONS = 200


class Problem:
    """One class against the rest at one C."""

    def __init__(self, inputs: Inputs, rows: np.ndarray, label: int, C: float) -> None:
        self.C, self.passes = C, 0
        self.train, self.test = (
            torch.from_numpy(inputs.features[which].astype(np.float32)) for which in (rows, inputs.test)
        )
        self.signs, self.truth = (np.where(inputs.labels[which] == label, 1.0, -1.0) for which in (rows, inputs.test))
        self.product = fastest_matrix_product(torch.device("cpu"))

    def value_and_gradient(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Objective and gradient at weights (D + 1,), the intercept last; two passes with float32 products."""
        self.passes += 2
        row = torch.from_numpy(weights[None, :-1].astype(np.float32))
        scores = self.product(self.train, row).double().numpy()[:, 0] + weights[-1]
        left = np.maximum(0, 1 - self.signs * scores)
        pull = 2 * self.C * self.signs * left
        back = self.product(torch.from_numpy(pull[None].astype(np.float32)), self.train.T).double().numpy()[0]
        return 0.5 * weights @ weights + self.C * left @ left, weights - np.append(back, pull.sum())

    def evaluate(self, weights: np.ndarray) -> tuple[float, float]:
        """Half the squared gradient norm relative to the objective, and the accuracy in percent."""
        value, gradient = self.value_and_gradient(weights)
        scores = (self.test @ torch.from_numpy(weights[:-1]).float()).numpy() + weights[-1]
        return 0.5 * float(gradient @ gradient) / value, 100 * float(((scores > 0) == (self.truth > 0)).mean())


Point = tuple[str, float, float, np.ndarray]  # method, seconds, passes, weights


def l2svm_points(problem: Problem) -> list[Point]:
    """One fit per tolerance."""
    points = []
    for tol in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        with timed() as spent:
            fit = l2svm_path(problem.train, problem.signs, [problem.C], tol=tol)[0]
        points.append(("L2SVM", spent()[0], fit.n_passes, np.append(fit.coef[0], fit.intercept).astype(np.float64)))
    return points


def linear_svc_points(problem: Problem) -> list[Point]:
    """One fit per tolerance; passes are not counted, because its steps take rows one by one."""
    features, points = problem.train.double().numpy(), []
    for tol in (1e-1, 1e-2, 1e-3, 1e-4):
        fit = fit_linear_svc(features, problem.signs, problem.C, tol=tol)
        points.append(("LinearSVC", fit.wall, float("nan"), np.append(fit.coef, fit.intercept)))
    return points


def lbfgs_points(problem: Problem) -> list[Point]:
    """Every fifth iteration of L-BFGS with a history of 20."""
    points: list[Point] = []
    problem.passes = 0
    with timed() as spent:
        scipy.optimize.minimize(
            problem.value_and_gradient,
            np.zeros(problem.train.shape[1] + 1),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _ITERATIONS, "maxcor": 20},
            callback=lambda weights: points.append(
                ("L-BFGS, no preconditioner", spent()[0], problem.passes, weights.copy())
            ),
        )
    return points[4::5]


def plot(lines: list[tuple], path: str, title: str) -> None:
    """Gap and accuracy, each against seconds and against passes."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex="col", sharey="row", layout="constrained")
    for method, colour in _METHODS.items():
        _, seconds, passes, gap, accuracy = zip(*(line for line in lines if line[0] == method), strict=True)
        for column, across in enumerate((seconds, passes)):
            axes[0, column].loglog(across, gap, "o-", markersize=3, label=method, color=colour)
            axes[1, column].semilogx(across, accuracy, "o-", markersize=3, color=colour)
    for row, label in enumerate(("rigorous gap (½ ‖gradient‖² / objective)", "test accuracy in %")):
        axes[row, 0].set_ylabel(label)
    for column, label in enumerate(("wall seconds", "passes over the rows")):
        axes[1, column].set_xlabel(label)
        axes[1, column].xaxis.set_minor_formatter(NullFormatter())  # labels of 2, 3, 4 times 10^n overlap
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parses the command line and runs the benchmark."""
    options = argument_parser(__doc__, "curve", rows=5_000)
    options.add_argument("--C", type=float, default=1e-3)
    options.add_argument("--label", type=int, default=3, help="positive class")
    arguments = options.parse_args()
    inputs, table = load_inputs(arguments), Table(arguments.out, COLUMNS)
    rows = sample_rows(inputs.pool, arguments.rows)
    problem = Problem(inputs, rows, arguments.label, arguments.C)
    lines = []
    for method, seconds, passes, weights in [
        *l2svm_points(problem),
        *lbfgs_points(problem),
        *linear_svc_points(problem),
    ]:
        lines.append((method, seconds, passes, *problem.evaluate(weights)))
        table.add(inputs.name, method, *problem.train.shape, arguments.C, *lines[-1][1:])
    title = (
        f"class {arguments.label} of {inputs.name}, {len(rows):,} x {inputs.features.shape[1]:,}, C = {arguments.C:g}"
    )
    plot(lines, str(arguments.out.with_suffix(".png")), title)


if __name__ == "__main__":
    main()
