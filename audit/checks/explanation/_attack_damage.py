"""What a perturbation does through some of the features alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from audit.explainers._features import Features
    from audit.model import AuditedModel
    from audit.rng import ExampleRng


def damage_share(
    model: AuditedModel, x: Tensor, changed: Tensor, features: Features, chosen: Tensor, answers: tuple[Tensor, Tensor]
) -> Tensor:
    """Share of a perturbation's damage that is done when it is laid on some features alone, ``(N,)`` float64.

    Damage is what the lead of the first answer over the second loses, in the model's output space: all of it is 1. Features that
    only do harm together leave a share below, features that the others hold back one above that of their own part.

    Args:
        x: ``(N, *shape)``.
        changed: ``(N, *shape)``, answered otherwise.
        chosen: ``(N, most)`` bool features that are changed.
        answers: ``(N,)`` int64 class before and after.
    """
    import torch

    row = torch.arange(len(x), device=x.device)
    partly = torch.where(features.elements(chosen.to(x.device), row), changed, x)
    before, after, alone = (_lead(model, part, answers) for part in (x, changed, partly))
    tiny = torch.finfo(torch.float64).tiny
    return (before - alone) / (before - after).clamp_min(tiny)


def _lead(model: AuditedModel, x: Tensor, answers: tuple[Tensor, Tensor]) -> Tensor:
    scores = model.scores(x)
    first, second = (model.target_of(scores, answer).double() for answer in answers)
    return first - second


def first_of(size: Tensor, known: Tensor, k: Tensor) -> Tensor:
    """Which features are the `k` ``(N,)`` largest of each row of ``(N, F)``, bool; of equal ones the first."""
    import torch

    order = size.double().masked_fill(~known, -torch.inf).argsort(dim=1, descending=True, stable=True)
    place = torch.arange(size.shape[1], device=size.device).expand_as(order)
    return torch.zeros_like(known).scatter_(1, order, place < k[:, None]) & known


def at_random(known: Tensor, k: Tensor, sets: int, rng: ExampleRng) -> Iterator[Tensor]:
    """`sets` times `k` features of each row drawn evenly, ``(N, F)`` bool."""
    for _ in range(sets):
        yield first_of(rng.uniform((known.shape[1],)).to(known.device), known, k)
