"""Accumulated local effects, first order: what moving one column does to the score, among rows that have about that value.

Partial dependence asks about rows that cannot be (a newborn of 1.80 m); here each row is moved only as far as its neighbours on the
column. Moves are averaged per step of the column, added up along it, and centred so that the mean over the rows is 0. For a linear
model that is w·(x − mean of x).

Source: Apley & Zhu 2020, arXiv:1612.08468; order of categories: their appendix E.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from audit.global_explanations._scores import ELEMENTS
from audit.global_explanations.partial_dependence import quantile_grid

if TYPE_CHECKING:
    from torch import Tensor

    from audit.global_explanations._scores import Score


@dataclass(frozen=True)
class AccumulatedEffect:
    """The effect of one column.

    Args:
        grid: ``(K,)`` float64 its values, in the order of the steps: ascending, or by similarity for a category.
        curves: ``(1 + B, K)`` float64 the effect at each, centred: of the rows as they are, then of B resamples of them.
    """

    grid: Tensor
    curves: Tensor

    @property
    def effect(self) -> Tensor:
        """``(K,)`` of the rows as they are."""
        return self.curves[0]

    @cached_property
    def ranges(self) -> Tensor:
        """``(1 + B,)`` largest minus smallest effect."""
        return self.curves.amax(dim=1) - self.curves.amin(dim=1)

    def along(self, sign: int) -> Tensor:
        """Share of the curve's total variation that goes in a direction (+1 up, −1 down), ``(1 + B,)``; 1 of a flat curve."""
        steps = sign * self.curves.diff(dim=1)
        variation = steps.abs().sum(dim=1)
        return torch.where(variation > 0, steps.clamp_min(0).sum(dim=1) / variation.clamp_min(1e-300), 1.0)


def resampling_weights(rows: int, replicates: int, seed: int) -> Tensor:
    """How often each row is drawn, ``(1 + B, N)`` float64: once each, then B bootstrap samples."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(rows, (replicates, rows), generator=generator)
    counts = torch.zeros((replicates, rows), dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return torch.cat([torch.ones((1, rows), dtype=torch.float64), counts])


def accumulated_effect(
    score: Score, x: Tensor, column: int, here: Tensor, weights: Tensor, intervals: int, order: Tensor | None = None
) -> AccumulatedEffect:
    """The effect of one column over rows; those that lack its value are left out.

    Args:
        x: ``(N, F)``.
        here: ``(N,)`` score of the rows as they are.
        weights: ``(1 + B, N)`` as `resampling_weights` gives them.
        intervals: most steps of a column of numbers, evenly filled with rows; one with fewer values moves from value to value.
        order: ``(K,)`` codes of a category in the order in which they are stepped through; None of a number.
    """
    values = x[:, column].double()
    known = ~values.isnan()
    grid = order.to(values) if order is not None else quantile_grid(values, intervals + 1)
    if len(grid) < 2:
        return AccumulatedEffect(grid, torch.zeros((len(weights), len(grid)), dtype=torch.float64))
    every = order is not None or len(values[known].unique()) == len(grid)  # type: ignore[no-untyped-call]
    moves = _from_value_to_value(values, grid) if every else _across_the_interval(values, grid)
    rows = x[moves.row].clone()
    rows[:, column] = moves.to.to(x)
    asked = torch.cat([score(part) for part in rows.split(max(1, ELEMENTS // x.shape[1]))])  # type: ignore[no-untyped-call]
    moved, counted = (torch.zeros((len(x), len(grid) - 1), dtype=torch.float64) for _ in range(2))
    moved.index_put_((moves.row, moves.step), moves.sign * asked.cpu(), accumulate=True)
    starts = here.double().cpu()[moves.row] if moves.from_here else 0.0
    moved.index_put_((moves.row, moves.step), -moves.sign * starts, accumulate=True)
    counted.index_put_((moves.row, moves.step), moves.counts, accumulate=True)
    return AccumulatedEffect(grid, _curves(moved, counted, _places(values, grid, every), weights))


@dataclass(frozen=True)
class _Moves:
    """Rows to ask about: `row` goes to value `to`, and the answer counts with `sign` for `step` (from grid[step] to the next)."""

    row: Tensor
    to: Tensor
    step: Tensor
    sign: Tensor
    counts: Tensor
    from_here: bool
    """Whether the row as it stands is the other end of the move."""


def _across_the_interval(values: Tensor, grid: Tensor) -> _Moves:
    """Each row goes to both ends of the interval that it lies in."""
    row = (~values.isnan()).nonzero().flatten().cpu()
    step = (torch.searchsorted(grid, values[row]) - 1).clamp(0, len(grid) - 2).cpu()
    ends, one = torch.cat([grid[step], grid[step + 1]]), torch.ones(len(row), dtype=torch.float64)
    return _Moves(row.repeat(2), ends, step.repeat(2), torch.cat([-one, one]), one.repeat(2) / 2, from_here=False)


def _from_value_to_value(values: Tensor, grid: Tensor) -> _Moves:
    """Each row goes to the next value and to the one before."""
    row, place = (values[:, None] == grid).nonzero(as_tuple=True)
    up, down = place < len(grid) - 1, place > 0
    rows, to = torch.cat([row[up], row[down]]), torch.cat([grid[place[up] + 1], grid[place[down] - 1]])
    step = torch.cat([place[up], place[down] - 1])
    sign = torch.cat([torch.ones(int(up.sum())), -torch.ones(int(down.sum()))]).double()
    return _Moves(rows.cpu(), to, step.cpu(), sign, torch.ones(len(rows), dtype=torch.float64), from_here=True)


def _places(values: Tensor, grid: Tensor, every: bool) -> Tensor:
    """Where each row lies on the grid, as shares of its two neighbours, ``(N, K)``; nowhere without a value."""
    if every:
        return (values[:, None] == grid).double().cpu()
    places = torch.zeros((len(values), len(grid)), dtype=torch.float64)
    row = (~values.isnan()).nonzero().flatten()
    step = (torch.searchsorted(grid, values[row]) - 1).clamp(0, len(grid) - 2)
    share = ((values[row] - grid[step]) / (grid[step + 1] - grid[step])).clamp(0, 1)
    places[row, step] = 1 - share
    places[row, step + 1] = share
    return places


def _curves(moved: Tensor, counted: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Centred curves ``(1 + B, K)``; a step that a resample leaves empty is that of the rows as they are."""
    total, number = weights @ moved, weights @ counted
    steps = total / number.clamp_min(1e-300)
    steps = torch.where(number > 0, steps, steps[:1])
    curves = torch.nn.functional.pad(steps.cumsum(dim=1), (1, 0))
    density = weights @ places
    return curves - (density * curves).sum(dim=1, keepdim=True) / density.sum(dim=1, keepdim=True).clamp_min(1e-300)


