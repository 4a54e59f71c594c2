"""What a gradient attack climbs: for every row a value to compare and its slope by the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from audit.attacks import _gradients

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor", "Tensor", "Tensor"], tuple["Tensor", "Tensor"]]
"""Logits ``(N, C)``, labels and targets ``(N,)`` → a value ``(N,)`` that rises with the loss, and its derivative by the logits
``(N, C)`` up to a positive factor per row. An attack that follows directions and compares values of one row needs no more."""


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy, as the log-odds against the label.

    The cross-entropy is softplus of these log-odds, so both order inputs alike and point the same way; but in float32 it is 0 as
    soon as the label leads by some 100, where its changes can no longer be compared, and the log-odds are not.
    """
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -float("inf")).logsumexp(dim=1)
    return others - own.squeeze(1), _gradients.cross_entropy(logits, y)


def margin(logits: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Best other logit minus the label's. Source: Carlini & Wagner 2017, arXiv:1608.04644."""
    slope = _gradients.margin(logits, y)
    return (slope * logits).sum(dim=1), slope


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The target's logit minus the label's."""
    slope = _combination(logits, (target, 1.0), (y, -1.0))
    return (slope * logits).sum(dim=1), slope


def dlr(logits: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Difference of logits ratio: minus the label's lead over the best other, by the distance from first to third logit.

    Neither a shift nor a factor on the logits changes it. Three classes at least.

    Source: Croce & Hein 2020, arXiv:2003.01690, equation 6.
    """
    (first, second, third), (top, runner, last) = _largest(logits, 3)
    ahead = top == y
    rival = runner.where(ahead, top)
    lead = logits.gather(1, y[:, None]).squeeze(1) - second.where(ahead, first)
    spread = first - third + 1e-12
    ratio = lead / spread
    # Times the spread, which is positive.
    return -ratio, _combination(logits, (y, -1.0), (rival, 1.0), (top, ratio), (last, -ratio))


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the label's lead over the target, by the distance from the first logit to the middle of third and fourth. Four classes at least.

    Source: Croce & Hein 2020, arXiv:2003.01690, equation 7.
    """
    (first, _, third, fourth), (top, _, third_at, fourth_at) = _largest(logits, 4)
    lead = (logits.gather(1, y[:, None]) - logits.gather(1, target[:, None])).squeeze(1)
    ratio = lead / (first - (third + fourth) / 2 + 1e-12)
    half = -ratio / 2
    return -ratio, _combination(logits, (y, -1.0), (target, 1.0), (top, ratio), (third_at, half), (fourth_at, half))


def _largest(logits: Tensor, count: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The largest logits of every row in falling order, and their classes."""
    values, classes = logits.topk(count, dim=1)
    return values.unbind(1), classes.unbind(1)


def _combination(logits: Tensor, *terms: tuple[Tensor, Tensor | float]) -> Tensor:
    """Coefficients ``(N, C)`` of a sum of logits, given as classes ``(N,)`` and their factors."""
    import torch

    classes = torch.stack([at for at, _ in terms], dim=1)
    factors = torch.stack([torch.as_tensor(f).to(logits).expand(len(logits)) for _, f in terms], dim=1)
    return torch.zeros_like(logits).scatter_add(1, classes, factors)
