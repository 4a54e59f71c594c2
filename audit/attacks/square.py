"""Square: random search over square patches, by scores alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from audit.attacks import Attack, Candidates
from audit.attacks._ball import Ball
from audit.attacks._folded import folded, wrong_for_both
from audit.attacks._gradients import require_ball
from audit.attacks._tally import Tally
from audit.finding import Access, ThreatModel
from audit.model import Capability
from audit.parameters import Real

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Ten-thousandths of the queries after which the patch's area halves."""
_AHEAD = 64
"""Proposals that random numbers are drawn ahead for: one call per example and block, not per example and proposal."""
_TINY = 1e-12


class Square(Attack):
    """Random search by scores: change one square patch, keep the change where the label's margin shrinks.

    The perturbation stays at the ball's extremes: linf sets a patch to ±eps, l2 and l1 move the perturbation's mass from one patch
    to another. A patch is a square of an image ``(C, H, W)``, a window of a series ``(C, L)`` or of a flat input ``(F,)``. Unlike
    the public implementations every example has patches of its own, they reach the last row and column, and where linf would
    propose what is there already, it proposes the opposite sign (with one channel that is half of all small patches).

    The patches shrink on a schedule stretched over the queries there are. That is what makes ART 1.20.1 stronger than AutoAttack's
    own set-up at 500 queries, and all of it: AutoAttack passes ``resc_schedule=False``, by which 500 queries never come to small
    patches (on digits 20 % of the rows fell instead of 30 % at eps 1.6, 49 % instead of 69 % at 2.4); the same code with the schedule
    stretched is as strong as ART, which asks three times per proposal.

    Source: Andriushchenko et al. 2020, arXiv:1912.00049; p_init 0.8: Croce & Hein 2020, arXiv:2003.01690; l1: Croce & Hein 2021,
    arXiv:2103.01208.
    """

    access: ClassVar[Access] = "black_box_scores"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.PROBABILITIES})

    queries: int = Field(5000, ge=1)
    """Proposals per example and restart, a row forward each, and one to confirm what is found. A smaller cap in the threat model is
    shared out among the restarts."""
    p_init: Real = Field(0.8, gt=0, le=1)
    """Share of the input that the first patches cover."""
    restarts: int = Field(1, ge=1)
    """Runs from different starting points; a later one takes on only what is still classified correctly."""

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: the threat model has no eps, or no norm.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        norm, eps = require_ball("square", self.norms, threat.norm, threat.eps)
        x, y = x.detach(), y.to(x.device)
        moves = _MOVES[norm](_Grid.of(tuple(x.shape[1:])), eps)
        balls = Ball.around(moves.grid.flat(x), norm, eps, threat.bounds)
        tally = Tally(balls.center, threat.queries)
        total = self.queries * self.restarts
        total = total if threat.queries is None else min(total, threat.queries)
        with folded(model, x) as fast:
            for restart in range(self.restarts):
                queries = total // self.restarts + (restart < total % self.restarts)
                left = tally.left()
                if len(left) and queries:
                    own = rng.take(left.cpu())
                    first = moves.start(balls.take(left), own)
                    margin = torch.full((len(left),), torch.inf, dtype=x.dtype, device=x.device)
                    search = _Search(left, torch.arange(len(left)), y[left], balls.take(left), first, margin)
                    self._search(search, moves, _Oracle(model, fast, tuple(x.shape[1:]), tally), queries, own)
        return Candidates(tally.x.reshape(x.shape), tally.queries, tally.gradients)

    def _search(self, search: _Search, moves: _Moves, oracle: _Oracle, queries: int, rng: ExampleRng) -> None:
        """One restart, until every example has fallen or has had its queries."""
        import torch

        candidate = search.best
        for i in range(queries):
            on = oracle.affordable(search.index)
            if not bool(on.all()):
                search, candidate = search.take(on), candidate[on]
            if not len(search):
                return
            if i:
                share = self.p_init / 2 ** bisect_left(_HALVINGS, int(i / queries * 10_000))
                at = (i - 1) % _AHEAD
                if at == 0:
                    rng = rng.take(search.stream)
                    draws = rng.uniform((_AHEAD, moves.draws)).to(candidate)
                    search = replace(search, stream=torch.arange(len(search)))
                candidate = moves.propose(search, draws[search.stream.to(draws.device), at], share)
            fooled, margin = oracle.ask(search, candidate)
            best = torch.where((margin < search.margin)[:, None, None], candidate, search.best)
            search = replace(search, best=best, margin=torch.minimum(margin, search.margin))
            if bool(fooled.any()):
                search, candidate = search.take(~fooled), candidate[~fooled]


