"""k nearest neighbours by Euclidean distance, with k chosen on validation; bounded memory whatever the features."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evalkit.probes.classifier import Classifier, FitOptions, Predictions

NEIGHBOURS = (1, 2, 5, 10, 20, 50)
_BLOCK = 2048  # rows of either side at a time


def predict_knn(
    features: np.ndarray,
    labels: np.ndarray,
    draws: Sequence[np.ndarray],
    values: Sequence[float],
    evaluate_rows: np.ndarray,
    options: FitOptions,
) -> Predictions:
    """The most frequent label of the k nearest, the smallest label of equals, for every draw and k.

    A k beyond the size of a draw takes all its rows.
    """
    found = np.empty((len(draws), len(values), len(evaluate_rows)), np.int64)
    classes = int(labels.max()) + 1
    for number, rows in enumerate(draws):
        for first in range(0, len(evaluate_rows), _BLOCK):
            part = slice(first, first + _BLOCK)
            near = nearest(features, evaluate_rows[part], rows, count=int(max(values)), device=options.device)
            votes = np.eye(classes, dtype=np.int32)[labels[near]]
            for index, k in enumerate(values):
                found[number, index, part] = votes[:, : int(k)].sum(1).argmax(1)
        if options.progress:
            options.progress(f"draw {number + 1} of {len(draws)}")
    return Predictions(found)


def nearest(features: np.ndarray, of: np.ndarray, among: np.ndarray, *, count: int, device: str = "cpu") -> np.ndarray:
    """Row numbers of the `count` rows `among` that are nearest to each row `of`, int64 (of, count), nearest first."""
    queries = _read(features, of, device)
    best = torch.full((len(of), 0), 0.0, device=device)
    index = torch.full((len(of), 0), 0, dtype=torch.int64, device=device)
    for first in range(0, len(among), _BLOCK):
        rows = among[first : first + _BLOCK]
        block = _read(features, rows, device)
        distances = torch.addmm(block.square().sum(1), queries, block.T, alpha=-2)  # without |query|^2, equal for all
        numbers = torch.as_tensor(rows, device=device).expand(len(of), -1)
        best, index = torch.cat([best, distances], 1), torch.cat([index, numbers], 1)
        order = torch.sort(best, dim=1, stable=True).indices[:, :count]
        best, index = best.gather(1, order), index.gather(1, order)
    return index.cpu().numpy()


def _read(features: np.ndarray, rows: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(np.asarray(features[rows], np.float32)).to(device)


KNN = Classifier("kNN", "k", NEIGHBOURS, predict_knn, extends=False)
