"""Deletion and insertion: how the target's score moves as features leave or join in the order an explanation gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.explainers._passes import rows_per_pass

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel, InputSpec
    from audit.rng import ExampleRng


def features_of(values: Tensor, spec: InputSpec) -> Tensor:
    """Attributions of what is removed in one piece, ``(N, F)``: a pixel across channels, else a single element."""
    image = spec.kind == "image" and len(spec.shape) == 3
    return values.double().sum(dim=1).flatten(1) if image else values.double().flatten(1)


def ranks_by(values: Tensor, rng: ExampleRng) -> Tensor:
    """Rank of each feature in descending order of `values` ``(N, F)``; ties in random order."""
    noise = rng.uniform((values.shape[1],)).to(values.device).argsort(dim=1)
    order = values.gather(1, noise).argsort(dim=1, descending=True, stable=True)
    return noise.gather(1, order).argsort(dim=1)


def random_ranks(features: int, orders: int, rng: ExampleRng) -> Tensor:
    """``(N, orders, F)`` ranks of random orders, the second half the reverse of the first.

    An order and its reverse together weigh every feature evenly: of a model that adds up its features they give the mean over
    all orders exactly. The reverse's deletion curve is also the order's insertion curve, so one set serves both.
    """
    import torch

    drawn = rng.uniform((orders // 2, features)).argsort(dim=2).argsort(dim=2)
    return torch.cat([drawn, features - 1 - drawn], dim=1)


def removal_counts(features: int, steps: int) -> Tensor:
    """How many features are gone at each point of a curve: 0 to all in about `steps` even parts, the same from either end."""
    import torch

    forward = {step * features // steps for step in range(steps + 1)}
    return torch.tensor(sorted(forward | {features - count for count in forward}))


@dataclass(frozen=True)
class Removal:
    """Scores of rows as features leave.

    Args:
        scores: ``(N, O, K)`` float64 score of the target under O orders at K points.
        share: ``(K,)`` share of the features that is gone, 0 to 1.
    """

    scores: Tensor
    share: Tensor

    def area(self) -> Tensor:
        """Area under each curve, ``(N, O)``."""
        import torch

        return torch.trapezoid(self.scores, self.share, dim=2)


def remove(
    model: AuditedModel, x: Tensor, replacement: Tensor, target: Tensor, ranks: Tensor, counts: Tensor
) -> Removal:
    """Score rows with their first `counts` features in the order of `ranks` replaced.

    Args:
        x: ``(N, *shape)``.
        replacement: ``(N, *shape)`` what stands in for absent features.
        target: ``(N,)`` int64.
        ranks: ``(N, O, F)``.
        counts: ``(K,)``, from 0 to F.
    """
    import torch

    n, orders, features = ranks.shape
    scores = torch.empty((n, orders, len(counts)), dtype=torch.float64)
    # Nothing gone and everything gone are the same in every order: asked once a row.
    scores[:, :, 0] = target_probability(model, x, target).cpu()[:, None]
    scores[:, :, -1] = target_probability(model, replacement, target).cpu()[:, None]
    between = counts[1:-1].to(ranks.device)
    flat = torch.empty(n * orders * len(between), dtype=torch.float64)
    rows = rows_per_pass(model, gradients=False)
    shape = x.shape[1:] if features == x[0].numel() else (1, *x.shape[2:])  # a pixel goes in all its channels
    for first in range(0, len(flat), rows):
        index = torch.arange(first, min(first + rows, len(flat)), device=ranks.device)
        row, order, point = index // (orders * len(between)), index // len(between) % orders, index % len(between)
        gone = (ranks[row, order] < between[point, None]).reshape(-1, *shape).to(x.device)
        mixed = torch.where(gone, replacement[row], x[row])
        flat[first : first + len(index)] = target_probability(model, mixed, target[row]).cpu()
    scores[:, :, 1:-1] = flat.reshape(n, orders, len(between))
    return Removal(scores, counts.double() / features)


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
