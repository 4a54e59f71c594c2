"""A protected value exchanged for that of the most similar rows with another one: a counterfactual that could be a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel


@dataclass(frozen=True)
class Matched:
    """Rows like each row in all but the protected columns.

    Args:
        donor: ``(N, K)`` int64 the K most similar pool rows with another protected value.
        known: ``(N, K)`` bool: there is one.
        stretch: how much further the nearest of them is than the nearest row whatever its value (median ratio).
    """

    donor: Tensor
    known: Tensor
    stretch: float


def match(model: AuditedModel, x: Tensor, pool: Tensor, columns: Sequence[int], neighbours: int) -> Matched:
    """Find them by Euclidean distance over the other columns: standard deviations of numbers, 1 for another category.

    Args:
        x: ``(N, F)``; rows that also stand in the pool never match themselves.
        pool: ``(M, F)``.
    """
    import torch

    own, others = _coordinates(model, x, pool, columns)
    distance = torch.cdist(own, others)
    different = differing(x, pool, columns)
    itself = (x[:, None] == pool[None]).logical_or(x[:, None].isnan() & pool[None].isnan()).all(dim=2)
    to_any = distance.masked_fill(itself, torch.inf).amin(dim=1)
    away = distance.masked_fill(~different, torch.inf)
    nearest = away.topk(min(neighbours, len(pool)), dim=1, largest=False, sorted=True)
    ratio = (nearest.values[:, 0] / to_any.clamp_min(1e-9))[nearest.values[:, 0].isfinite() & (to_any > 0)]
    return Matched(
        donor=nearest.indices,
        known=nearest.values.isfinite(),
        stretch=float(ratio.median()) if len(ratio) else 1.0,
    )


def effect(
    model: AuditedModel, x: Tensor, target: Tensor, pool: Tensor, matched: Matched, columns: Sequence[int]
) -> Tensor:
    """Mean change of each row's score when it takes the protected values of its matches, ``(N,)`` float64; 0 without a match."""
    import torch

    row, place = matched.known.nonzero(as_tuple=True)
    swapped = x[row]
    swapped[:, list(columns)] = pool[matched.donor[row, place]][:, list(columns)]
    with torch.no_grad():
        parts = torch.split(swapped, model.micro_batch), torch.split(target[row], model.micro_batch)
        now = [model.target_score(part, aim).double() for part, aim in zip(*parts, strict=True)]
        own = [
            model.target_score(part, aim).double()
            for part, aim in zip(torch.split(x, model.micro_batch), torch.split(target, model.micro_batch), strict=True)
        ]
    before = torch.cat(own)
    model.check_finite(before)
    total = torch.zeros_like(before)
    if len(row):
        after = torch.cat(now)
        model.check_finite(after)
        total.index_add_(0, row, before[row] - after)
    return (total / matched.known.sum(dim=1).clamp_min(1)).cpu()


def differing(x: Tensor, others: Tensor, columns: Sequence[int]) -> Tensor:
    """Which of other rows ``(M, F)`` differ from each row ``(N, F)`` in some of the columns, ``(N, M)`` bool."""
    first, second = x[:, None, list(columns)], others[None][..., list(columns)]
    found: Tensor = ((first != second) & ~(first.isnan() & second.isnan())).any(dim=2)
    return found


def _coordinates(model: AuditedModel, x: Tensor, pool: Tensor, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows as points whose distance counts each other column alike; missing numbers stand at the mean."""
    import torch

    parts: list[tuple[Tensor, Tensor]] = []
    for column in set(range(x.shape[1])) - set(columns):
        own, others = x[:, column].double(), pool[:, column].double()
        if model.spec.tabular and model.spec.fields[column].kind == "category":
            codes = torch.unique(others[~others.isnan()])
            # One of two coordinates changes by 1/√2 each: another category is 1 away.
            parts.append(((own[:, None] == codes) / 2**0.5, (others[:, None] == codes) / 2**0.5))
        else:
            known = others[~others.isnan()]
            center, scale = known.mean(), known.std().clamp_min(1e-12)
            if len(known) > 1 and bool((known != known[0]).any()):
                parts.append(tuple(((part - center) / scale).nan_to_num(0.0)[:, None] for part in (own, others)))  # type: ignore[arg-type]
    if not parts:
        return torch.zeros((len(x), 1)).double(), torch.zeros((len(pool), 1)).double()
    own_parts, pool_parts = zip(*parts, strict=True)
    return torch.cat(own_parts, dim=1).double(), torch.cat(pool_parts, dim=1).double()