@dataclass(frozen=True)
class _Oracle:
    """The model by its scores, with its count.

    Args:
        judge: the model; what it says counts.
        model: the same made faster, or itself.
        shape: of one input.
    """

    judge: AuditedModel
    model: AuditedModel
    shape: tuple[int, ...]
    tally: Tally

    def affordable(self, index: Tensor) -> Tensor:
        """Which rows have a query left, and one to confirm it."""
        return self.tally.affordable(index, 1 if self.model is self.judge else 2)

    def ask(self, search: _Search, candidate: Tensor) -> tuple[Tensor, Tensor]:
        """Which candidates ``(n, C, P)`` are misclassified, recorded, and the label's logit minus the best other, each ``(n,)``."""
        import torch

        x, y = candidate.reshape(-1, *self.shape), search.label
        with torch.no_grad():
            logits = torch.cat(self.model.in_parts(x, self.model.logits))
        self.model.check_finite(logits)
        margin = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
        self.tally.asked(search.index)
        fooled, again = wrong_for_both(self.judge, self.model, x, y, logits.argmax(dim=1) != y)
        if bool(again.any()):
            self.tally.asked(search.index[again])
        self.tally.record(search.index, fooled, candidate)
        return fooled, margin


class _Grid(NamedTuple):
    """How an input's elements lie: a series and a flat input have one row."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> _Grid:
        if len(shape) == 3:
            return cls(*shape)
        return cls(shape[0], 1, shape[1]) if len(shape) == 2 else cls(1, 1, math.prod(shape))

    def flat(self, x: Tensor) -> Tensor:
        """``(N, C, H * W)``."""
        return x.reshape(len(x), self.channels, self.height * self.width)

    @property
    def side(self) -> int:
        """Side of the largest patch."""
        return self.width if self.height == 1 else min(self.height, self.width)

    def side_of(self, share: float) -> int:
        """Side of a patch that covers a share of the grid."""
        area = share * self.height * self.width
        return round(area if self.height == 1 else math.sqrt(area))

    def patch_of(self, side: int, odd: bool = False) -> tuple[int, int]:
        """Height and width of the patch with a side, one that fits; where that is possible an odd one."""
        side = min(max(side, 1), self.side)
        if odd and side % 2 == 0:
            side += 1 if side < self.side else -1
        return (1, side) if self.height == 1 else (side, side)

    def at(self, patch: tuple[int, int], where: Tensor) -> Tensor:
        """Positions ``(n, C, h * w)`` of the elements of patches, from where they lie in [0, 1), ``(n, 2)``."""
        import torch

        places, within = _places(self, patch, where.device)
        # A product may round up to the number of places.
        corner = torch.minimum(where * places, places - 0.5).to(torch.int64)
        at = (corner[:, :1] * self.width + corner[:, 1:]) + within
        return at[:, None, :].expand(-1, self.channels, -1)


@cache
def _places(grid: _Grid, patch: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """How many rows and columns a patch may begin at, ``(2,)``, and its elements' positions from its corner, ``(h * w,)``."""
    import torch

    rows, columns = (torch.arange(size, device=device) for size in patch)
    places = torch.tensor([grid.height - patch[0] + 1.0, grid.width - patch[1] + 1.0], device=device)
    return places, (rows[:, None] * grid.width + columns).reshape(-1)


@dataclass(frozen=True)
class _Search:
    """The examples still searched, one row each; what leaves, leaves with all of it. Inputs have their P elements per channel in line.

    Args:
        index: which row of the call it is.
        stream: which of the current random streams is its own; stays on the CPU.
        balls: around the clean inputs ``(n, C, P)``.
        best: ``(n, C, P)`` the input with the smallest margin yet.
        margin: its label's logit minus the best other.
    """

    index: Tensor
    stream: Tensor
    label: Tensor
    balls: Ball
    best: Tensor
    margin: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def take(self, keep: Tensor) -> _Search:
        return _Search(
            self.index[keep],
            self.stream[keep.cpu()],
            self.label[keep],
            self.balls.take(keep),
            self.best[keep],
            self.margin[keep],
        )


