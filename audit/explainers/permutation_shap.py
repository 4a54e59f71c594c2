"""Shapley values by random orders."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from audit.explainers._game import GameExplainer, Round, Solution

if TYPE_CHECKING:
    from torch import Tensor

    from audit.rng import ExampleRng

_MEMBERSHIPS = 1 << 24
"""Walks are taken so many at once that their coalitions' scores stay below this."""


class PermutationShap(GameExplainer):
    """Shapley values by sampling: what each feature adds as it joins, averaged over random orders, each walked forward and backward.

    Values add up to the score whatever the orders, and are exact where features act in pairs at most. Each row has its own
    orders, so that errors of different rows are independent. `error` is the largest standard error among the row's features.

    Source: Castro et al. 2009, doi 10.1016/j.cor.2008.04.004; both ways: Mitchell et al. 2022, arXiv:2104.12199.
    """

    permutations: int = Field(default=10, ge=2)
    """Random orders per row: about 2 M coalitions of M features each, and one model row per coalition and background row."""

    def solve(self, played: Round, rng: ExampleRng) -> Solution:
        """See `GameExplainer.solve`."""
        return random_orders(played, rng, self.permutations)


def random_orders(played: Round, rng: ExampleRng, permutations: int) -> Solution:
    """Values from random orders of each row's own."""
    orders = rng.uniform((permutations, played.players)).argsort(dim=2).to(played.rows.device)
    values, error = by_orders(played, orders)
    return Solution(values, error.amax(dim=1), f"{permutations} random orders both ways")


def by_orders(played: Round, orders: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over orders ``(R, P, M)``, walked both ways, of what players add as they join, and its standard error; ``(R, M)``."""

    count, players = orders.shape[1:]
    drawn = played.score.new_empty(orders.shape)
    together = max(1, _MEMBERSHIPS // (2 * players * len(orders)))
    for first in range(0, count, together):
        drawn[:, first : first + together] = _walked(played, orders[:, first : first + together])
    return drawn.mean(dim=1), drawn.std(dim=1) / math.sqrt(count)


def _walked(played: Round, orders: Tensor) -> Tensor:
    """What each player adds on the mean of both ways, ``(R, P, M)``."""
    import torch

    rows, count, players = orders.shape
    place = orders.argsort(dim=2)
    steps = players - 1  # coalitions of 1 … M − 1 on each way

    def present(row: Tensor, number: Tensor) -> Tensor:
        order, joined = number // (2 * steps), number % steps + 1
        back = number // steps % 2 == 1
        along = place[row, order]
        return torch.where(back[:, None], players - 1 - along, along) < joined[:, None]

    worth = played.worth(count * 2 * steps, present).reshape(rows, count, 2, steps)
    ends = (end[:, None, None, None].expand(rows, count, 2, 1) for end in (played.base_value, played.score))
    none, all_ = ends
    added = torch.cat([none, worth, all_], dim=3).diff(dim=3)
    forward = added[:, :, 0].gather(2, place)
    return (forward + added[:, :, 1].gather(2, steps - place)) / 2
