"""Shapley values by weighted regression on coalitions that all rows share."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from audit.explainers._game import GameExplainer, Round, Solution
from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.rng import ExampleRng


class KernelShap(GameExplainer):
    """Shapley values as the additive game that fits the worth of sampled coalitions best, by least squares under the Shapley kernel,
    with the values held to add up to the score exactly.

    Coalitions come in pairs, one and its complement, and are the same for all rows with equally many features: one factorisation
    serves them all, but rows also share the luck of the draw, which does not average out over rows (`permutation_shap` draws
    for each row). Sizes of which all coalitions are asked have exact weights; where that is every size, the values are exact.
    `error` is the largest standard error among the row's features, from the spread of the residuals within each size.

    Source: Lundberg & Lee 2017, arXiv:1705.07874; pairs, and the error of the estimate: Covert & Lee 2021, arXiv:2012.01536.
    """

    coalitions: int | None = Field(default=None, ge=2, multiple_of=2)
    """Coalitions asked of each row; by default 2 M + 2,048 of M features. All of them where there are no more than that."""

    def solve(self, played: Round, rng: ExampleRng) -> Solution:
        """See `GameExplainer.solve`.

        Raises:
            UserError: fewer than four coalitions per feature.
        """
        import torch

        players = played.players
        asked = self.coalitions or 2 * players + 2048
        if asked < min(4 * players, 2**players - 2):
            raise UserError(
                f"kernel_shap needs at least four coalitions per feature: {players} features ({played.unit}) "
                f"need {4 * players}, coalitions is {asked}"
            )
        design = pairs_of_coalitions(players, asked // 2, rng.common("coalitions", players)).to(played.rows)
        worth = played.worth_of(torch.cat([design.coalitions, ~design.coalitions]))
        one, other = worth.chunk(2, dim=1)
        values, error = regression(design, (one - other) / 2, played.score - played.base_value)
        how = "all coalitions" if design.every else f"regression on {worth.shape[1]} coalitions"
        return Solution(values, error.amax(dim=1), how)


@dataclass(frozen=True)
class Stratum:
    """Pairs of one size: drawn without replacement.

    Args:
        pairs: where they stand in the design.
        share: of all pairs of the size.
    """

    pairs: slice
    share: float


@dataclass(frozen=True)
class Design:
    """Pairs of a coalition and its complement.

    Args:
        coalitions: ``(J, M)`` bool: one of each pair, the smaller.
        weight: ``(J,)`` float64: Shapley kernel over the chance of being drawn.
        strata: pairs by size.
    """

    coalitions: Tensor
    weight: Tensor
    strata: tuple[Stratum, ...]

    @property
    def every(self) -> bool:
        """Whether all coalitions are among them."""
        return all(stratum.share == 1 for stratum in self.strata)

    def to(self, like: Tensor) -> Design:
        """On another device."""
        return Design(self.coalitions.to(like.device), self.weight.to(like.device), self.strata)


def pairs_of_coalitions(players: int, pairs: int, generator: np.random.Generator) -> Design:
    """About `pairs` pairs, stratified by size.

    A size gets pairs in proportion to its weight under the Shapley kernel, all of them where it has no more than its part, and two
    at least: a size that is never asked would bias the values, and one draw says nothing of its spread.
    """
    import numpy as np
    import torch

    sizes = range(1, players // 2 + 1)
    # A coalition of half the players is the complement of one as large: half as many pairs.
    number = [math.comb(players, s) // (2 if 2 * s == players else 1) for s in sizes]
    weight = [(0.5 if 2 * s == players else 1.0) / (s * (players - s)) for s in sizes]
    drawn = _allocated(np.array(weight), number, pairs)
    coalitions, weights, strata, start = [], [], [], 0
    for size, every, total, count in zip(sizes, number, weight, drawn, strict=True):
        coalitions.append(_drawn(players, size, every, count, generator))
        weights.append(np.full(count, total / count))
        strata.append(Stratum(slice(start, start + count), count / every))
        start += count
    return Design(
        torch.from_numpy(np.concatenate(coalitions)), torch.from_numpy(np.concatenate(weights)), tuple(strata)
    )


def _allocated(weight: NDArray[np.float64], number: list[int], pairs: int) -> list[int]:
    """How many pairs of each size are asked."""
    import numpy as np

    limit = np.array([float(min(n, 1 << 62)) for n in number])
    least = np.minimum(2, limit)
    given = np.zeros(len(number))
    settled = np.zeros(len(number), dtype=bool)
    while not settled.all():
        left = pairs - given[settled].sum()
        share = np.where(settled, given, left * weight / weight[~settled].sum())
        bound, at = ~settled & (share >= limit), limit
        if not bound.any():
            bound, at = ~settled & (share < least), least
        if not bound.any():
            given[~settled] = np.floor(share[~settled])
            largest = np.argsort(given - share, kind="stable")  # what rounding took
            given[largest[: int(pairs - given.sum())]] += 1
            break
        given[bound] = at[bound]
        settled |= bound
    return [int(g) for g in given]


def _drawn(players: int, size: int, every: int, count: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """`count` different coalitions of a size ``(count, M)``; of two halves, the one with the first player."""
    import numpy as np

    halves = 2 * size == players
    if every <= 4 * count:
        chosen = np.array(list(itertools.islice(itertools.combinations(range(players), size), every)))
        if count < every:
            chosen = chosen[generator.choice(every, count, replace=False)]
        return _members(chosen, players)
    found = np.zeros((0, players), dtype=bool)
    while len(found) < count:
        more = _members(generator.random((count, players)).argsort(axis=1)[:, :size], players)
        found = np.concatenate([found, more ^ (halves & ~more[:, :1])])
        _, first = np.unique(np.packbits(found, axis=1), axis=0, return_index=True)
        found = found[np.sort(first)]
    return found[:count]


def _members(chosen: NDArray[np.int64], players: int) -> NDArray[np.bool_]:
    import numpy as np

    found = np.zeros((len(chosen), players), dtype=bool)
    np.put_along_axis(found, chosen, True, axis=1)
    return found


def regression(design: Design, halves: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """Values and their standard errors, ``(R, M)`` each.

    Of a pair, only half the difference of the two worths matters: it is regressed on ±1/2, members and others, and the last
    player is what is left of `gap`. Values are linear in the half differences, so that the variance of the draw is that of the
    influence of each pair's residual, within its size, less for sizes of which much is asked (sampling without replacement).
    Residuals are divided by one minus their leverage, as in the jackknife (HC3: MacKinnon & White 1985).

    Args:
        halves: ``(R, J)`` float64.
        gap: ``(R,)`` score of everybody less that of nobody.
    """
    import torch

    sides = design.coalitions.double() - 0.5
    inputs, last = sides[:, :-1] - sides[:, -1:], sides[:, -1]
    weighted = inputs * design.weight[:, None]
    factor = torch.linalg.cholesky(inputs.T @ weighted)
    influence = torch.cholesky_solve(weighted.T, factor)  # (M − 1, J)
    outputs = halves - last * gap[:, None]
    first = outputs @ influence.T
    values = torch.cat([first, gap[:, None] - first.sum(dim=1, keepdim=True)], dim=1)
    if design.every:
        return values, torch.zeros_like(values)
    leverage = (inputs * influence.T).sum(dim=1)
    residual = (outputs - first @ inputs.T) / (1 - leverage).clamp_min(torch.finfo(torch.float64).eps)
    influence = torch.cat([influence, -influence.sum(dim=0, keepdim=True)])
    variance = torch.zeros_like(values)
    for stratum in design.strata:
        count = stratum.pairs.stop - stratum.pairs.start
        if stratum.share < 1:
            part, left = influence[:, stratum.pairs].T, residual[:, stratum.pairs]
            spread = (left.square() @ part.square() - (left @ part).square() / count).clamp_min(0)
            variance += (1 - stratum.share) * count / (count - 1) * spread
    return values, variance.sqrt()
