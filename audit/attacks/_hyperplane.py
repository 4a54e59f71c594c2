"""The shortest way from a point to a hyperplane inside a box, exact, in linf, l2 and l1.

Along coordinate i the gap closes at rate ``|w_i|``, by moving against the sign of ``w_i``, for as long as the box leaves room. So the move is
``m_i = min(room_i, lambda)`` for linf, ``min(room_i, lambda |w_i|)`` for l2, and for l1 whole rooms in the order of ``|w_i|``, steepest first.

Source: Hein & Andriushchenko 2017, arXiv:1705.08475; Croce & Hein 2020, arXiv:1907.02044, section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def to_hyperplane(
    point: Tensor, weight: Tensor, gap: Tensor, norm: str, low: float | Tensor, high: float | Tensor
) -> Tensor:
    """The move of least norm that brings each point onto ``weight . z = b`` without leaving the box, of the points' shape.

    Where the box does not reach the hyperplane it is the move to the corner that comes nearest.

    Args:
        point: ``(…, N, D)``, inside the box.
        weight: ``(N, D)``; a row of zeros does not move.
        gap: ``(…, N)`` signed ``weight . point - b``, which a move must bring to 0.
        norm: ``linf``, ``l2`` or ``l1``.
        low, high: the box: numbers or tensors that broadcast with `point`; infinite where there is none.
    """
    import torch

    rate = weight.abs()
    scale = rate.amax(dim=-1).clamp_min(torch.finfo(weight.dtype).tiny)  # squares of tiny gradients underflow
    rate, need = rate / scale[:, None], gap.abs() / scale
    way = torch.where(gap[..., None] < 0, 1.0, -1.0).to(weight) * weight.sign()
    room = torch.where(way > 0, high - point, point - low).masked_fill_(way == 0, 0.0)
    if norm == "l1":
        return _steepest_first(rate, room, need) * way
    return _evenly(rate, room, need, rate if norm == "l2" else 1.0) * way


def _evenly(rate: Tensor, room: Tensor, need: Tensor, share: Tensor | float) -> Tensor:
    """``min(room, level * share)`` with the level at which ``sum(rate * moves)`` meets the need, or the whole room.

    Newton on a concave, piecewise linear function from below its root: the level only rises, every pass finds at least one more
    coordinate whose room is used up, and where it finds none the level is exact. A handful of passes where sorting would cost more.
    """
    import torch

    # Masks as numbers, and infinite rooms, which are never used up, as none: products are many times as fast as a masked fill.
    whole, slope = (rate * room).nan_to_num(posinf=0.0), rate * share
    free = (rate > 0).to(rate)
    level = (need / slope.sum(dim=-1)).nan_to_num(nan=torch.inf)
    for _ in range(rate.shape[-1]):
        free = free * (room > level[..., None] * share)
        gain = (slope * free).sum(dim=-1)
        risen = torch.where(gain > 0, (need - (whole * (1 - free)).sum(dim=-1)) / gain, torch.inf)
        if torch.equal(risen, level):
            break
        level = risen
    return torch.where(free > 0, level[..., None] * share, room)


def _steepest_first(rate: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Whole rooms in the order of the rate until the need is met, the last of them in part."""
    import torch

    rate, order = rate.sort(dim=-1, descending=True, stable=True)
    order = order.expand_as(room)
    room = room.gather(-1, order)
    before = torch.nn.functional.pad((rate * room).cumsum(dim=-1)[..., :-1], (1, 0))
    moves = ((need[..., None] - before).clamp_min(0.0) / rate.clamp_min(torch.finfo(rate.dtype).tiny)).minimum(room)
    return torch.empty_like(moves).scatter_(-1, order, moves)
