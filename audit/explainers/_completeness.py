"""Completeness: attributions add up to the score minus the score at the baseline; and how far off counts as complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 0.01
"""Largest relative gap of a complete attribution (policy)."""
FLOOR = 0.01
"""Share of max(1, abs score) below which a difference of scores no longer makes the gap look large (policy)."""


def completeness_gap(values: Tensor, score: Tensor, base_value: Tensor) -> Tensor:
    """``abs(sum(values) − (score − base_value))`` of each row, ``(N,)`` float64."""
    return (values.double().flatten(1).sum(dim=1) - (score.double() - base_value.double())).abs()


def relative_gap(gap: Tensor, score: Tensor, base_value: Tensor) -> Tensor:
    """The gap as a share of the difference of scores, ``(N,)``.

    It is at most `TOLERANCE` exactly where gap ≤ max(1e-4 · max(1, abs score), 1 % of abs(score − base value)).
    """
    difference = (score.double() - base_value.double()).abs()
    return gap / difference.maximum(FLOOR * score.double().abs().clamp_min(1.0))
