"""What the sections fit: features and labels from files, or Gaussian ones; and the command-line options they share."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalkit.probes.classifiers import RELEASE_C_GRID

GRID = list(RELEASE_C_GRID)
_MADE = (20_000, 2_000)  # rows and dimensions of Gaussian features


@dataclass(frozen=True)
class Given:
    """Features (N, D), labels (N,), the name they go by in results, rows to train on and rows to test on."""

    features: np.ndarray
    labels: np.ndarray
    name: str
    pool: np.ndarray
    test: np.ndarray


def parser(about: str | None, section: str, *, rows: int) -> argparse.ArgumentParser:
    """The options that every section has."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--features", type=Path, help="features .npy; labels.npy lies beside it")
    made.add_argument("--rows", type=int, default=rows, help="training rows")
    made.add_argument("--test-rows", type=int, default=10_000, help="rows scored, of the last 10,000 of the file")
    made.add_argument("--out", type=Path, default=Path(f"benchmarks/results/svm-{section}.csv"))
    return made


def given(arguments: argparse.Namespace) -> Given:
    """The features named on the command line; Gaussian ones, marked `synthetic`, without any."""
    if arguments.features is None:
        features, labels = gaussian(*_MADE)
        name = "synthetic"
    else:
        features = np.load(arguments.features, mmap_mode="r")
        labels = np.load(arguments.features.with_name("labels.npy"))
        name = arguments.features.resolve().parent.name.rpartition("--")[2]
    first = len(labels) - min(10_000, len(labels) // 2)
    test = chosen_rows(np.arange(first, len(labels)), arguments.test_rows)
    return Given(features, labels, name, np.arange(first), test)


def gaussian(rows: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten overlapping classes, float16 (rows, dimensions)."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, rows)
    centres = 0.1 * generator.normal(size=(10, dimensions))
    return (centres[labels] + generator.normal(size=(rows, dimensions))).astype(np.float16), labels


def chosen_rows(pool: np.ndarray, count: int) -> np.ndarray:
    """So many of the rows, the same ones each time, sorted: a file may be sorted by class."""
    return np.sort(np.random.default_rng(0).permutation(pool)[:count])
