"""Where the descent of every column is: weights, scores, gradient and objective. Used by descent and primal."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from evalkit.probes.l2svm.passes import Passes
from evalkit.probes.l2svm.problem import Columns, dual_variables, losses


@dataclass
class State:
    columns: Columns
    number: Tensor  # of each column in the solution
    weights: Tensor
    scores: Tensor
    gradient: Tensor
    objective: Tensor
    wanted: Tensor  # error estimate at which to look at a column's gap
    entered: Tensor  # iteration
    trend: list[Tensor] = field(default_factory=list)  # objectives of all steps so far, NaN before a column entered

    def keep(self, columns: Tensor) -> "State":
        return State(
            self.columns.take(columns),
            self.number[columns],
            self.weights[columns],
            self.scores[:, columns],
            self.gradient[columns],
            self.objective[columns],
            self.wanted[columns],
            self.entered[columns],
            [objective[columns] for objective in self.trend],
        )

    def join(self, other: "State") -> "State":
        return State(
            Columns(
                *(torch.cat(pair, 1) for pair in zip(self.columns.tensors(), other.columns.tensors(), strict=True))
            ),
            torch.cat([self.number, other.number]),
            torch.cat([self.weights, other.weights]),
            torch.cat([self.scores, other.scores], 1),
            torch.cat([self.gradient, other.gradient]),
            torch.cat([self.objective, other.objective]),
            torch.cat([self.wanted, other.wanted]),
            torch.cat([self.entered, other.entered]),
            [torch.cat([objective, torch.full_like(other.objective, torch.nan)]) for objective in self.trend],
        )


def evaluate(passes: Passes, columns: Columns, weights: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (columns, width) and objective (columns,) at these weights and scores."""
    gradient = weights - passes.weighted_rows(columns.signs * dual_variables(columns, scores))
    return gradient, 0.5 * dot(weights, weights) + passes.ranks.sum(losses(columns, scores))


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Scalar product of each row with its like, summed in float64, (columns,)."""
    return (left * right).sum(1, dtype=torch.float64)
