"""LinearSVC on one binary problem, timed, and the objective that both solvers minimise."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from joblib import Parallel, delayed
from sklearn.svm import LinearSVC
from table import timed

_PROCESS_BYTES = 7e8  # Python, torch and scikit-learn, as measured


@dataclass(frozen=True)
class PeerFit:
    """A fitted LinearSVC and the (wall, CPU) seconds of its fit."""

    coef: np.ndarray
    intercept: float
    wall: float
    cpu: float


def peer(
    features: np.ndarray,
    signs: np.ndarray,
    C: float,
    *,
    dual: bool = True,
    tol: float = 1e-4,
    weight: np.ndarray | None = None,
) -> PeerFit:
    """LinearSVC, at its defaults unless told, on float64 features and +-1 labels; that it missed tol is not shown."""
    iterations = 1000 if tol == 1e-4 else 100_000
    with timed() as spent, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LinearSVC(C=C, random_state=0, dual=dual, tol=tol, max_iter=iterations)
        model.fit(features, signs, sample_weight=weight)
    return PeerFit(model.coef_[0], float(np.ravel(model.intercept_)[0]), *spent())


def tight_peer(features: np.ndarray, signs: np.ndarray, C: float, *, weight: np.ndarray | None = None) -> PeerFit:
    """LinearSVC run until its own rule is far tighter than a comparison to 1e-6."""
    dual = features.shape[1] > features.shape[0]
    return peer(features, signs, C, dual=dual, tol=1e-6 if dual else 1e-9, weight=weight)


@contextmanager
def in_a_file(features: np.ndarray) -> Iterator[np.ndarray]:
    """The features as float64 in a temporary file, memory-mapped, so that processes share their pages."""
    with TemporaryDirectory() as folder:
        np.save(f"{folder}/features.npy", features.astype(np.float64))
        yield np.load(f"{folder}/features.npy", mmap_mode="r")


def two_peers(features: np.ndarray, signs: np.ndarray, Cs: Sequence[float]) -> float:
    """Wall seconds of LinearSVC at two C at a time, a process each, on features from `in_a_file`."""
    run = Parallel(n_jobs=2)
    run(delayed(peer)(features[:64], signs[:64], C) for C in Cs)  # starts the workers
    with timed() as spent:
        run(delayed(peer)(features, signs, C) for C in Cs)
    return spent()[0]


def check_room(rows: int, dimensions: int) -> None:
    """Ends the program unless two LinearSVC processes fit in memory: 8 bytes a shared value, 16 in each one's copy."""
    needed = 8 * rows * dimensions + 2 * (16 * rows * (dimensions + 2) + _PROCESS_BYTES)
    free = available_bytes()
    if needed > free:
        raise SystemExit(
            f"two LinearSVC processes on {rows:,} x {dimensions:,} need {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free; use fewer rows"
        )


def available_bytes() -> float:
    """Memory that the system can give without swapping; infinite where it does not say."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), float("inf"))


def objective(
    features: np.ndarray, signs: np.ndarray, coef: np.ndarray, intercept: float, costs: np.ndarray | float
) -> float:
    """0.5 (||w||^2 + b^2) + sum of costs x squared hinges, in float64."""
    losses = np.maximum(0, 1 - signs * (features @ coef.astype(np.float64) + intercept))
    return float(0.5 * (coef.astype(np.float64) @ coef.astype(np.float64) + intercept**2) + (costs * losses**2).sum())
