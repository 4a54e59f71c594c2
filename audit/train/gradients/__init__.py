"""Per-example gradients, clipped and summed: one file per way to compute them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from audit.train.clipping import Clipping, layer_numbers, trained

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(outputs, y) → (N,)`` losses, one per example."""


@dataclass(frozen=True)
class ClippedSum:
    """One batch's part of a step.

    Args:
        gradients: sum over the examples of their clipped gradients, in the order of `audit.train.clipping.trained`.
        norms: ``(N,)`` of the gradients before clipping.
        losses: ``(N,)``.
    """

    gradients: tuple[Tensor, ...]
    norms: Tensor
    losses: Tensor


class GradientMode(ABC):
    """A way to compute per-example gradients.

    Args:
        module: as it is trained. A call leaves no `.grad` and no `.grad_sample` on it; hooks sleep between calls until `close`.
        loss: of outputs and labels, one per example.
    """

    name: ClassVar[str]
    rows: int | None = None
    """How many rows it takes at once within the memory that it was chosen for; None where nothing limits it."""
    remarks: tuple[str, ...] = ()
    """What choosing this way found, one line each: which others are wrong for this module, and why."""

    def __init__(self, module: nn.Module, loss: Loss, clipping: Clipping) -> None:
        self.module, self.loss, self.clipping = module, loss, clipping
        self.parameters = [parameter for _, parameter in trained(module)]
        self.layers = layer_numbers(module)

    @abstractmethod
    def clipped_sum(self, x: Tensor, y: Tensor) -> ClippedSum:
        """The clipped sum of a batch of one or more rows."""

    def close(self) -> None:  # noqa: B027  (most ways put nothing there)
        """Take off whatever was put on the module."""

    def nothing(self) -> ClippedSum:
        """The sum over an empty batch."""
        some = self.parameters[0]
        return ClippedSum(tuple(p.new_zeros(p.shape) for p in self.parameters), some.new_zeros(0), some.new_zeros(0))
