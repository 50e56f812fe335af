"""The exact minimum of every problem over a subspace spanned by a few directions, once their scores are known.

The problems of one class differ in C only, so their solutions and descent directions are alike, and one pass gives the
scores of all of them. `primal` therefore minimizes each problem over the span of all directions and weights of its
class, which costs little compared with the pass: small C guide large C, and a problem profits from its neighbors'
directions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.runtime import Ranks
from evalkit.solver.problem import BinaryProblems, exact_line_search

_MAX_MEMBERS = 8  # problems that share a subspace: its Hessians cost as the cube of their number
_MAX_NEWTON_STEPS = 3  # 2 are usual, and the next pass brings new directions anyway
_RIDGE = 1e-5  # of the scaled Hessian: subspaces of nearly parallel vectors would magnify float32's rounding
_MIN_DECREASE_RATIO = 1e-1  # of the first predicted decrease: less is not worth a step


def minimize_in_subspaces(
    problems: BinaryProblems,
    classes: Tensor,
    *,
    weights: Tensor,
    scores: Tensor,
    directions: Tensor,
    direction_scores: Tensor,
    ranks: Ranks,
) -> tuple[Tensor, Tensor]:
    """The weights (P, D or D + 1) and scores (N, P) that minimize each problem in its subspace.

    Args:
        problems: the binary problems.
        classes: the class of each problem, (P,); problems of one class share their subspace.
        weights, scores: the current iterates, (P, D or D + 1) and (N, P).
        directions, direction_scores: a descent direction of each problem and its scores, with the same shapes.
        ranks: the processes that share the rows.
    """
    subspaces = _make_subspaces(classes, (directions, weights), (direction_scores, scores))
    first_predicted = None
    for _ in range(_MAX_NEWTON_STEPS):
        slope, curvature, predicted = torch.zeros(3, len(classes), dtype=torch.float64, device=weights.device)
        change, newton_steps = torch.empty_like(scores), []
        for subspace in subspaces:
            members = subspace.members
            step, slope[members], curvature[members], predicted[members] = subspace.newton_step(problems, scores, ranks)
            change[:, members] = subspace.scores.T @ step.to(scores.dtype).T
            newton_steps.append(step)
        first_predicted = predicted if first_predicted is None else first_predicted
        if bool((predicted <= _MIN_DECREASE_RATIO * first_predicted).all()):
            break
        size = exact_line_search(problems, scores, change, slope=slope, curvature=curvature, ranks=ranks)
        size = torch.where(predicted > 0, size, 0)
        scores = torch.addcmul(scores, change, size.to(scores.dtype))
        for subspace, step in zip(subspaces, newton_steps, strict=True):
            subspace.coefficients = subspace.coefficients + size[subspace.members, None] * step
    weights = torch.empty_like(weights)
    for subspace in subspaces:
        weights[subspace.members] = subspace.coefficients.to(weights.dtype) @ subspace.vectors
    return weights, scores


@dataclass
class _Subspace:
    """The span of M vectors: the descent directions and the weights of its member problems.

    Attributes:
        members: indices of the problems, (M / 2,).
        vectors: (M, D or D + 1).
        scores: (M, N).
        gram: scalar products of the vectors, float64 (M, M).
        coefficients: the members' weights as combinations of the vectors, float64 (M / 2, M).
    """

    members: Tensor
    vectors: Tensor
    scores: Tensor
    gram: Tensor
    coefficients: Tensor

    def newton_step(
        self, problems: BinaryProblems, weight_scores: Tensor, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Newton's step of each member, its slope and curvature in 0.5 ||w||^2, and the predicted decrease."""
        signs, costs = problems.signs[:, self.members], problems.costs[:, self.members]
        margin = (1 - signs * weight_scores[:, self.members]).clamp_(min=0)
        loss_gradient = (costs * signs * margin).T @ self.scores.T
        weighted = self.scores[None] * (costs * (margin > 0)).T[:, None]
        sums = torch.cat([loss_gradient[:, None], weighted @ self.scores.T], 1).to(self.gram.dtype)
        sums = 2 * ranks.sum(sums)
        norm_gradient = self.coefficients @ self.gram
        gradient, hessian = norm_gradient - sums[:, 0], self.gram + sums[:, 1:]
        scale = hessian.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(hessian.dtype).tiny).rsqrt()
        scaled = hessian * scale[:, :, None] * scale[:, None]
        scaled.diagonal(dim1=1, dim2=2).add_(_RIDGE)
        step = -scale * torch.linalg.solve(scaled, scale * gradient)
        least = _RIDGE * (step * step * self.gram.diagonal()).sum(1)  # where nearly parallel vectors cancel
        curvature = torch.maximum(((step @ self.gram) * step).sum(1), least)
        return step, (norm_gradient * step).sum(1), curvature, -(gradient * step).sum(1)


def _make_subspaces(classes: Tensor, vectors: tuple[Tensor, Tensor], scores: tuple[Tensor, Tensor]) -> list[_Subspace]:
    """One subspace for each class, or several for classes with many problems."""
    subspaces = []
    for number in classes.unique():
        for members in (classes == number).nonzero()[:, 0].split(_MAX_MEMBERS):
            spanning = torch.cat([each[members] for each in vectors])
            spanning_scores = torch.cat([each[:, members].T for each in scores])
            gram = (spanning @ spanning.T).double()
            coefficients = torch.eye(len(spanning), dtype=gram.dtype, device=gram.device)[len(members) :]
            subspaces.append(_Subspace(members, spanning, spanning_scores, gram, coefficients))
    return subspaces
