"""Models that take batches of certain sizes only, fed with batches of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def any_batch_size(
    forward: Callable[[Tensor], Tensor], smallest: int, largest: int | None
) -> Callable[[Tensor], Tensor]:
    """A forward pass for any number of rows from one that takes `smallest` to `largest`; gradients flow through.

    A last part that is too small is filled up with copies of its last row, whose answers are cut off again.
    """
    if smallest <= 1 and largest is None:
        return forward

    def whole(x: Tensor) -> Tensor:
        import torch

        parts = torch.split(x, largest) if largest is not None else (x,)
        return torch.cat([filled(part) for part in parts]) if len(parts) > 1 else filled(parts[0])

    def filled(x: Tensor) -> Tensor:
        import torch

        short = smallest - len(x)
        if short <= 0:
            return forward(x)
        copies = x[-1:].detach().expand(short, *x.shape[1:])
        return forward(torch.cat([x, copies]))[: len(x)]

    return whole
