"""What a model says on average, and for each row, as one column takes other values and the rest stays.

Source: partial dependence: Friedman 2001, doi 10.1214/aos/1013203451, section 8.2; individual conditional expectation: Goldstein et al.
2015, arXiv:1309.6392.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audit.global_explanations._scores import ELEMENTS

if TYPE_CHECKING:
    from torch import Tensor

    from audit.global_explanations._scores import Score


def quantile_grid(values: Tensor, most: int) -> Tensor:
    """At most `most` values that occur, ``(K,)`` float64 sorted: all of them, or evenly many rows between two neighbours.

    The least and the largest are among them; missing values are left out.
    """
    known = values[~values.isnan()].double().sort().values
    distinct = known.unique()  # type: ignore[no-untyped-call]
    if len(distinct) <= most:
        return distinct  # type: ignore[no-any-return]
    return known[torch.linspace(0, len(known) - 1, most).round().long()].unique()  # type: ignore[no-any-return, no-untyped-call]


def individual_curves(score: Score, x: Tensor, column: int, grid: Tensor) -> Tensor:
    """Each row's score as one column takes the values of a grid, ``(N, K)`` float64; their mean is the partial dependence.

    The score is asked about rows that may not exist: a column is moved whatever the others are.

    Args:
        x: ``(N, F)``.
        grid: ``(K,)``.
    """
    curves = []
    for part in grid.split(max(1, ELEMENTS // max(1, x.numel()))):  # type: ignore[no-untyped-call]
        rows = x.repeat(len(part), 1)
        rows[:, column] = part.to(x).repeat_interleave(len(x))
        curves.append(score(rows).reshape(len(part), len(x)))
    return torch.cat(curves).T


def keeps_direction(curves: Tensor, sign: int, tolerance: float = 1e-6) -> Tensor:
    """Which rows' curves ``(N, K)`` never go against a direction (+1 up, −1 down), ``(N,)`` bool.

    Args:
        tolerance: of a step the wrong way, relative to the spread of all curves: rounding is no violation.
    """
    slack = tolerance * float(curves.max() - curves.min()) if curves.numel() else 0.0
    return (sign * curves.diff(dim=1) >= -slack).all(dim=1)
