"""The L2-SVM as a block of binary problems: labels and weights in, one column a problem out. Solvers come after.

A column (one class at one C) is the problem: minimise over w  0.5 ||w||^2 + sum_i cost_i max(0, 1 - sign_i w.x_i)^2,
where cost_i = C x sample weight x class weight, and x_i ends with the constant `intercept_scaling` when an intercept
is fitted, so that the intercept is penalised like any other weight (as in liblinear).

Exact line search: along any direction the objective is a convex piecewise quadratic, minimised here to the last bit.

Used by every solver; all columns at once, each with its own step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.runtime import Ranks


class InputError(EvalkitError, ValueError):
    """Wrong features, labels or settings. A ValueError as well, because scikit-learn's users expect one."""


@dataclass(frozen=True)
class Labels:
    """Labels as class numbers.

    Attributes:
        classes: the K distinct labels, sorted.
        index: int64 (N,), the number of each row's class.
    """

    classes: np.ndarray
    index: np.ndarray

    @property
    def columns(self) -> int:
        """Binary problems: one a class, or a single one for two classes (positive is the second class)."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def positives(self) -> np.ndarray:
        """The class number that is positive in each column."""
        return np.array([1]) if self.columns == 1 else np.arange(len(self.classes))


@dataclass(frozen=True)
class Solution:
    """Solutions of some columns.

    Attributes:
        weights: (columns, width), the intercept's weight last.
        objective: float64 (columns,).
        duality_gap: rigorous bound on (objective - optimum) / objective, (columns,).
        error_estimate: estimate of the same, usually close, but no bound, (columns,).
        steps: of the solver, (columns,).
    """

    weights: Tensor
    objective: Tensor
    duality_gap: Tensor
    error_estimate: Tensor
    steps: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """The attributes in their order."""
        return self.weights, self.objective, self.duality_gap, self.error_estimate, self.steps


def encode_labels(labels: Any, rows: int, ranks: Ranks | None = None) -> Labels:
    """Labels of this rank's `rows` rows as class numbers; refuses another length and, over all ranks, one class."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) != rows:
        raise InputError(f"labels have shape {labels.shape}, the features have {rows} rows; give one label a row")
    classes = np.unique(np.concatenate((ranks or Ranks()).objects(np.unique(labels))))
    if len(classes) < 2:
        raise InputError(f"every label is {classes[:1].tolist()}: one class; a classifier needs two or more")
    return Labels(classes, np.searchsorted(classes, labels).astype(np.int64))


def check_costs(Cs: Sequence[float]) -> list[float]:
    """C values as floats; refuses an empty list and values that are not positive finite numbers."""
    values = [float(C) for C in Cs]
    for C in values:
        if not (np.isfinite(C) and C > 0):
            raise InputError(f"C = {C:g}: C weighs the losses and must be a positive finite number, say 1e-3")
    if not values:
        raise InputError("no C value given; give at least one, say Cs=[1e-3]")
    return values


def class_weights(
    labels: Labels, class_weight: Mapping | str | None, sample_weight: Any, ranks: Ranks | None = None
) -> np.ndarray:
    """Weight of each class (K,): ones, "balanced" (by weighted counts), or from a mapping of label to weight."""
    if class_weight is None:
        return np.ones(len(labels.classes))
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise InputError(f"class_weight is {class_weight!r}; give None, 'balanced' or a mapping label: weight")
        counts = np.bincount(labels.index, weights=sample_weight, minlength=len(labels.classes))
        counts = np.sum((ranks or Ranks()).objects(counts), axis=0)
        return counts.sum() / (len(labels.classes) * counts)
    known = labels.classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        raise InputError(f"class_weight names {unknown[0]!r}, which is no label; the labels are {known}")
    return np.array([float(class_weight.get(label, 1.0)) for label in known])


