"""LinearSVC on one binary problem, timed, and the objective that both solvers minimise."""

import warnings
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed
from sklearn.svm import LinearSVC
from table import timed


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


def two_peers(features: np.ndarray, signs: np.ndarray, Cs: list[float]) -> float:
    """Wall seconds of LinearSVC at two C at a time, a process each (joblib's memory-mapped workers)."""
    run = Parallel(n_jobs=2, max_nbytes="1M")
    run(delayed(peer)(features[:64], signs[:64], C) for C in Cs)  # starts the workers
    with timed() as spent:
        run(delayed(peer)(features, signs, C) for C in Cs)
    return spent()[0]


def objective(
    features: np.ndarray, signs: np.ndarray, coef: np.ndarray, intercept: float, costs: np.ndarray | float
) -> float:
    """0.5 (||w||^2 + b^2) + sum of costs x squared hinges, in float64."""
    losses = np.maximum(0, 1 - signs * (features @ coef.astype(np.float64) + intercept))
    return float(0.5 * (coef.astype(np.float64) @ coef.astype(np.float64) + intercept**2) + (costs * losses**2).sum())
