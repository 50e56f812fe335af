"""The L2-SVM solver beside scikit-learn's LinearSVC on the same features: parity, seconds, memory, gap against time.

    python benchmarks/speed/svm.py parity   --features features.npy --labels labels.npy
    python benchmarks/speed/svm.py protocol --features features.npy --labels labels.npy
    python benchmarks/speed/svm.py grid     --features features.npy --labels labels.npy --rows 10000
    python benchmarks/speed/svm.py curve    --features features.npy --labels labels.npy --rows 3000

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

import numpy as np
import sklearn
import torch
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


def parity(results: Results, features: np.ndarray, labels: np.ndarray, rows: int, test: np.ndarray) -> None:
    """Objective and predictions against LinearSVC (dual) at a tight tolerance: classes 0 and 3, three C."""
    train = np.arange(rows)
    chosen, unseen = features[train].astype(np.float64), features[test].astype(np.float64)
    Cs = GRID[[0, 3, 6]]
    fits = l2svm_path(features, labels, Cs, rows=train)
    for fit, label in [(fit, label) for fit in fits for label in (0, 3)]:
        signs = np.where(labels[train] == label, 1.0, -1.0)
        model, wall, cpu = peer(chosen, signs, fit.C, tol=1e-7, max_iter=100_000)
        theirs = objective(chosen, signs, model.coef_[0], float(model.intercept_[0]), fit.C)
        ours = objective(chosen, signs, fit.coef[label].astype(np.float64), float(fit.intercept[label]), fit.C)
        name = f"class {label} C={fit.C:.2g}"
        results.add("LinearSVC dual tol=1e-7", name, rows, wall, cpu, theirs, "objective")
        results.add("L2SVM", name, rows, "", "", (ours - theirs) / theirs, "objective relative to LinearSVC's")
        scores = unseen @ fit.coef[label] + fit.intercept[label]
        same = float(((scores > 0) == (model.decision_function(unseen) > 0)).mean())
        results.add("L2SVM", name, len(test), "", "", 100 * same, "% of predictions equal to LinearSVC's")


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
        seconds.append(cpu)
        results.add("LinearSVC", f"class 3 of one draw, C={C:.2g}", rows, wall, cpu, "", "")
    whole = 10 * (selection * sum(seconds) + repeats * seconds[int(accuracy.argmax())])
    text = f"EXTRAPOLATED: 10 classes x ({selection} draws x 7 C + {repeats} draws) from the 7 fits above"
    results.add("LinearSVC", text, rows, "", whole, whole / ours[1], "x the CPU seconds of L2SVM, all its threads")


def grid(results: Results, features: np.ndarray, labels: np.ndarray, rows: int, test: np.ndarray, **how: Any) -> None:
    """The 7-C grid on many rows: seconds, passes, certificates, accuracy, rates."""
    path = matrix_path(torch.device("cpu"))
    for name, rate in path.gflops.items():
        results.add(
            f"matrix path {name}", "skinny product", 256, "", "", rate, f"GFLOP/s, error {path.errors[name]:.0e}"
        )
    with timed() as spent:
        fits = l2svm_path(features, labels, GRID, rows=np.arange(rows), **how)
        results.add("L2SVM", f"7 C {how}", rows, *spent(), fits[0].n_passes, "passes")
    for fit in fits:
        accuracy = 100 * float((fit.predict(features, rows=test) == labels[test]).mean())
        results.add("L2SVM", f"C={fit.C:.2g}", rows, "", "", float(fit.objective.sum()), "objective, sum of classes")
        results.add("L2SVM", f"C={fit.C:.2g}", rows, "", "", float(fit.duality_gap.max()), "worst duality gap")
        results.add("L2SVM", f"C={fit.C:.2g}", rows, "", "", float(fit.error_estimate.max()), "worst error estimate")
        results.add("L2SVM", f"C={fit.C:.2g}", rows, "", "", accuracy, "% accuracy")


def curve(results: Results, features: np.ndarray, labels: np.ndarray, rows: int, test: np.ndarray) -> None:
    """Relative error of class 3 at C=1e-3 against CPU seconds: ours, LinearSVC dual and primal at falling tolerance."""
    train = np.arange(rows)
    chosen = features[train].astype(np.float64)
    signs = np.where(labels[train] == 3, 1.0, -1.0)
    best = float(l2svm_path(features, labels == 3, [1e-3], rows=train, tol=1e-8)[0].objective[0])
    for tol in (1e-1, 1e-2, 1e-3, 1e-4, 1e-6):
        with timed() as spent:
            fit = l2svm_path(features, labels == 3, [1e-3], rows=train, tol=tol)[0]
        results.add("L2SVM", f"tol={tol:g}", rows, *spent(), float(fit.objective[0]) / best - 1, "relative error")
    for dual, tol in [(dual, tol) for dual in (True, False) for tol in (1e-1, 1e-2, 1e-3, 1e-4)]:
        model, wall, cpu = peer(chosen, signs, 1e-3, dual=dual, tol=tol)
        error = objective(chosen, signs, model.coef_[0], float(model.intercept_[0]), 1e-3) / best - 1
        results.add(
            "LinearSVC dual" if dual else "LinearSVC primal", f"tol={tol:g}", rows, wall, cpu, error, "relative error"
        )


def load(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, str]:
    """Features, labels and the name they go by in the results."""
    if arguments.features is not None:
        return np.load(arguments.features, mmap_mode="r"), np.load(arguments.labels), arguments.features.stem
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 20_000)
    centres = 0.1 * generator.normal(size=(10, 2_000))
    return (centres[labels] + generator.normal(size=(20_000, 2_000))).astype(np.float16), labels, "synthetic"


def main() -> None:
    """Reads the command line and runs one section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["parity", "protocol", "grid", "curve"])
    parser.add_argument("--features", type=Path, help="features .npy, rows x dimensions")
    parser.add_argument("--labels", type=Path, help="labels .npy")
    parser.add_argument("--rows", type=int, default=1000, help="training rows")
    parser.add_argument("--test-rows", type=int, default=10_000, help="rows scored, the last of the file")
    parser.add_argument("--selection", type=int, default=10, help="draws that select C in the protocol section")
    parser.add_argument("--repeats", type=int, default=100, help="draws tested in the protocol section")
    parser.add_argument("--memory", help="budget of the grid section, such as 4GB")
    parser.add_argument("--polish", action="store_true", help="grid section: drive the rigorous gap to 1e-4, too")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/svm-speed.csv"))
    arguments = parser.parse_args()
    features, labels, name = load(arguments)
    test = np.arange(len(labels) - arguments.test_rows, len(labels))
    results = Results(arguments.out, arguments.section, name, features.shape[1])
    if arguments.section == "grid":
        grid(results, features, labels, arguments.rows, test, memory=arguments.memory, polish=arguments.polish)
    elif arguments.section == "protocol":
        draws = {"selection": arguments.selection, "repeats": arguments.repeats}
        protocol(results, features, labels, arguments.rows, test, **draws)
    else:
        {"parity": parity, "curve": curve}[arguments.section](results, features, labels, arguments.rows, test)


if __name__ == "__main__":
    main()