class _Moves(ABC):
    """How perturbations of one norm begin and change."""

    def __init__(self, grid: _Grid, eps: float) -> None:
        self.grid, self.eps = grid, eps

    @property
    @abstractmethod
    def draws(self) -> int:
        """Random numbers per proposal."""

    @abstractmethod
    def start(self, balls: Ball, rng: ExampleRng) -> Tensor:
        """The first perturbed input of every example, ``(n, C, P)``."""

    @abstractmethod
    def propose(self, search: _Search, draws: Tensor, share: float) -> Tensor:
        """The next, from ``(n, draws)`` numbers in [0, 1); a patch covers `share` of the input."""


class _Corners(_Moves):
    """linf: every element at its lowest or highest value."""

    @property
    def draws(self) -> int:
        return 2 + self.grid.channels

    def start(self, balls: Ball, rng: ExampleRng) -> Tensor:
        """Stripes of one column each, a sign per channel."""
        import torch

        columns = rng.uniform((self.grid.channels, 1, self.grid.width)).to(balls.center) < 0.5
        up = columns.expand(-1, -1, self.grid.height, -1).reshape(balls.center.shape)
        return torch.where(up, balls.high, balls.low)

    def propose(self, search: _Search, draws: Tensor, share: float) -> Tensor:
        """One sign per channel in the patch; the opposite of each where that changes nothing."""
        import torch

        at = self.grid.at(self.grid.patch_of(self.grid.side_of(share)), draws[:, :2])
        low, high, now = (values.gather(2, at) for values in (search.balls.low, search.balls.high, search.best))
        up = draws[:, 2:, None] < 0.5
        same = (torch.where(up, high, low) == now).flatten(1).all(dim=1)
        up = up ^ same[:, None, None]
        return search.best.scatter(2, at, torch.where(up, high, low))


