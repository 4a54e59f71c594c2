"""What an adversary may feed: a ball around each input, cut off at the input's bounds; and the least a linear function takes there."""

from __future__ import annotations

import torch
from torch import Tensor

from audit.certificates._coefficients import Coefficients
from audit.certificates._rounding import DTYPE, own_rounding
from audit.parameters import UserError

NORMS = ("linf", "l2", "l1")


class Region:
    """``{x' : norm(x' - x) <= eps, low <= x' <= high}`` of each row.

    eps is widened by what `audit.attacks.confirm` lets pass for rounding, so that no example that counts lies outside.

    Args:
        x: ``(B, *shape)``.
        norm: linf, l2 or l1.
        eps: radius in input units.
        bounds: smallest and largest value of an input; None where there are none.
    """

    def __init__(self, x: Tensor, norm: str, eps: float, bounds: tuple[float, float] | None) -> None:
        if norm not in NORMS:
            raise UserError(f"'{norm}' is no norm: choose linf, l2 or l1")
        self.norm = norm
        self.x = x.detach().to(DTYPE)
        size = x[0].numel()
        low, high = bounds or (-torch.inf, torch.inf)
        largest = max(abs(low), abs(high)) if bounds else max(1.0, float(self.x.abs().amax()) if x.numel() else 1.0)
        self.eps: float = (
            eps + torch.finfo(torch.float32).eps * largest * {"linf": 1.0, "l2": size**0.5, "l1": float(size)}[norm]
        )
        self._bounded = bounds is not None
        self._room_down = (self.x - low).clamp_min(0.0)
        self._room_up = (high - self.x).clamp_min(0.0)
        self.furthest = self.x.abs() + self.eps
        """The largest absolute value of each element there may be, ``(B, *shape)``."""
        self.low = self.x - self._room_down.clamp_max(self.eps)
        self.high = self.x + self._room_up.clamp_max(self.eps)

    def __len__(self) -> int:
        return len(self.x)

    def least(self, a: Coefficients) -> Tensor:
        """Lower bound of ``a·x'`` over the regions, ``(P,)``: exact but for rounding, which it allows for.

        Under linf each element takes its worse end. Under l1 the budget goes to the largest ``|a|`` first, as far as the bounds let
        it. Under l2 every element moves by ``min(t·|a|, room)`` with t such that the ball is used up; what is returned is the
        Lagrangian at t, a bound whatever rounding does to t.
        """
        slope = a.data.abs()
        spare = own_rounding(self.x[0].numel()) * a.holding(slope).dot(self.furthest)
        if self.norm == "linf":
            worst = torch.where(a.data > 0, a.at(self.low), a.at(self.high))
            return (worst * a.data).flatten(1).sum(dim=1) - spare
        at_centre = a.dot(self.x) - spare
        slope = slope.flatten(1)
        if not self._bounded:
            dual: Tensor = slope.norm(dim=1) if self.norm == "l2" else slope.amax(dim=1)
            return at_centre - self.eps * dual
        room = torch.where(a.data > 0, a.at(self._room_down), a.at(self._room_up)).flatten(1)
        return at_centre - (self._gain_l1(slope, room) if self.norm == "l1" else self._gain_l2(slope, room))

    def _gain_l1(self, slope: Tensor, room: Tensor) -> Tensor:
        """``max slope·d`` over ``0 <= d <= room, sum(d) <= eps``: a fractional knapsack."""
        slope, order = slope.sort(dim=1, descending=True)
        room = room.gather(1, order)
        spent = room.cumsum(dim=1) - room
        return (slope * torch.minimum(room, (self.eps - spent).clamp_min(0.0))).sum(dim=1)

    def _gain_l2(self, slope: Tensor, room: Tensor) -> Tensor:
        """``max slope·d`` over ``0 <= d <= room, norm2(d) <= eps``, from above."""
        # Elements reach the end of their room in the order of room/slope; `used` is the squared length when the k-th just does.
        reach, order = (room / slope.clamp_min(torch.finfo(slope.dtype).tiny)).sort(dim=1)
        ended = room.gather(1, order).square().cumsum(dim=1)
        squares = slope.gather(1, order).square()
        going = squares.flip(1).cumsum(dim=1).flip(1) - squares
        k = (ended + reach.square() * going <= self.eps**2).sum(dim=1, keepdim=True)
        start = torch.zeros_like(ended[:, :1])
        ended = torch.cat([start, ended], dim=1).gather(1, k)
        going = torch.cat([squares.sum(dim=1, keepdim=True), going], dim=1).gather(1, k)
        t = ((self.eps**2 - ended).clamp_min(0.0) / going).sqrt().squeeze(1)
        corner = (slope * room).sum(dim=1)
        binds = (t > 0) & t.isfinite()  # else every element is at its end, and the bounds alone bind
        moved = torch.minimum(slope * torch.where(binds, t, 0.0)[:, None], room)
        dual = (slope * moved).sum(dim=1) + (self.eps**2 - moved.square().sum(dim=1)) / (2 * t)
        return torch.where(binds, torch.minimum(dual, corner), corner)
