"""Exact line search: along any direction the objective is a convex piecewise quadratic, minimised here to the last bit.

Used by every solver; all columns at once, each with its own step.
"""

import torch
from torch import Tensor

from evalkit.distributed import Ranks
from evalkit.probes.l2svm.problem import Columns

_MAX_ROUNDS = 30  # Newton on a piecewise linear increasing function: 3 to 6 rounds as seen


def exact_steps(
    columns: Columns,
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
