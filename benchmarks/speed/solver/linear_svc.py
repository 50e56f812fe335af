"""LinearSVC on one binary problem, timed, and the objective that both solvers minimize. Imported by the benchmarks."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from joblib import Parallel, delayed
from results_table import timed
from sklearn.svm import LinearSVC

_PROCESS_BYTES = 7e8  # Python, torch and scikit-learn, as measured


@dataclass(frozen=True)
class LinearSVCFit:
    """A fitted LinearSVC and the (wall, CPU) seconds of its fit."""

    coef: np.ndarray
    intercept: float
    wall: float
    cpu: float


def fit_linear_svc(
    features: np.ndarray,
    signs: np.ndarray,
    C: float,
    *,
    dual: bool = True,
    tol: float = 1e-4,
    weight: np.ndarray | None = None,
) -> LinearSVCFit:
    """Fits LinearSVC (its defaults unless given) to float64 features and labels +1, -1; hides ConvergenceWarning."""
    iterations = 1000 if tol == 1e-4 else 100_000
    with timed() as spent, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LinearSVC(C=C, random_state=0, dual=dual, tol=tol, max_iter=iterations)
        model.fit(features, signs, sample_weight=weight)
    return LinearSVCFit(model.coef_[0], float(np.ravel(model.intercept_)[0]), *spent())


def fit_linear_svc_tightly(
    features: np.ndarray, signs: np.ndarray, C: float, *, weight: np.ndarray | None = None
) -> LinearSVCFit:
    """Fits LinearSVC with a stopping rule far tighter than a comparison to 1e-6 needs."""
    dual = features.shape[1] > features.shape[0]
    return fit_linear_svc(features, signs, C, dual=dual, tol=1e-6 if dual else 1e-9, weight=weight)


@contextmanager
def float64_file(features: np.ndarray) -> Iterator[np.ndarray]:
    """The features as float64 in a temporary file, memory-mapped, so that processes share their pages."""
    with TemporaryDirectory() as folder:
        np.save(f"{folder}/features.npy", features.astype(np.float64))
        yield np.load(f"{folder}/features.npy", mmap_mode="r")


def two_linear_svcs(features: np.ndarray, signs: np.ndarray, Cs: Sequence[float]) -> float:
    """Wall seconds of LinearSVC at two C in two processes at the same time, on features from `float64_file`."""
    run = Parallel(n_jobs=2)
    run(delayed(fit_linear_svc)(features[:64], signs[:64], C) for C in Cs)  # starts the workers
    with timed() as spent:
        run(delayed(fit_linear_svc)(features, signs, C) for C in Cs)
    return spent()[0]


def check_room(rows: int, dimensions: int) -> None:
    """Exits unless two LinearSVC processes fit in memory: 8 bytes per shared value, 16 per value of each copy."""
    needed = 8 * rows * dimensions + 2 * (16 * rows * (dimensions + 2) + _PROCESS_BYTES)
    free = available_bytes()
    if needed > free:
        raise SystemExit(
            f"two LinearSVC processes on {rows:,} x {dimensions:,} need {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free; use fewer rows"
        )


def available_bytes() -> float:
    """Memory available without swapping, in bytes; infinite if the system does not report it."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), float("inf"))


def objective(
    features: np.ndarray, signs: np.ndarray, coef: np.ndarray, intercept: float, costs: np.ndarray | float
) -> float:
    """0.5 (||w||^2 + b^2) + sum of costs x squared hinges, in float64."""
    losses = np.maximum(0, 1 - signs * (features @ coef.astype(np.float64) + intercept))
    return float(0.5 * (coef.astype(np.float64) @ coef.astype(np.float64) + intercept**2) + (costs * losses**2).sum())
