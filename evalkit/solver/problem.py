"""The L2-SVM as a block of one-vs-rest binary problems: labels and costs, their loss, and the exact line search.

A binary problem is one class at one C: minimize over w  0.5 ||w||^2 + sum_i cost_i max(0, 1 - sign_i w.x_i)^2, where
cost_i = C x sample weight x class weight, and x_i ends with the constant `intercept_scaling` when an intercept is
fitted, so that the intercept is penalized like any other weight (as in liblinear).

Shape letters of this package: N rows, D features, K classes, P binary problems. The solvers in `dual` and `primal`
build on this module and treat all P problems at once, each with its own step.
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
    """Invalid features, labels or settings. Also a ValueError, because scikit-learn users expect one."""


@dataclass(frozen=True)
class EncodedLabels:
    """Labels as indices into the sorted classes.

    Attributes:
        classes: the K distinct labels, sorted.
        class_index: int64 (N,), index of each row's label in `classes`.
    """

    classes: np.ndarray
    class_index: np.ndarray

    @property
    def num_problems(self) -> int:
        """Number of binary problems per C: K, or 1 for two classes (the second class is the positive one)."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def positive_classes(self) -> np.ndarray:
        """Index of the positive class of each binary problem."""
        return np.array([1]) if self.num_problems == 1 else np.arange(len(self.classes))


@dataclass(frozen=True)
class Solution:
    """Solutions of P binary problems.

    Attributes:
        weights: (P, D) or (P, D + 1) with the weight of the constant feature last.
        objective: float64 (P,).
        duality_gap: rigorous bound on (objective - optimum) / objective, (P,).
        error_estimate: estimate of the same quantity, usually close, but not a bound, (P,).
        iterations: iterations of the solver, (P,).
    """

    weights: Tensor
    objective: Tensor
    duality_gap: Tensor
    error_estimate: Tensor
    iterations: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """The attributes in the order of their definition."""
        return self.weights, self.objective, self.duality_gap, self.error_estimate, self.iterations


def encode_labels(labels: Any, rows: int, ranks: Ranks | None = None) -> EncodedLabels:
    """Encodes the labels of this rank's `rows` rows; raises if the length differs or all ranks share a single class."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) != rows:
        raise InputError(f"labels have shape {labels.shape}, the features have {rows} rows; give one label per row")
    classes = np.unique(np.concatenate((ranks or Ranks()).objects(np.unique(labels))))
    if len(classes) < 2:
        raise InputError(f"every label is {classes[:1].tolist()}, only one class; a classifier needs at least two")
    return EncodedLabels(classes, np.searchsorted(classes, labels).astype(np.int64))


def check_C_values(Cs: Sequence[float]) -> list[float]:
    """C values as floats; raises for an empty list and for values that are not positive and finite."""
    values = [float(C) for C in Cs]
    for C in values:
        if not (np.isfinite(C) and C > 0):
            raise InputError(f"C = {C:g}: C weighs the losses and must be positive and finite, e.g. 1e-3")
    if not values:
        raise InputError("no C value given; give at least one, e.g. Cs=[1e-3]")
    return values


def compute_class_weights(
    labels: EncodedLabels, class_weight: Mapping | str | None, sample_weight: Any, ranks: Ranks | None = None
) -> np.ndarray:
    """Weight of each class, float64 (K,): ones, "balanced" (by weighted counts), or from a mapping label -> weight."""
    if class_weight is None:
        return np.ones(len(labels.classes))
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise InputError(
                f"class_weight is {class_weight!r}; give None, 'balanced' or a mapping from label to weight"
            )
        counts = np.bincount(labels.class_index, weights=sample_weight, minlength=len(labels.classes))
        counts = np.sum((ranks or Ranks()).objects(counts), axis=0)
        return counts.sum() / (len(labels.classes) * counts)
    known = labels.classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        raise InputError(f"class_weight names {unknown[0]!r}, which is not a label; the labels are {known}")
    return np.array([float(class_weight.get(label, 1.0)) for label in known])


@dataclass(frozen=True)
class BinaryProblems:
    """P binary problems side by side; both tensors are (N, P).

    Attributes:
        signs: +1 where the row belongs to the positive class, else -1.
        costs: C x sample weight x class weight, 0 where a row is ignored.
    """

    signs: Tensor
    costs: Tensor

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The attributes in the order of their definition."""
        return self.signs, self.costs

    def select(self, index: Tensor) -> "BinaryProblems":
        """The problems with these indices."""
        return BinaryProblems(self.signs[:, index], self.costs[:, index])


