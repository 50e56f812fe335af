"""The exact minimum of every column over a span of few directions, after a pass has given their scores. Used by primal.

The columns of one class differ in C only, so their solutions and descent directions are alike, and a pass gives the
scores of all of them. Each column is therefore minimised over the span of all of its class's directions and weights,
which costs little beside the pass: small C lead large C, and directions that one column lacks come from its neighbours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.runtime import Ranks
from evalkit.solver.problem import BinaryProblems, exact_steps

_MOST_MEMBERS = 8  # columns that share a span: its Hessians cost as the cube of their number
_ROUNDS = 3  # Newton steps; 2 are usual, and the next pass brings new directions anyway
_RIDGE = 1e-5  # of the scaled Hessian: spans of nearly parallel vectors would magnify float32's rounding
_ENOUGH = 1e-1  # of the first predicted decrease: less is not worth a round


@dataclass
class _Span:
    members: Tensor  # numbers of the columns
    vectors: Tensor  # (directions, width)
    scores: Tensor  # (directions, N)
    inner: Tensor  # (directions, directions), their scalar products
    place: Tensor  # (members, directions), the weights as combinations of the vectors

    def newton(self, columns: BinaryProblems, scores: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Newton's step of each member, its slope and curvature in 0.5 ||w||^2, and the decrease it promises."""
        signs, costs = columns.signs[:, self.members], columns.costs[:, self.members]
        margin = (1 - signs * scores[:, self.members]).clamp_(min=0)
        pull = (costs * signs * margin).T @ self.scores.T
        weighted = self.scores[None] * (costs * (margin > 0)).T[:, None]
        sums = torch.cat([pull[:, None], weighted @ self.scores.T], 1).to(self.inner.dtype)
        sums = 2 * ranks.sum(sums)
        level = self.place @ self.inner
        gradient, hessian = level - sums[:, 0], self.inner + sums[:, 1:]
        scale = hessian.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(hessian.dtype).tiny).rsqrt()
        scaled = hessian * scale[:, :, None] * scale[:, None]
        scaled.diagonal(dim1=1, dim2=2).add_(_RIDGE)
        step = -scale * torch.linalg.solve(scaled, scale * gradient)
        least = _RIDGE * (step * step * self.inner.diagonal()).sum(1)  # where nearly parallel vectors cancel
        curvature = torch.maximum(((step @ self.inner) * step).sum(1), least)
        return step, (level * step).sum(1), curvature, -(gradient * step).sum(1)


def _spans(classes: Tensor, vectors: tuple[Tensor, Tensor], scores: tuple[Tensor, Tensor]) -> list[_Span]:
    spans = []
    for number in classes.unique():
        for members in (classes == number).nonzero()[:, 0].split(_MOST_MEMBERS):
            chosen = torch.cat([each[members] for each in vectors])
            seen = torch.cat([each[:, members].T for each in scores])
            inner = (chosen @ chosen.T).double()
            place = torch.eye(len(chosen), dtype=inner.dtype, device=inner.device)[len(members) :]
            spans.append(_Span(members, chosen, seen, inner, place))
    return spans


def minimise_in_spans(
    columns: BinaryProblems,
    classes: Tensor,
    *,
    weights: Tensor,
    scores: Tensor,
    directions: Tensor,
    changes: Tensor,
    ranks: Ranks,
) -> tuple[Tensor, Tensor]:
    """New weights (columns, width) and scores (N, columns), of the least value in each column's span.

    Args:
        columns: the problems.
        classes: the class of each column; columns of one class share their span.
        weights, scores: where the columns are, (columns, width) and (N, columns).
        directions, changes: a descent direction of each column and its scores, shaped likewise.
        ranks: the processes among which the rows are divided.
    """
    spans = _spans(classes, (directions, weights), (changes, scores))
    first = None
    for _ in range(_ROUNDS):
        slope, curvature, promised = torch.zeros(3, len(classes), dtype=torch.float64, device=weights.device)
        change, steps = torch.empty_like(scores), []
        for span in spans:
            where = span.members
            step, slope[where], curvature[where], promised[where] = span.newton(columns, scores, ranks)
            change[:, span.members] = span.scores.T @ step.to(scores.dtype).T
            steps.append(step)
        first = promised if first is None else first
        if bool((promised <= _ENOUGH * first).all()):
            break
        size = exact_steps(columns, scores, change, slope=slope, curvature=curvature, ranks=ranks)
        size = torch.where(promised > 0, size, 0)
        scores = torch.addcmul(scores, change, size.to(scores.dtype))
        for span, step in zip(spans, steps, strict=True):
            span.place = span.place + size[span.members, None] * step
    weights = torch.empty_like(weights)
    for span in spans:
        weights[span.members] = span.place.to(weights.dtype) @ span.vectors
    return weights, scores
