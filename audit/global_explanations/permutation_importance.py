"""Permutation importance: what a model loses when a column is torn from its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel

Score = Literal["accuracy", "log_loss", "r2"]

_ROWS = 8192
"""Rows laid out in memory at once."""


@dataclass(frozen=True)
class PermutationImportance:
    """What permuting each feature costs.

    Args:
        value: ``(F,)`` float64 mean loss with the feature permuted, less the loss as it is.
        repeats: ``(F, R)`` the same by each permutation.
        influence: ``(F, N)`` each row's part in it, as the row whose answer changes and as the one whose value is given away; its
            mean is `value`, its standard error that of `value`.
    """

    value: Tensor
    repeats: Tensor
    influence: Tensor


def donors(keys: Tensor, cells: Tensor | None = None) -> Tensor:
    """From which row each row takes its value: every row gives once, and none keeps its own where its cell holds another.

    The rows of a cell stand in a circle in the order of their keys, and each takes from the next. So every other row of the cell is
    as likely as any, which makes the importance a U-statistic over pairs of rows: with permutations that may leave rows where they
    are it is a share 1/N too small.

    Args:
        keys: ``(R, N)`` random numbers.
        cells: ``(N,)`` int64 rows that may exchange values with one another; None lets all.

    Returns:
        ``(R, N)`` int64.

    Source: Fisher, Rudin & Dominici 2019, arXiv:1801.01489, section 3.2 (pairs i ≠ j).
    """
    import torch

    order = keys.argsort(dim=1, stable=True)
    n = keys.shape[1]
    following = torch.arange(1, n + 1, device=keys.device)
    if cells is None:
        following[-1:] = 0
    else:
        order = order.gather(1, cells[order].argsort(dim=1, stable=True))
        sizes = torch.unique(cells, return_counts=True)[1]
        stops = sizes.cumsum(dim=0)
        following[stops - 1] = stops - sizes
    return torch.empty_like(order).scatter_(1, order, order[:, following])


def permutation_importance(
    model: AuditedModel,
    x: Tensor,
    labels: Tensor,
    answers: Tensor,
    features: Sequence[Sequence[int]],
    taken_from: Sequence[Tensor],
    score: Score,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PermutationImportance:
    """Loss of each feature: the drop in accuracy or R², or the rise in log-loss, when rows take it from other rows.

    Only rows whose value really changes are asked again.

    Args:
        x: ``(N, F)`` inputs.
        labels: ``(N,)`` class indices, or values of a regression.
        answers: the model's scores of `x`.
        features: columns that are permuted together, a list per feature.
        taken_from: for each feature ``(R, N)`` the row that each takes its value from, a permutation per repeat (`donors`).
        score: ``accuracy``, ``log_loss`` (floored at the smallest relative step of a float64), ``r2``.

    Raises:
        UserError: fewer than two rows.
        NotApplicable: R² of labels that are all equal, or a score that the model's answers do not have.
        NonFiniteOutput: the model answers NaN or infinite.

    Source: Breiman 2001, doi 10.1023/A:1010933404324; standard error by Hájek's projection of the U-statistic (Hoeffding 1948,
    doi 10.1214/aoms/1177730196), a little too large by what few repeats add.
    """
    import torch

    if len(x) < 2:
        raise UserError("permutation importance needs two rows or more")
    spread = _spread(labels, score)
    intact = row_losses(model, answers, labels, score).cpu() / spread
    value, repeats, influence = [], [], []
    for number, (columns, source) in enumerate(zip(features, taken_from, strict=True)):
        cost = _cost(model, x, labels, intact, list(columns), source, score, spread)
        mean = cost.mean()
        given = torch.zeros_like(cost).scatter_(1, source.cpu(), cost)
        rows = cost.mean(dim=0) + given.mean(dim=0) - mean
        if score == "r2":  # the variance that R² divides by is an estimate, too
            deviation = (labels.double().cpu() - labels.double().mean().cpu()) ** 2 / spread
            rows = rows - mean * (deviation - 1)
        value.append(mean)
        repeats.append(cost.mean(dim=1))
        influence.append(rows)
        progress(number + 1, len(features))
    return PermutationImportance(torch.stack(value), torch.stack(repeats), torch.stack(influence))


def row_losses(model: AuditedModel, scores: Tensor, labels: Tensor, score: Score) -> Tensor:
    """Loss of each row ``(N,)`` float64: 1 where the class is wrong, the negative logarithm of the label's probability, or the
    squared error."""
    import torch

    if score == "accuracy":
        return (model.labels_of(scores) != labels).double()
    model.check_finite(scores)
    if score == "r2":
        return (scores.reshape(len(labels)).double() - labels.double()) ** 2
    if model.output == "label":
        raise NotApplicable(f"model '{model.name}' gives labels, and a log-loss needs probabilities: score by accuracy")
    told = model.probabilities_of(scores).gather(1, labels[:, None].long()).squeeze(1)
    return -told.clamp(torch.finfo(torch.float64).eps, 1.0).log()


def _spread(labels: Tensor, score: Score) -> float:
    """Variance of the labels for R², else 1."""
    if score != "r2":
        return 1.0
    variance = float(labels.double().var(correction=0))
    if variance == 0:
        raise NotApplicable("every label is the same: R² is not defined")
    return variance


def _cost(
    model: AuditedModel,
    x: Tensor,
    labels: Tensor,
    intact: Tensor,
    columns: list[int],
    source: Tensor,
    score: Score,
    spread: float,
) -> Tensor:
    """``(R, N)`` float64 loss of each row with other rows' values in `columns`, less its loss as it is."""
    import torch

    own, other = x[:, columns], x[:, columns][source]
    moved = ~((other == own) | (other.isnan() & own.isnan())).all(dim=2)
    repeat, row = moved.nonzero(as_tuple=True)
    cost = torch.zeros(source.shape, dtype=torch.float64)
    for first in range(0, len(row), _ROWS):
        part = slice(first, first + _ROWS)
        mixed = x[row[part]]
        mixed[:, columns] = other[repeat[part], row[part]]
        lost = row_losses(model, model.scores(mixed), labels[row[part]], score).cpu() / spread
        at = row[part].cpu()
        cost[repeat[part].cpu(), at] = lost - intact[at]
    return cost
