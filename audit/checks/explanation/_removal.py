"""Deletion and insertion: how the target's score moves as features leave or join in the order an explanation gives them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.explainers._passes import rows_per_pass

if TYPE_CHECKING:
    from torch import Tensor

    from audit.explainers import Attribution
    from audit.explainers._features import Features
    from audit.model import AuditedModel
    from audit.rng import ExampleRng


def ranks_by(values: Tensor, features: Features, rng: ExampleRng) -> Tensor:
    """Rank of each feature in descending order of its total of `values` ``(N, *shape)``, ``(N, F)``; ties in random order."""
    import torch

    known = features.known().to(values.device)
    totals = torch.where(known, features.total(values), -torch.inf)
    noise = _noise(features, rng).to(values.device).argsort(dim=1)
    order = totals.gather(1, noise).argsort(dim=1, descending=True, stable=True)
    return noise.gather(1, order).argsort(dim=1)


def random_ranks(features: Features, orders: int, rng: ExampleRng) -> Tensor:
    """``(N, orders, F)`` ranks of random orders, the second half the reverse of the first.

    An order and its reverse together weigh every feature evenly: of a model that adds up its features they give the mean over
    all orders exactly. The reverse's deletion curve is also the order's insertion curve, so one set serves both.
    """
    import torch

    drawn = _noise(features, rng, orders // 2).argsort(dim=2).argsort(dim=2)
    return torch.cat([drawn, reverse(drawn, features)], dim=1)


def dealt_ranks(found: Attribution, features: Features, orders: int, rng: ExampleRng) -> Tensor:
    """``(N, orders, F)`` ranks by the explanation's own values, dealt anew to its features; the second half the reverse of the first.

    What has more elements, a long word or a large segment, has a larger total under any map whose values are mostly of one sign,
    and often more to say as well: against random orders, a map that knows nothing would look faithful. Against its own values at
    random places it gains nothing.
    """
    import torch

    own = found.features if found.features is not None else _each_element(features)
    totals = own.total(found.values)
    drawn = []
    for _ in range(orders // 2):
        deal = _noise(own, rng).to(totals.device).argsort(dim=1)
        drawn.append(ranks_by(own.spread(totals.gather(1, deal)), features, rng))
    first = torch.stack(drawn, dim=1)
    return torch.cat([first, reverse(first, features)], dim=1)


def alike(found: Attribution, features: Features) -> bool:
    """Whether dealing an explanation's values anew puts the features in any order with the same chance: they are what has values,
    or all are of one size, and every element has a value of its own."""
    import torch

    if found.features is not None:
        same = found.features.unit == features.unit
        return same and torch.equal(found.features.number, features.number.to(found.features.number.device))
    if features.unit in ("word", "segment"):  # of one size by chance, if at all
        return False
    sizes = torch.bincount(features.number[0].flatten() + 1)[1:] if len(features.number) else features.count
    return bool((sizes == sizes[:1]).all())


def _each_element(features: Features) -> Features:
    """Every element of a feature by itself."""
    from audit.explainers._features import Features

    held = features.number.flatten(1) >= 0
    number = (held.long().cumsum(dim=1) - 1).masked_fill(~held, -1)
    return Features(number.reshape(features.number.shape), held.sum(dim=1), "element")


def reverse(ranks: Tensor, features: Features) -> Tensor:
    """Ranks ``(N, …, F)`` of the order read backwards; places without a feature stay behind all others."""
    import torch

    shape = (len(ranks), *[1] * (ranks.ndim - 2))
    backwards = features.count.to(ranks.device).reshape(*shape, 1) - 1 - ranks
    return torch.where(features.known().to(ranks.device).reshape(*shape, -1), backwards, ranks)


def _noise(features: Features, rng: ExampleRng, *draws: int) -> Tensor:
    """Uniform numbers ``(N, *draws, F)``, 1 where a row has no such feature.

    As many are drawn as a row has places: what a row gets must not hang on how many features its neighbours have.
    """
    import torch

    shape = features.number.shape[1:]
    places = math.prod(shape[-2:]) if features.unit in ("pixel", "patch", "segment") else math.prod(shape)
    drawn = rng.uniform((*draws, places))[..., : features.most]
    known = features.known().cpu().reshape(len(drawn), *[1] * len(draws), -1)
    return torch.where(known, drawn, 1.0)


def removal_counts(features: Features, steps: int) -> Tensor:
    """How many features of each row are gone at each point of a curve, ``(N, K)``.

    0 to all in about `steps` even parts, the same from either end; a row with few features stays at some of them for a while.
    """
    import torch

    step = torch.arange(steps + 1, device=features.count.device)
    forward = step * features.count[:, None] // steps
    counts = torch.cat([forward, features.count[:, None] - forward], dim=1).sort(dim=1).values
    moves = (counts.diff(dim=1) > 0).any(dim=0)
    return counts[:, torch.nn.functional.pad(moves, (1, 0), value=True)]


@dataclass(frozen=True)
class Removal:
    """Scores of rows as features leave.

    Args:
        scores: ``(N, O, K)`` float64 score of the target under O orders at K points.
        share: ``(N, K)`` share of the row's features that is gone, 0 to 1; 0 throughout where it has none.
    """

    scores: Tensor
    share: Tensor

    def area(self) -> Tensor:
        """Area under each curve, ``(N, O)``."""
        import torch

        return torch.trapezoid(self.scores, self.share[:, None], dim=2)


def remove(
    model: AuditedModel,
    x: Tensor,
    replacement: Tensor,
    target: Tensor,
    features: Features,
    ranks: Tensor,
    counts: Tensor,
) -> Removal:
    """Score rows with their first `counts` features in the order of `ranks` replaced.

    Args:
        x: ``(N, *shape)``.
        replacement: ``(N, *shape)`` what stands in for absent features.
        target: ``(N,)`` int64.
        ranks: ``(N, O, F)``.
        counts: ``(N, K)``, ascending from 0 to all of the row's features.
    """
    import torch

    counts = counts.to(ranks.device)
    whole = features.count.to(ranks.device)[:, None]
    scores = torch.empty((*ranks.shape[:2], counts.shape[1]), dtype=torch.float64)
    # Nothing gone and everything gone are the same in every order: asked once a row.
    scores[:, :, 0] = target_probability(model, x, target).cpu()[:, None]
    ends = (counts == whole) & (counts > 0)
    scores[:] = torch.where(
        ends.cpu()[:, None], target_probability(model, replacement, target).cpu()[:, None, None], scores
    )
    moves = torch.nn.functional.pad(counts.diff(dim=1) > 0, (1, 0))
    row_asked, point_asked = (moves & ~ends).nonzero(as_tuple=True)
    orders = ranks.shape[1]
    flat = torch.empty(len(row_asked) * orders, dtype=torch.float64)
    rows = rows_per_pass(model, gradients=False)
    for first in range(0, len(flat), rows):
        index = torch.arange(first, min(first + rows, len(flat)), device=ranks.device)
        row, point, order = row_asked[index // orders], point_asked[index // orders], index % orders
        kept = features.elements(ranks[row, order] >= counts[row, point, None], row).to(x.device)
        mixed = torch.where(kept, x[row], replacement[row])
        flat[first : first + len(index)] = target_probability(model, mixed, target[row]).cpu()
    scores[row_asked.cpu(), :, point_asked.cpu()] = flat.reshape(-1, orders)
    last_asked = torch.where(moves, torch.arange(counts.shape[1], device=counts.device), 0).cummax(dim=1).values
    scores = scores.gather(2, last_asked.cpu()[:, None].expand_as(scores))
    return Removal(scores, (counts.double() / whole.clamp_min(1)).cpu())


def target_probability(model: AuditedModel, x: Tensor, target: Tensor) -> Tensor:
    """Probability of the target class ``(N,)`` float64; 1 or 0 of a model that gives labels only, the value of a regression.

    Raises:
        NonFiniteOutput: the model answers NaN or infinite.
    """
    scores = model.scores(x)
    model.check_finite(scores)
    if model.task == "regression":
        return scores.reshape(len(x)).double()
    if model.output == "label":
        return (model.labels_of(scores) == target).double()
    return model.probabilities_of(scores).gather(1, target[:, None]).squeeze(1)
