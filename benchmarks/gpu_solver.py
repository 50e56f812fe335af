"""The L2-SVM on a GPU, for gpu.py: agreement with the CPU on a small problem, then the times of the full problem.

Features come from a file (`--features features.npy`, with labels.npy next to it) or are synthetic: rectified sums of a
few factors, with the large mean and the decaying spectrum of a network's features.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from evalkit.probes.classifiers import RELEASE_C_GRID
from evalkit.solver import l2svm_path, l2svm_subsets
from evalkit.solver.fit import FEW_ROWS

C_VALUES = list(RELEASE_C_GRID)
WIDTH, FACTORS = 28_672, 300


def load_features(features: Path | None, rows: int, device: torch.device) -> tuple[torch.Tensor, np.ndarray]:
    """float16 features (rows, D) on the device, and their labels."""
    if features is not None:
        chosen = np.sort(np.random.default_rng(0).permutation(len(np.load(features, mmap_mode="r")))[:rows])
        read = torch.from_numpy(np.load(features, mmap_mode="r")[chosen])
        return read.to(device, torch.float16), np.load(features.with_name("labels.npy"))[chosen]
    generator = torch.Generator(device).manual_seed(0)
    labels = np.arange(rows) % 10
    factors = torch.randn(rows, FACTORS, generator=generator, device=device)
    factors += 0.5 * torch.randn(10, FACTORS, generator=generator, device=device)[torch.from_numpy(labels).to(device)]
    factors /= torch.arange(1, FACTORS + 1, device=device) ** 0.5
    loadings = torch.randn(FACTORS, WIDTH, generator=generator, device=device) / 2
    parts = []
    for part in factors.split(2048):
        noise = torch.randn(len(part), WIDTH, generator=generator, device=device)
        parts.append(torch.nn.functional.leaky_relu(part @ loadings + noise / 2 + 0.5, 0.2).half())
    return torch.cat(parts), labels


def checks(features: torch.Tensor, labels: np.ndarray, device: torch.device) -> Iterator[tuple[str, float, float]]:
    """(name, value, bound): differences between the device and the CPU, on at most 5,000 rows of 2,048 features."""
    features = features[:5000, :2048].float().cpu().numpy()
    for name, rows in (("dual solver", FEW_ROWS // 4), ("primal solver", 5000)):
        some = slice(0, rows)
        fits = [
            l2svm_path(features[some], labels[: len(features)][some], C_VALUES, tol=1e-7, device=d)
            for d in ("cpu", device)
        ]
        relative = [np.abs(a.objective / b.objective - 1).max() for a, b in zip(*fits, strict=True)]
        yield f"SVM objectives, {name}, largest relative difference", float(np.max(relative)), 2e-6
    subsets, test = [np.arange(0, 1000), np.arange(500, 1400)], np.arange(1400, len(features))
    fits = [
        l2svm_subsets(features, labels[: len(features)], subsets, C_VALUES, evaluate_rows=test, device=d)
        for d in ("cpu", device)
    ]
    yield (
        "SVM predictions of label subsets, fraction that differs",
        float((fits[0].predictions != fits[1].predictions).mean()),
        1e-3,
    )


def times(features: torch.Tensor, labels: np.ndarray, device: torch.device) -> Iterator[tuple[str, float, str]]:
    """(name, value, unit): the path of 7 C on five sixths of the rows, and the protocol on subsets of 1,000 rows."""
    training, rest = np.split(np.random.default_rng(0).permutation(len(labels)), [len(labels) * 5 // 6])
    validation, test = np.array_split(np.sort(rest), 2)
    l2svm_path(features[:1000], labels[:1000], C_VALUES[:1], device=device)  # loads libraries
    for polish in (False, True):
        seconds, fits = _timed(
            lambda polish=polish: l2svm_path(features, labels, C_VALUES, rows=training, device=device, polish=polish)
        )
        what = f"SVM, 7 C on {len(training)} x {features.shape[1]}" + (", polished" if polish else "")
        yield what, seconds, f"s, {fits[0].n_passes} passes"
        yield f"{what}, worst error estimate, 1e-6", 1e6 * max(fit.error_estimate.max() for fit in fits), ""
        yield f"{what}, worst duality gap, 1e-6", 1e6 * max(fit.duality_gap.max() for fit in fits), ""
    random = np.random.default_rng(1)
    subsets = [random.choice(training, min(1000, len(training) // 2), replace=False) for _ in range(100)]
    chosen, fits = _timed(
        lambda: l2svm_subsets(features, labels, subsets[:10], C_VALUES, evaluate_rows=validation, device=device)
    )
    best = C_VALUES[int((fits.predictions == labels[validation]).mean((0, 2)).argmax())]
    tested, _ = _timed(lambda: l2svm_subsets(features, labels, subsets, [best], evaluate_rows=test, device=device))
    yield f"SVM protocol, 7 C x 10 subsets of {len(subsets[0])}", chosen, "s"
    yield f"SVM protocol, with 100 subsets at C = {best:g}", chosen + tested, "s"
    yield from _rates(features, device)


def _rates(features: torch.Tensor, device: torch.device) -> Iterator[tuple[str, float, str]]:
    """Rates of the device in the same run, to put the times in context."""
    some = features[:8192].float()
    for name, columns in (("70 columns", 70), ("square", len(some))):
        other = some[:columns].clone()
        seconds = min(_timed(lambda other=other: some @ other.T)[0] for _ in range(5))
        yield f"float32 products, {name}", 2e-12 * some.numel() * columns / seconds, "TFLOP/s"
    yield "memory read", 4e-9 * some.numel() / min(_timed(some.sum)[0] for _ in range(5)), "GB/s"
    matrix = torch.eye(1000, device=device)
    yield (
        "Cholesky factor of 1,000 rows",
        1e3 * min(_timed(lambda: torch.linalg.cholesky(matrix))[0] for _ in range(5)),
        "ms",
    )


def _timed(action: Callable) -> tuple[float, object]:
    """Wall seconds until the device has finished, and the result."""
    started = time.perf_counter()
    result = action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result