def similarity_order(x: Tensor, column: int, coded: Tensor) -> Tensor:
    """Codes of a category so that similar ones are neighbours, ``(K,)`` float64.

    Two codes are as far apart as their rows differ in the other columns: for numbers the Kolmogorov–Smirnov distance, for codes
    the total variation distance, summed. The order is that along the first axis of classical multidimensional scaling.

    Args:
        x: ``(N, F)``.
        coded: ``(F,)`` bool: columns of codes.
    """
    values = x.double().cpu()
    codes = values[:, column][~values[:, column].isnan()].unique()  # type: ignore[no-untyped-call]
    if len(codes) < 3:
        return codes  # type: ignore[no-any-return]
    member = (values[:, column, None] == codes).double()
    apart = torch.zeros((len(codes), len(codes)), dtype=torch.float64)
    for other in range(x.shape[1]):
        if other == column:
            continue
        known = ~values[:, other].isnan()
        here = member[known] / member[known].sum(dim=0).clamp_min(1)
        order = values[known, other].argsort(stable=True)
        distinct, place = values[known, other][order].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        share = torch.zeros((len(distinct), len(codes)), dtype=torch.float64).index_add_(0, place, here[order])
        if coded[other]:
            apart += (share[:, :, None] - share[:, None]).abs().sum(dim=0) / 2
        else:
            apart += _largest_gap(share.cumsum(dim=0))
    centred = apart**2 - (apart**2).mean(dim=0) - (apart**2).mean(dim=1, keepdim=True) + (apart**2).mean()
    axis = torch.linalg.eigh(-centred / 2)[1][:, -1]
    axis = axis * (1 if axis[0] <= 0 else -1)
    return codes[axis.argsort(stable=True)]  # type: ignore[no-any-return]


def _largest_gap(distribution: Tensor) -> Tensor:
    """Kolmogorov–Smirnov distances ``(K, K)`` between distribution functions ``(V, K)``."""
    return torch.stack([(distribution - distribution[:, [k]]).abs().amax(dim=0) for k in range(distribution.shape[1])])
