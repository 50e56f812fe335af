"""The L2-SVM solver beside scikit-learn's LinearSVC on the same features: parity, seconds, memory, gap against time.

    python benchmarks/speed/svm.py parity   --features features.npy --labels labels.npy
    python benchmarks/speed/svm.py protocol --features features.npy --labels labels.npy
    python benchmarks/speed/svm.py grid     --features features.npy --labels labels.npy --rows 10000
    python benchmarks/speed/svm.py curve    --features features.npy --labels labels.npy --rows 5000
    python benchmarks/speed/svm.py growth   --features features.npy --labels labels.npy --rows 8000

Without --features it makes Gaussian ones, marked `synthetic` in the results. Each run appends lines to --out. LinearSVC
is measured on the problems named in its line; what is extrapolated from them is a line of its own that says so.
CPU seconds are of all threads together: on a machine with other work they say more than wall seconds.
"""

import argparse
import csv
import os
import platform
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import sklearn
import torch
from joblib import Parallel, delayed
from sklearn.svm import LinearSVC

from evalkit.probes.l2svm import l2svm_draws, l2svm_path
from evalkit.probes.l2svm.products import matrix_path

GRID = np.geomspace(1e-4, 1e-2, 7)  # the release's grid
COLUMNS = [
    *("section", "features", "method", "problem", "rows", "dimensions", "wall_seconds", "cpu_seconds", "value", "unit"),
    *("load_average", "peak_rss_gb", "threads", "torch", "sklearn", "cpu", "date"),
]


class Results:
    """Appends lines to a CSV file, each with the machine's state."""

    def __init__(self, path: Path, section: str, name: str, dimensions: int) -> None:
        self.path, self.section, self.name, self.dimensions = path, section, name, dimensions

    def add(self, method: str, problem: str, rows: int, wall: Any, cpu: Any, value: Any, unit: str) -> None:
        """One measured figure."""
        numbers = [f"{number:.4g}" if isinstance(number, float) else number for number in (wall, cpu, value)]
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        machine = [f"{os.getloadavg()[0]:.1f}", f"{rss:.2f}", torch.get_num_threads(), torch.__version__]
        line = [self.section, self.name, method, problem, rows, self.dimensions, *numbers, unit, *machine]
        line += [sklearn.__version__, f"{platform.machine()} x {os.cpu_count()}", time.strftime("%Y-%m-%d")]
        new = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerow(line)
        print(*line[2:10], sep="  ", flush=True)