@dataclass(frozen=True)
class BinaryProblems:
    """Binary problems side by side; all tensors are (N, columns).

    Attributes:
        signs: +1 where the row is of the column's class, else -1.
        costs: C x sample weight x class weight, 0 where a row does not count.
    """

    signs: Tensor
    costs: Tensor

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The attributes in their order."""
        return self.signs, self.costs

    def select(self, columns: Tensor) -> "BinaryProblems":
        """The named columns only."""
        return BinaryProblems(self.signs[:, columns], self.costs[:, columns])


def make_binary_problems(
    labels: Labels,
    Cs: Sequence[float],
    *,
    weights: np.ndarray,
    sample_weight: Any,
    device: torch.device,
    dtype: torch.dtype,
) -> BinaryProblems:
    """The columns of every C, C by C, classes inside.

    As in liblinear a class's weight multiplies the costs of its own rows where it is the positive class; the rest of a
    one-vs-rest problem has weight 1. With two classes each has its own.
    """
    index = torch.as_tensor(labels.index, device=device)
    positives = torch.as_tensor(labels.positives(), device=device)
    signs = (index[:, None] == positives[None]).to(dtype) * 2 - 1
    weight = torch.as_tensor(weights, device=device, dtype=dtype)
    negative = weight[0] if labels.columns == 1 else torch.ones((), device=device, dtype=dtype)
    costs = torch.where(signs > 0, weight[positives][None], negative)
    if sample_weight is not None:
        costs = costs * torch.as_tensor(sample_weight, device=device, dtype=dtype)[:, None]
    scale = torch.as_tensor(Cs, device=device, dtype=dtype)
    return BinaryProblems(signs.repeat(1, len(Cs)), (costs[:, None, :] * scale[None, :, None]).flatten(1))


def losses(columns: BinaryProblems, scores: Tensor) -> Tensor:
    """Sum over rows of cost x max(0, 1 - sign x score)^2, float64 (columns,)."""
    margin = (1 - columns.signs * scores).clamp_(min=0)
    return (columns.costs * margin * margin).sum(0, dtype=torch.float64)


def dual_variables(columns: BinaryProblems, scores: Tensor) -> Tensor:
    """The dual point that belongs to the scores: 2 x cost x max(0, 1 - sign x score), (N, columns)."""
    return 2 * columns.costs * (1 - columns.signs * scores).clamp_(min=0)


_MAX_ROUNDS = 30  # Newton on a piecewise linear increasing function: 3 to 6 rounds as seen


def exact_steps(
    columns: BinaryProblems,
    scores: Tensor,
    change: Tensor,
    *,
    slope: Tensor,
    curvature: Tensor,
    ranks: Ranks | None = None,
) -> Tensor:
    """The step t >= 0 of each column that minimises its objective at w + t p, (columns,).

    Args:
        scores: X w, (N, columns).
        change: X p, (N, columns).
        slope: w.p, (columns,): the slope of 0.5 ||w + t p||^2 at 0.
        curvature: ||p||^2, (columns,).
        ranks: the processes among which the rows are divided.

    The slope in t, slope + t curvature - 2 sum cost (1 - sign(f + t q))_+ sign q, increases and is linear between
    kinks, so Newton's method from any side ends at its zero; a bracket keeps it from cycling.
    """
    ranks = ranks or Ranks()
    signed_change = columns.signs * change
    margin = 1 - columns.signs * scores
    weighted = columns.costs * signed_change
    steps = torch.ones_like(slope)
    low, high = torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    for _ in range(_MAX_ROUNDS):
        left = torch.addcmul(margin, signed_change, steps.to(margin.dtype), value=-1)
        active = weighted * (left > 0)
        sums = torch.stack([(active * each).sum(0, dtype=slope.dtype) for each in (left, signed_change)])
        loss_slope, loss_curvature = 2 * ranks.sum(sums)
        first, second = slope + steps * curvature - loss_slope, curvature + loss_curvature
        low, high = torch.where(first < 0, steps, low), torch.where(first >= 0, steps, high)
        moved = steps - first / second.clamp(min=torch.finfo(second.dtype).tiny)
        middle = torch.where(high.isinf(), 2 * steps, (low + high) / 2)
        moved = torch.where((moved >= low) & (moved <= high) & moved.isfinite(), moved, middle)
        settled = (moved - steps).abs() <= 1e-6 * steps + 1e-12
        steps = moved
        if bool(settled.all()):
            break
    return steps
