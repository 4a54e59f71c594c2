"""How much of what columns do together is not the sum of what each does: Friedman's H².

For a pair, H² = Σ (PD_jk − PD_j − PD_k)² / Σ PD_jk²; for one column against all others, Σ (f − PD_j − PD_−j)² / Σ f²; every partial
dependence centred and taken at the rows themselves. 0: nothing but a sum, exactly, whatever the rows. 1: nothing without the other.

Source: Friedman & Popescu 2008, arXiv:0811.1679, equations 44 and 45.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from audit.global_explanations._scores import ELEMENTS

if TYPE_CHECKING:
    from torch import Tensor

    from audit.global_explanations._scores import Score


@dataclass(frozen=True)
class Interaction:
    """Of a pair, or of one column with all others.

    Args:
        h_squared: ``(1 + B,)``: of the rows as they are, then of B resamples of them.
        size: standard deviation, over the rows, of the joint effect that H² is a share of; in the score's units.
    """

    h_squared: Tensor
    size: float


def exchanged(score: Score, x: Tensor, columns: tuple[int, ...]) -> Tensor:
    """Score of every row with some columns of every other, ``(N, N)`` float64: ``[i, l]`` is row l with the columns of row i.

    The mean over l is the partial dependence on the columns at row i; the mean over i is that on all other columns at row l; the
    diagonal is the score of the rows.

    Args:
        x: ``(N, F)``.
    """
    at, parts = torch.tensor(columns, device=x.device), []
    for donors in x[:, at].split(max(1, ELEMENTS // max(1, x.numel()))):  # type: ignore[no-untyped-call]
        rows = x.repeat(len(donors), 1)
        rows[:, at] = donors.repeat_interleave(len(x), dim=0)
        parts.append(score(rows).reshape(len(donors), len(x)))
    return torch.cat(parts).cpu()


def pair_interaction(joint: Tensor, first: Tensor, second: Tensor, weights: Tensor) -> Interaction:
    """H² of two columns.

    Args:
        joint, first, second: ``(N, N)`` what `exchanged` gives for both columns and for each.
        weights: ``(1 + B, N)`` how often each row is drawn.
    """
    both, one, other = (_centred(weights @ matrix.T, weights) for matrix in (joint, first, second))
    return _share(both - one - other, both, weights, float(joint.abs().max()))


def total_interaction(matrix: Tensor, weights: Tensor) -> Interaction:
    """H² of one column with all others, from what `exchanged` gives for it."""
    own = _centred(weights @ matrix.T, weights)
    rest = _centred(weights @ matrix, weights)
    whole = matrix.diagonal().expand_as(own) * weights.sum(dim=1, keepdim=True)
    whole = _centred(whole, weights)
    return _share(whole - own - rest, whole, weights, float(matrix.abs().max()))


def _centred(sums: Tensor, weights: Tensor) -> Tensor:
    """Means ``(1 + B, N)`` from weighted sums, less their own mean over the resampled rows."""
    means = sums / weights.sum(dim=1, keepdim=True)
    return means - (weights * means).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)


def _share(left: Tensor, whole: Tensor, weights: Tensor, level: float) -> Interaction:
    """Share of the joint effect `whole` that is `left`; none where that effect is rounding of scores at this level."""
    unexplained, total = ((weights * part**2).sum(dim=1) for part in (left, whole))
    floor = (1e-6 * level) ** 2 * weights.sum(dim=1)
    h_squared = torch.where(total > floor, unexplained / total.clamp_min(1e-300), 0.0)
    return Interaction(h_squared, float((total[0] / weights[0].sum()).sqrt()))