@contextmanager
def timed() -> Iterator[Callable[[], tuple[float, float]]]:
    """Gives a function that returns (wall, CPU) seconds since the block began."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield lambda: (time.perf_counter() - wall, time.process_time() - cpu)


def peer(features: np.ndarray, signs: np.ndarray, C: float, **settings: Any) -> tuple[LinearSVC, float, float]:
    """LinearSVC on one binary problem, with the seconds of its fit; its warnings are not hidden in parity runs."""
    with timed() as spent, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LinearSVC(C=C, random_state=0, **settings).fit(features, signs)
    return model, *spent()


def objective(features: np.ndarray, signs: np.ndarray, coef: np.ndarray, intercept: float, C: float) -> float:
    """The objective of one binary problem, in float64."""
    losses = np.maximum(0, 1 - signs * (features @ coef + intercept))
    return float(0.5 * (coef @ coef + intercept**2) + C * (losses**2).sum())


def two_peers(jobs: list[tuple[np.ndarray, np.ndarray, float]]) -> float:
    """Wall seconds of LinearSVC on two binary problems at a time, one process each (joblib's memory-mapped workers)."""
    with timed() as spent:
        Parallel(n_jobs=2, max_nbytes="1M")(delayed(peer)(*job) for job in jobs)
    return spent()[0]


def rates(results: Results) -> None:
    """What this machine does in this run: rates of the matrix paths, of a pass's product, and of reading memory."""
    path = matrix_path(torch.device("cpu"))
    for name, rate in path.gflops.items():
        results.add(f"matrix path {name}", "check", 256, "", "", rate, f"GFLOP/s, error {path.errors[name]:.0e}")
    rows, weights = torch.randn(1024, 28672), torch.randn(70, 28672)
    for name, other in (("70 columns", weights), ("10 columns", weights[:10]), ("square", rows)):
        seconds = min(_wall(lambda other=other: path(rows, other)) for _ in range(3))
        results.add("matrix path", name, 1024, seconds, "", 2e-9 * 1024 * 28672 * len(other) / seconds, "GFLOP/s")
    seconds = min(_wall(rows.sum) for _ in range(5))
    results.add("memory", "torch.sum", 1024, seconds, "", 4e-9 * rows.numel() / seconds, "GB/s")


def _wall(action: Callable[[], Any]) -> float:
    with timed() as spent:
        action()
    return spent()[0]


def parity(
    results: Results,
    features: np.ndarray,
    labels: np.ndarray,
    rows: int,
    test: np.ndarray,
    *,
    classes: list[int],
    Cs: np.ndarray,
) -> None:
    """Objective and predictions against LinearSVC at a tight tolerance, on some classes and C."""
    train = np.arange(rows)
    chosen, unseen = features[train].astype(np.float64), features[test].astype(np.float64)
    dual = features.shape[1] > rows
    fits = l2svm_path(features, labels, Cs, rows=train, tol=1e-7)
    for fit, label in [(fit, label) for fit in fits for label in classes]:
        signs = np.where(labels[train] == label, 1.0, -1.0)
        model, wall, cpu = peer(chosen, signs, fit.C, dual=dual, tol=1e-7 if dual else 1e-9, max_iter=100_000)
        theirs = objective(chosen, signs, model.coef_[0], float(model.intercept_[0]), fit.C)
        ours = objective(chosen, signs, fit.coef[label].astype(np.float64), float(fit.intercept[label]), fit.C)
        name = f"class {label} C={fit.C:.2g}"
        results.add(f"LinearSVC {'dual' if dual else 'primal'}, tight", name, rows, wall, cpu, theirs, "objective")
        results.add("L2SVM", name, rows, "", "", (ours - theirs) / theirs, "objective relative to LinearSVC's")
        scores = unseen @ fit.coef[label] + fit.intercept[label]
        truth, other = labels[test] == label, model.decision_function(unseen)
        moved = float(((scores > 0) == truth).mean() - ((other > 0) == truth).mean())
        results.add("L2SVM", name, len(test), "", "", 100 * moved, "% points of accuracy beside LinearSVC's")
        apart = abs(float(fit.intercept[label]) - float(model.intercept_[0]))
        results.add("L2SVM", name, rows, "", "", apart, "difference of intercepts")


def protocol(
    results: Results,
    features: np.ndarray,
    labels: np.ndarray,
    rows: int,
    test: np.ndarray,
    *,
    selection: int,
    repeats: int,
) -> None:
    """7 C on some draws, selected on validation rows, then all draws tested; LinearSVC on one class of one draw."""
    generator = np.random.default_rng(0)
    pool = np.setdiff1d(np.arange(len(labels)), test)
    validation, pool = pool[: len(test)], pool[len(test) :]
    draws = [np.sort(generator.choice(pool, rows, replace=False)) for _ in range(repeats)]
    with timed() as spent:
        chosen = l2svm_draws(features, labels, draws[:selection], GRID, evaluate_rows=validation)
        accuracy = (chosen.predictions == labels[validation]).mean((0, 2))
        results.add(
            "L2SVM", f"7 C x {selection} draws", rows, *spent(), float(chosen.duality_gap.max()), "worst duality gap"
        )
        best = GRID[accuracy.argmax()]
        final = l2svm_draws(features, labels, draws, [best], evaluate_rows=test)
        percent = 100 * (final.predictions[:, 0] == labels[test]).mean(1)
        results.add(
            "L2SVM",
            f"7 C x {selection} draws + {repeats} draws",
            rows,
            *spent(),
            float(percent.mean()),
            f"% accuracy at C={best:.2g}",
        )
        ours = spent()
    results.add("L2SVM", f"{repeats} draws", rows, "", "", float(percent.std(ddof=1)), "% points of spread")
    first = features[draws[0]].astype(np.float64)
    signs = np.where(labels[draws[0]] == 3, 1.0, -1.0)
    seconds = []
    for C in GRID:
        _, wall, cpu = peer(first, signs, C)
        seconds.append(wall)
        results.add("LinearSVC", f"class 3 of one draw, C={C:.2g}", rows, wall, cpu, "", "")
    whole = 10 * (selection * sum(seconds) + repeats * seconds[int(accuracy.argmax())])
    text = f"EXTRAPOLATED: 10 classes x ({selection} draws x 7 C + {repeats} draws) from"
    results.add("LinearSVC", f"{text} the 7 fits above", rows, whole, "", whole / ours[0], "x the wall time of L2SVM")
    pair = two_peers([(first, signs, GRID[i]) for i in (0, 6)]) / (seconds[0] + seconds[6])
    results.add("LinearSVC, 2 processes", "C=0.0001 beside C=0.01", rows, "", "", pair, "of the time of one process")
    results.add(
        "LinearSVC, 2 processes",
        f"{text} those",
        rows,
        whole * pair,
        "",
        whole * pair / ours[0],
        "x the wall time of L2SVM",
    )


def grid(
    results: Results, features: np.ndarray, labels: np.ndarray, rows: int, test: np.ndarray, *, beside: bool, **how: Any
) -> None:
    """The 7-C grid on many rows: seconds, passes, certificates, accuracy, rates."""
    rates(results)
    with timed() as spent:
        fits = l2svm_path(features, labels, GRID, rows=np.arange(rows), **how)
        results.add("L2SVM", f"7 C {how}", rows, *spent(), fits[0].n_passes, "passes")
    seconds = fits[0].seconds
    for fit in fits:
        accuracy = 100 * float((fit.predict(features, rows=test) == labels[test]).mean())
        results.add("L2SVM", f"C={fit.C:.2g}", rows, "", "", float(fit.objective.sum()), "objective, sum of classes")
        results.add("L2SVM", f"C={fit.C:.2g}", rows, "", "", float(fit.duality_gap.max()), "worst duality gap")
        results.add("L2SVM", f"C={fit.C:.2g}", rows, "", "", float(fit.error_estimate.max()), "worst error estimate")
        results.add("L2SVM", f"C={fit.C:.2g}", rows, "", "", accuracy, "% accuracy")
    if beside:
        peer_on_grid(results, features, labels, rows, seconds)


def peer_on_grid(results: Results, features: np.ndarray, labels: np.ndarray, rows: int, ours: float) -> None:
    """LinearSVC, one process, on class 3 at the ends of the grid; the others follow by interpolation in C."""
    chosen, signs = features[:rows].astype(np.float64), np.where(labels[:rows] == 3, 1.0, -1.0)
    ends = []
    for C in GRID[[0, -1]]:
        _, wall, cpu = peer(chosen, signs, C)
        ends.append(wall)
        results.add("LinearSVC", f"class 3, C={C:.2g}", rows, wall, cpu, "", "")
    whole = 10 * float(np.geomspace(*ends, len(GRID)).sum())
    text = "EXTRAPOLATED: 10 classes x 7 C, seconds geometric in C between the two above"
    results.add("LinearSVC", text, rows, whole, "", whole / ours, "x the wall time of L2SVM")


Point = tuple[str, float, float, float, float]  # method, seconds, passes (nan for LinearSVC), relative gap, % accuracy


def curve(results: Results, features: np.ndarray, labels: np.ndarray, rows: int, test: np.ndarray) -> None:
    """Rigorous gap and accuracy of class 3 at C=1e-3 against seconds and passes; also as a plot beside the CSV.

    Ours and LinearSVC (dual) at falling tolerance, each point a fit from the start; SciPy's L-BFGS without
    preconditioner on float32 products, each point an iteration.
    """
    train = np.arange(rows)
    chosen, unseen = (torch.from_numpy(features[which].astype(np.float32)) for which in (train, test))
    signs, truth = (np.where(labels[which] == 3, 1.0, -1.0) for which in (train, test))
    state = {"passes": 0}

    def value_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        state["passes"] += 2
        left = np.maximum(
            0, 1 - signs * (chosen @ torch.from_numpy(weights[:-1]).float() + weights[-1]).double().numpy()
        )
        pull = signs * left
        back = (torch.from_numpy(pull).float() @ chosen).double().numpy()
        loss = 0.5 * weights @ weights + 1e-3 * left @ left
        return loss, weights - 2e-3 * np.append(back, pull.sum())

    def point(method: str, seconds: float, passes: float, coef: np.ndarray, intercept: float) -> Point:
        loss, gradient = value_and_gradient(np.append(coef, intercept).astype(np.float64))
        scores = unseen @ torch.from_numpy(np.asarray(coef, dtype=np.float32)) + intercept
        accuracy = 100 * float(((scores.numpy() > 0) == (truth > 0)).mean())
        return method, seconds, passes, 0.5 * float(gradient @ gradient) / loss, accuracy

    points: list[Point] = []
    for tol in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        with timed() as spent:
            fit = l2svm_path(chosen, signs, [1e-3], tol=tol)[0]
        seconds = spent()[0]
        method, *_, accuracy = point("L2SVM", seconds, fit.n_passes, fit.coef[0], float(fit.intercept[0]))
        points.append((method, seconds, fit.n_passes, float(fit.duality_gap[0]), accuracy))
    trace: list[tuple[float, int, np.ndarray]] = []
    with timed() as spent:
        state["passes"] = 0
        scipy.optimize.minimize(
            value_and_gradient,
            np.zeros(chosen.shape[1] + 1),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 150, "maxcor": 20},
            callback=lambda weights: trace.append((spent()[0], state["passes"], weights.copy())),
        )
    for seconds, passes, weights in trace[4::5]:
        points.append(point("L-BFGS, no preconditioner", seconds, passes, weights[:-1], weights[-1]))
    double = chosen.double().numpy()
    for tol in (1e-1, 1e-2, 1e-3, 1e-4):
        model, wall, _ = peer(double, signs, 1e-3, tol=tol)
        points.append(point("LinearSVC dual", wall, float("nan"), model.coef_[0], float(model.intercept_[0])))
    for method, seconds, passes, gap, accuracy in points:
        results.add(method, f"{passes:.0f} passes, {accuracy:.2f} % accuracy", rows, seconds, "", gap, "duality gap")
    plot(points, results.path.with_name("svm-curve.png"))