def make_binary_problems(
    labels: EncodedLabels,
    Cs: Sequence[float],
    *,
    weights: np.ndarray,
    sample_weight: Any,
    device: torch.device,
    dtype: torch.dtype,
) -> BinaryProblems:
    """The one-vs-rest problems of every C, ordered by C first and by class within each C.

    As in liblinear, a class weight multiplies the costs of the positive rows of that class's own problem; the other
    rows have weight 1. With two classes, each class's rows have that class's weight.
    """
    class_index = torch.as_tensor(labels.class_index, device=device)
    positives = torch.as_tensor(labels.positive_classes(), device=device)
    signs = (class_index[:, None] == positives[None]).to(dtype) * 2 - 1
    weight = torch.as_tensor(weights, device=device, dtype=dtype)
    negative = weight[0] if labels.num_problems == 1 else torch.ones((), device=device, dtype=dtype)
    costs = torch.where(signs > 0, weight[positives][None], negative)
    if sample_weight is not None:
        costs = costs * torch.as_tensor(sample_weight, device=device, dtype=dtype)[:, None]
    scale = torch.as_tensor(Cs, device=device, dtype=dtype)
    return BinaryProblems(signs.repeat(1, len(Cs)), (costs[:, None, :] * scale[None, :, None]).flatten(1))


def squared_hinge_loss(problems: BinaryProblems, scores: Tensor) -> Tensor:
    """Sum over rows of cost x max(0, 1 - sign x score)^2 for scores (N, P), float64 (P,)."""
    margin = (1 - problems.signs * scores).clamp_(min=0)
    return (problems.costs * margin * margin).sum(0, dtype=torch.float64)


def dual_variables(problems: BinaryProblems, scores: Tensor) -> Tensor:
    """The dual variables that correspond to the scores: 2 x cost x max(0, 1 - sign x score), (N, P)."""
    return 2 * problems.costs * (1 - problems.signs * scores).clamp_(min=0)


_MAX_ROUNDS = 30  # Newton on a piecewise linear increasing function; 3 to 6 rounds are typical


def exact_line_search(
    problems: BinaryProblems,
    scores: Tensor,
    direction_scores: Tensor,
    *,
    slope: Tensor,
    curvature: Tensor,
    ranks: Ranks | None = None,
) -> Tensor:
    """The step t >= 0 of each problem that minimizes its objective at w + t p, (P,).

    Along any direction the objective is a convex, piecewise quadratic function, which is minimized to the last bit.

    Args:
        problems: the binary problems.
        scores: X w, (N, P).
        direction_scores: X p, (N, P).
        slope: w.p, the slope of 0.5 ||w + t p||^2 at t = 0, (P,).
        curvature: ||p||^2, (P,).
        ranks: the processes that share the rows.

    The derivative in t, slope + t curvature - 2 sum cost (1 - sign(f + t q))_+ sign q with f = X w and q = X p, is
    increasing and linear between kinks, so Newton's method ends at its zero from either side; a bracket prevents
    cycles.
    """
    ranks = ranks or Ranks()
    signed_direction = problems.signs * direction_scores
    margin = 1 - problems.signs * scores
    weighted = problems.costs * signed_direction
    steps = torch.ones_like(slope)
    low, high = torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    for _ in range(_MAX_ROUNDS):
        slack = torch.addcmul(margin, signed_direction, steps.to(margin.dtype), value=-1)
        active = weighted * (slack > 0)
        sums = torch.stack([(active * each).sum(0, dtype=slope.dtype) for each in (slack, signed_direction)])
        loss_slope, loss_curvature = 2 * ranks.sum(sums)
        first, second = slope + steps * curvature - loss_slope, curvature + loss_curvature
        low, high = torch.where(first < 0, steps, low), torch.where(first >= 0, steps, high)
        newton = steps - first / second.clamp(min=torch.finfo(second.dtype).tiny)
        bisection = torch.where(high.isinf(), 2 * steps, (low + high) / 2)
        updated = torch.where((newton >= low) & (newton <= high) & newton.isfinite(), newton, bisection)
        converged = (updated - steps).abs() <= 1e-6 * steps + 1e-12
        steps = updated
        if bool(converged.all()):
            break
    return steps
