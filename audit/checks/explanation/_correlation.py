"""How alike two maps of the same input are: rank correlation, and the overlap of their most important features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Over = Literal["nonzero", "all"]
"""Features that two maps are correlated over: those that are not 0 in both, or all. What has 0 in both shares a rank, and makes
any two maps alike that leave the same features out."""


def compared(a: Tensor, b: Tensor, known: Tensor, over: Over) -> Tensor:
    """``(N, F)`` bool: the features that two maps are correlated over."""
    return known & ((a != 0) | (b != 0)) if over == "nonzero" else known


def constant(values: Tensor, known: Tensor) -> Tensor:
    """``(N,)`` bool: maps ``(N, F)`` with one value for all known features."""
    import torch

    low, high = (values.masked_fill(~known, end) for end in (torch.inf, -torch.inf))
    return low.amin(dim=1) == high.amax(dim=1)


def average_ranks(values: Tensor, known: Tensor) -> Tensor:
    """Rank of each value in its row in ascending order, 0 for the smallest; equal values share the mean of their ranks.

    Args:
        values: ``(N, F)``.
        known: ``(N, F)`` bool: the places that are ranked; the others get ranks that mean nothing.

    Returns:
        ``(N, F)`` float64.
    """
    import torch

    ordered, order = values.double().masked_fill(~known, torch.inf).sort(dim=1)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    tie = fresh.cumsum(dim=1) - 1
    place = torch.arange(values.shape[1], dtype=torch.float64, device=values.device).expand_as(ordered)
    nothing = torch.zeros_like(ordered)
    shared = nothing.scatter_add(1, tie, place) / nothing.scatter_add(1, tie, torch.ones_like(place)).clamp_min(1)
    return nothing.scatter(1, order, shared.gather(1, tie))


def rank_correlation(a: Tensor, b: Tensor, known: Tensor) -> Tensor:
    """Spearman's correlation of each pair of maps, ``(N,)`` float64, −1 to 1.

    Maps with the same ranks have 1, constant ones too, for nothing has changed; a constant map and one that is not have 0.

    Args:
        a, b: ``(N, F)``.
        known: ``(N, F)`` bool: the features that are compared.
    """
    import torch

    count = known.sum(dim=1, keepdim=True)
    centred = [torch.where(known, average_ranks(part, known) - (count - 1) / 2, 0.0) for part in (a, b)]
    spread = torch.stack([part.square().sum(dim=1) for part in centred])
    found = (centred[0] * centred[1]).sum(dim=1) / spread.prod(dim=0).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where((centred[0] == centred[1]).all(dim=1), 1.0, found.clamp(-1, 1))


def in_top(values: Tensor, known: Tensor, k: Tensor) -> Tensor:
    """Share of each feature that is among the `k` largest of its row, ``(N, F)`` float64: 1 or 0, and for features that tie at the
    edge the chance that a random order of them would put it there.

    Args:
        values: ``(N, F)``.
        known: ``(N, F)`` bool.
        k: ``(N,)`` int64, at most the number of known features.
    """
    import torch

    held = values.double().masked_fill(~known, -torch.inf)
    edge = held.sort(dim=1, descending=True).values.gather(1, (k[:, None] - 1).clamp_min(0))
    above, tied = held > edge, (held == edge) & known
    left = (k - above.sum(dim=1)).double() / tied.sum(dim=1).clamp_min(1)
    return torch.where(above, 1.0, torch.where(tied, left[:, None], 0.0)) * (k > 0)[:, None]


def top_overlap(a: Tensor, b: Tensor, known: Tensor, k: Tensor) -> Tensor:
    """Share of the `k` largest features of one map that are among the `k` largest of the other, ``(N,)`` float64.

    Features that tie at the edge count as the share of them that fits, the same in both maps as far as it goes: equal maps have 1,
    and a random one k / F with any other.
    """
    import torch

    return torch.minimum(in_top(a, known, k), in_top(b, known, k)).sum(dim=1) / k
