"""Inputs of the solver benchmarks: features and labels from files, or Gaussian ones; and their common options."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalkit.probes.classifiers import RELEASE_C_GRID

C_VALUES = list(RELEASE_C_GRID)
_GAUSSIAN_SHAPE = (20_000, 2_000)  # rows and dimensions of Gaussian features


@dataclass(frozen=True)
class Inputs:
    """Features (N, D), labels (N,), their name in the results, and the indices of training and test rows."""

    features: np.ndarray
    labels: np.ndarray
    name: str
    pool: np.ndarray
    test: np.ndarray


def argument_parser(about: str | None, section: str, *, rows: int) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--features", type=Path, help="features.npy file with labels.npy next to it [default: Gaussian features]"
    )
    made.add_argument("--rows", type=int, default=rows, help="training rows")
    made.add_argument(
        "--test-rows", type=int, default=10_000, help="number of test rows, from the last 10,000 of the file"
    )
    made.add_argument("--out", type=Path, default=Path(f"benchmarks/results/svm-{section}.csv"))
    return made


def load_inputs(arguments: argparse.Namespace) -> Inputs:
    """The features named on the command line, or Gaussian ones, marked `synthetic`."""
    if arguments.features is None:
        features, labels = gaussian_features(*_GAUSSIAN_SHAPE)
        name = "synthetic"
    else:
        features = np.load(arguments.features, mmap_mode="r")
        labels = np.load(arguments.features.with_name("labels.npy"))
        name = arguments.features.resolve().parent.name.rpartition("--")[2]
    first = len(labels) - min(10_000, len(labels) // 2)
    test = sample_rows(np.arange(first, len(labels)), arguments.test_rows)
    return Inputs(features, labels, name, np.arange(first), test)


def gaussian_features(rows: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten overlapping classes, float16 (rows, dimensions)."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, rows)
    centres = 0.1 * generator.normal(size=(10, dimensions))
    return (centres[labels] + generator.normal(size=(rows, dimensions))).astype(np.float16), labels


def sample_rows(pool: np.ndarray, count: int) -> np.ndarray:
    """A sorted random sample of rows, the same in each run: a file may be sorted by class."""
    return np.sort(np.random.default_rng(0).permutation(pool)[:count])