def plot(points: list[Point], path: Path) -> None:
    """Gap and accuracy, each against seconds and against passes."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex="col", sharey="row")
    for method in dict.fromkeys(each[0] for each in points):
        _, seconds, passes, gap, accuracy = zip(*(each for each in points if each[0] == method), strict=True)
        for column, across in enumerate((seconds, passes)):
            axes[0, column].loglog(across, gap, "o-", markersize=3, label=method)
            axes[1, column].semilogx(across, accuracy, "o-", markersize=3, label=method)
    for row, label in enumerate(("rigorous gap / objective", "test accuracy, %")):
        axes[row, 0].set_ylabel(label)
    for column, label in enumerate(("wall seconds", "passes over the rows")):
        axes[1, column].set_xlabel(label)
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def growth(results: Results, features: np.ndarray, labels: np.ndarray, rows: int, test: np.ndarray) -> None:
    """CPU seconds and passes as rows, features, classes and C values double one at a time."""
    columns = np.sort(np.random.default_rng(0).permutation(features.shape[1])[:4096])
    chosen = features[: 2 * rows][:, columns].astype(np.float32) * np.sqrt(features.shape[1] / 4096)
    sizes = [(rows, 4096, 10, 7), (rows // 2, 4096, 10, 7), (2 * rows, 4096, 10, 7)]
    sizes += [(rows, 1024, 10, 7), (rows, 2048, 10, 7), (rows, 4096, 2, 7), (rows, 4096, 5, 7)]
    sizes += [(rows, 4096, 10, 1), (rows, 4096, 10, 3)]
    for n, d, classes, count in sizes:
        part = np.ascontiguousarray(chosen[:n, :d]) * np.float32(np.sqrt(4096 / d))
        with timed() as spent:
            fits = l2svm_path(part, labels[:n] % classes, np.geomspace(1e-4, 1e-2, count))
        results.add("L2SVM", f"n={n} d={d} K={classes} Cs={count}", n, *spent(), fits[0].n_passes, "passes")


def load(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, str]:
    """Features, labels and the name they go by in the results."""
    if arguments.features is not None:
        return (
            np.load(arguments.features, mmap_mode="r"),
            np.load(arguments.labels),
            arguments.features.resolve().parent.name.removeprefix("cifar10-jpeg--"),
        )
    generator, (count, dimensions) = np.random.default_rng(0), arguments.make
    labels = generator.integers(0, 10, count)
    centres = 0.1 * generator.normal(size=(10, dimensions))
    return (centres[labels] + generator.normal(size=(count, dimensions))).astype(np.float16), labels, "synthetic"


def main() -> None:
    """Reads the command line and runs one section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["parity", "protocol", "grid", "curve", "growth"])
    parser.add_argument("--features", type=Path, help="features .npy, rows x dimensions")
    parser.add_argument("--labels", type=Path, help="labels .npy")
    parser.add_argument(
        "--make", type=int, nargs=2, default=[20_000, 2_000], help="rows and dimensions of synthetic ones"
    )
    parser.add_argument("--rows", type=int, default=1000, help="training rows")
    parser.add_argument("--test-rows", type=int, default=10_000, help="rows scored, the last of the file")
    parser.add_argument("--selection", type=int, default=10, help="draws that select C in the protocol section")
    parser.add_argument("--repeats", type=int, default=100, help="draws tested in the protocol section")
    parser.add_argument("--memory", help="budget of the grid section, such as 4GB")
    parser.add_argument("--polish", action="store_true", help="grid section: drive the rigorous gap to 1e-4, too")
    parser.add_argument("--storage", default="auto", help="grid section: auto, float16 or float32")
    parser.add_argument("--beside", action="store_true", help="grid section: LinearSVC on two problems, too")
    parser.add_argument("--classes", type=int, nargs="+", default=[0, 3], help="parity section: classes compared")
    parser.add_argument("--Cs", type=int, nargs="+", default=[0, 3, 6], help="parity section: numbers of C in the grid")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/svm-speed.csv"))
    arguments = parser.parse_args()
    features, labels, name = load(arguments)
    test = np.arange(len(labels) - arguments.test_rows, len(labels))
    results = Results(arguments.out, arguments.section, name, features.shape[1])
    at = (results, features, labels, arguments.rows, test)
    if arguments.section == "grid":
        how = {"memory": arguments.memory, "polish": arguments.polish, "storage": arguments.storage}
        grid(*at, beside=arguments.beside, **how)
    elif arguments.section == "protocol":
        protocol(*at, selection=arguments.selection, repeats=arguments.repeats)
    elif arguments.section == "parity":
        parity(*at, classes=arguments.classes, Cs=GRID[arguments.Cs])
    else:
        {"curve": curve, "growth": growth}[arguments.section](*at)


if __name__ == "__main__":
    main()