class _Mass(_Moves):
    """l2 and l1: what one patch held goes to another, where it is mixed with a bump beside a dent."""

    @property
    def draws(self) -> int:
        return 5 + self.grid.channels

    def start(self, balls: Ball, rng: ExampleRng) -> Tensor:
        """Bumps and dents, on tiles of a fifth of the input's side."""

        channels, height, width = self.grid
        patch = self.grid.patch_of(self.grid.side // 5)
        tall, wide = patch
        down, across = height // tall, width // wide
        drawn = rng.uniform((1 + channels, down * across)).to(balls.center)
        tiles = _signs(drawn[:, 1:, :, None]) * _bump(patch, drawn[:, :1, :, None] < 0.5)
        tiles = tiles.reshape(-1, channels, down, across, tall, wide).transpose(3, 4)
        delta = balls.center.new_zeros((len(balls), channels, height, width))
        top, left = (height - down * tall) // 2, (width - across * wide) // 2
        tiles = tiles.reshape(-1, channels, down * tall, across * wide)
        delta[:, :, top : top + down * tall, left : left + across * wide] = tiles
        return self._onto(balls, self._scaled(delta.reshape(balls.center.shape), balls))

    def propose(self, search: _Search, draws: Tensor, share: float) -> Tensor:
        """What the patch `origin` held goes to the patch `to`, with what of eps is unused."""
        patch = self.grid.patch_of(max(self.grid.side_of(share), 3), odd=True)
        to, origin = (self.grid.at(patch, draws[:, i : i + 2]) for i in (0, 2))
        delta = search.best - search.balls.center
        unused = (self._power(delta.new_tensor([[self.eps]])) - self._power(delta.flatten(1))).clamp_min(0)
        held = delta.gather(2, to)
        delta = delta.scatter(2, to, 0.0)
        taken = delta.gather(2, origin)  # less what both patches hold, which must not count twice
        delta = delta.scatter(2, origin, 0.0)
        moved = self._power(held.flatten(1)) + self._power(taken.flatten(1))
        new = _signs(draws[:, 5:, None]) * _bump(patch, draws[:, 4, None, None] < 0.5)
        new = new + held / (self._size(held) + _TINY)
        new = new / (self._size(new) + _TINY) * self._share(unused, moved)[:, None, None]
        return self._onto(search.balls, delta.scatter(2, to, new))

    def _scaled(self, delta: Tensor, balls: Ball) -> Tensor:
        """The first bumps in the input's units, before they are brought onto the ball."""
        return delta

    @abstractmethod
    def _power(self, delta: Tensor) -> Tensor:
        """What patches share out, ``(n,)`` of ``(n, d)``: the square of the l2 norm, the l1 norm."""

    @abstractmethod
    def _size(self, delta: Tensor) -> Tensor:
        """Norm over the last dimension, which stays."""

    @abstractmethod
    def _share(self, unused: Tensor, moved: Tensor) -> Tensor:
        """Norm of each channel of the new patch."""

    @abstractmethod
    def _onto(self, balls: Ball, delta: Tensor) -> Tensor:
        """Inputs in ball and box."""


class _L2(_Mass):
    def _power(self, delta: Tensor) -> Tensor:
        power: Tensor = delta.square().sum(dim=1)
        return power

    def _size(self, delta: Tensor) -> Tensor:
        size: Tensor = delta.norm(dim=2, keepdim=True)
        return size

    def _share(self, unused: Tensor, moved: Tensor) -> Tensor:
        norm: Tensor = (unused / self.grid.channels + moved).sqrt()
        return norm

    def _onto(self, balls: Ball, delta: Tensor) -> Tensor:
        """Stretched to eps, then clipped."""
        size = delta.flatten(1).norm(dim=1).clamp_min(_TINY)[:, None, None]
        moved: Tensor = balls.center + delta * (self.eps / size)
        return moved.clamp(balls.low, balls.high)


class _L1(_Mass):
    def _scaled(self, delta: Tensor, balls: Ball) -> Tensor:
        """As high as the box; the projection leaves the peaks."""
        height = balls.high - balls.low
        return delta * height.where(height.isfinite(), balls.eps)

    def _power(self, delta: Tensor) -> Tensor:
        power: Tensor = delta.abs().sum(dim=1)
        return power

    def _size(self, delta: Tensor) -> Tensor:
        size: Tensor = delta.abs().sum(dim=2, keepdim=True)
        return size

    def _share(self, unused: Tensor, moved: Tensor) -> Tensor:
        return unused + moved * self.grid.channels

    def _onto(self, balls: Ball, delta: Tensor) -> Tensor:
        return balls.project(balls.center + delta)


_MOVES: dict[str, type[_Moves]] = {"linf": _Corners, "l2": _L2, "l1": _L1}


def _signs(uniform: Tensor) -> Tensor:
    import torch

    return torch.where(uniform < 0.5, -1.0, 1.0)


def _bump(patch: tuple[int, int], turned: Tensor) -> Tensor:
    """A bump beside a dent, of l2 norm 1, ``(..., h * w)``; side by side or, where `turned`, one above the other."""
    import torch

    beside, above = _pair(patch, turned.device)
    return torch.where(turned, above, beside)


@cache
def _pair(patch: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Bump and dent side by side and one above the other, ``(h * w,)`` each; a window of a series knows the former only."""
    import torch

    height, width = patch
    halves = [(size, sign) for size, sign in ((width // 2, 1.0), (width - width // 2, -1.0)) if size]
    beside = torch.cat([sign * _pyramid(height, size) for size, sign in halves], dim=1).to(device)
    beside = beside / torch.linalg.vector_norm(beside)
    return beside.reshape(-1), beside.reshape(-1) if height == 1 else beside.t().reshape(-1)


def _pyramid(height: int, width: int) -> Tensor:
    """``(h, w)`` of l2 norm 1, highest in the middle: at distance d (the larger of the two axes') the sum of 1/(c+1)² from c = d on."""
    import torch

    down, across = (torch.arange(size).sub(size // 2).abs() for size in (height, width))
    steps = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float32).pow(-2)
    heights = steps.flip(0).cumsum(0).flip(0)
    pyramid: Tensor = heights[torch.maximum(down[:, None], across[None, :])]
    pyramid /= torch.linalg.vector_norm(pyramid)
    return pyramid
