"""Shapley values by every coalition."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from audit.explainers._game import GameExplainer, Round, Solution
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.rng import ExampleRng

LARGEST = 12
"""Players whose every coalition is asked: 4,096."""


class ExactShap(GameExplainer):
    """Shapley values by definition: what each feature adds to the score, averaged over all orders in which features join, from
    every one of the 2^M coalitions of M features. At most 12 features; the others' values come from background rows.

    The values are exact, of the game that is asked: features are changed one without the other, and the model's answer to inputs
    that do not occur counts like any other. `error` is 0.

    Source: Shapley 1953, doi 10.1515/9781400881970-018; as an explanation: Štrumbelj & Kononenko 2010, JMLR 11:1-18.
    """

    most: ClassVar[int] = LARGEST

    def solve(self, played: Round, rng: ExampleRng) -> Solution:
        """See `GameExplainer.solve`.

        Raises:
            UserError: there are more than 12 features.
        """
        if played.players > LARGEST:
            unit = played.unit
            raise UserError(
                f"exact_shap asks every coalition of at most {LARGEST} features, and here are {played.players} ({unit}): "
                "choose larger units, or permutation_shap"
            )
        return every_coalition(played)


def every_coalition(played: Round) -> Solution:
    """Exact values from the 2^M − 2 coalitions that are not known yet."""
    import torch

    coalitions = _coalitions(played.players, played.rows)
    between = played.worth_of(coalitions[1:-1])
    worth = torch.cat([played.base_value[:, None], between, played.score[:, None]], dim=1)
    return Solution(worth @ shapley_weights(coalitions), torch.zeros_like(played.score), "all coalitions")


def _coalitions(players: int, like: Tensor) -> Tensor:
    """All ``(2^M, M)``, the empty one first, the full one last."""
    import torch

    bits = torch.arange(players, device=like.device)
    return (torch.arange(2**players, device=like.device)[:, None] >> bits & 1).bool()


def shapley_weights(coalitions: Tensor) -> Tensor:
    """``(2^M, M)`` float64: a player's value is the sum of every coalition's worth times its weight.

    With the player in, (s − 1)! (M − s)! / M! of a coalition of s; without, −s! (M − s − 1)! / M!.
    """
    import torch

    players = coalitions.shape[1]
    joined = [1 / (players * math.comb(players - 1, size)) for size in range(players)]  # s others were there before
    weight = torch.tensor([0.0, *joined, 0.0], dtype=torch.float64, device=coalitions.device)
    size = coalitions.sum(dim=1)
    return torch.where(coalitions, weight[size][:, None], -weight[size + 1][:, None])
