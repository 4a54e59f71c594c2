"""Testing with concept activation vectors (TCAV): does a concept, given by examples, move the model's answer?

A concept's direction in a layer is the normal of a linear classifier between activations of its examples and of others. Its score for
a class is the share of that class's rows whose logit grows along the direction. Any direction has a score: only one that differs from
the scores of directions between random sets says anything.

The paper's test compares the scores of many directions of the concept with those of many random ones. All directions of a concept share
its examples, so the scores of any fixed set of rows repeat themselves and the test calls most of them significant. So a second one asks
whether the concept's mean sensitivity (the slope along its direction) would be one more among those of random directions.

Source: Kim et al. 2018, arXiv:1711.11279; single prediction: Student's t as in Crawford & Howell 1998, doi 10.1076/clin.12.4.482.7241.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel

_HELD_OUT = 3
"""One in so many examples of either side is kept from the fit, to see whether the direction tells them apart."""


def choose_layer(model: AuditedModel, x: Tensor, name: str | None) -> str:
    """The layer that concepts are looked for in: the one named, else the last convolution, else the last linear layer but one.

    Behind the last layers before the output every direction moves a class's logit the same way for all rows, so that scores are 0 or 1.

    Args:
        x: a row or more to run the model on.

    Raises:
        UserError: there is no layer of that name, or the model does not call it.
        NotApplicable: none named, and no layer to choose.
    """
    if model.module is None:
        raise NotApplicable(f"model '{model.name}' has no layers to look into")
    layers = dict(model.module.named_modules())
    if name is not None:
        if name not in layers:
            raise UserError(f"model '{model.name}' has no layer '{name}'; its layers: {', '.join(list(layers)[1:9])}")
        return name
    called: list[str] = []
    watched = {n: m for n, m in layers.items() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))}
    handles = [m.register_forward_hook(lambda *_, n=n: called.append(n)) for n, m in watched.items()]
    try:
        model.scores(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    convolutions = [n for n in called if not isinstance(layers[n], nn.Linear)]
    linear = [n for n in called if isinstance(layers[n], nn.Linear)]
    if convolutions:
        return convolutions[-1]
    if len(linear) > 1:
        return linear[-2]
    raise NotApplicable(
        f"model '{model.name}' calls no convolution and fewer than two linear layers: name a layer for its concepts"
    )


def activations(model: AuditedModel, x: Tensor, layer: str) -> Tensor:
    """What a layer gives for each row, flattened, ``(N, D)``.

    Raises:
        UserError: the model does not call the layer, or it gives no single tensor with one row per input.
    """

    def one(part: Tensor) -> Tensor:
        kept: list[Tensor] = []
        with _replaced(model, layer, lambda values: kept.append(values) or values):  # type: ignore[func-returns-value]
            model.scores(part)
        return _only(kept, layer, len(part)).flatten(1)

    return torch.cat(model.in_parts(x, one))


def slopes(model: AuditedModel, x: Tensor, target: int, layer: str) -> Tensor:
    """Gradient of a class's logit (of a regression, the value) by what a layer gives for each row, ``(N, D)``.

    Raises:
        UserError: as `activations`.
    """

    def one(part: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def leaf(values: Tensor) -> Tensor:
            kept.append(values.detach().requires_grad_())
            return kept[-1]

        with torch.enable_grad(), _replaced(model, layer, leaf):
            if model.task == "regression":
                score = model.target_score(part, torch.zeros(len(part), dtype=torch.int64, device=part.device))
            else:
                score = model.logits(part)[:, target]
            at = _only(kept, layer, len(part))
            (gradient,) = torch.autograd.grad(score.sum(), at, allow_unused=True)
        return torch.zeros_like(at).flatten(1) if gradient is None else gradient.flatten(1)

    return torch.cat(model.in_parts(x, one))


@contextmanager
def _replaced(model: AuditedModel, layer: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The layer gives what `change` makes of its output; the hook comes off again."""
    assert model.module is not None

    def hook(module: nn.Module, given: Any, gave: Any) -> Any:
        return change(gave) if isinstance(gave, torch.Tensor) else gave

    handle = dict(model.module.named_modules())[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _only(kept: Sequence[Tensor], layer: str, rows: int) -> Tensor:
    if not kept:
        raise UserError(f"the model does not call layer '{layer}', or it gives no tensor: name another")
    if len(kept) > 1 or len(kept[0]) != rows:
        raise UserError(f"layer '{layer}' is called more than once, or does not keep the batch first: name another")
    return kept[0]


@dataclass(frozen=True)
class Directions:
    """Concept activation vectors, one per pair of sets.

    Args:
        vectors: ``(R, D)`` unit vectors, from the second set to the first.
        accuracy: ``(R,)`` share of held-out examples on their own side, in the mean of both sides.
    """

    vectors: Tensor
    accuracy: Tensor


def directions(acts: Tensor, positives: Tensor, negatives: Tensor, ridge: float) -> Directions:
    """Linear classifiers by ridge regression on ±1 labels, all of them from one matrix of inner products.

    Args:
        acts: ``(T, D)`` activations of every example that any set holds.
        positives, negatives: ``(R, m)`` and ``(R, k)`` positions in `acts`, each set in random order; either side weighs the same.
        ridge: the penalty, relative to the mean squared length of a centred activation.
    """
    values = acts.double()
    values = values - values.mean(dim=0)
    products = values @ values.T
    sides = [
        (part[:, len(part[0]) // _HELD_OUT :], part[:, : len(part[0]) // _HELD_OUT]) for part in (positives, negatives)
    ]
    (fit, held), (fit_others, held_others) = sides
    rows = torch.cat([fit, fit_others], dim=1)
    count = rows.shape[1]
    share = torch.cat([torch.full((part.shape[1],), 0.5 / part.shape[1]) for part in (fit, fit_others)]).double()
    labels = torch.cat([torch.ones(fit.shape[1]), -torch.ones(fit_others.shape[1])]).double()
    # Centred by the weighted mean, so that the intercept is not penalised; the normal is then a sum over the examples.
    gram = products[rows[:, :, None], rows[:, None]]
    shift = gram @ share
    centred = gram - shift[:, :, None] - shift[:, None] + (shift @ share)[:, None, None]
    root = (share * count).sqrt()
    penalty = ridge * float(products.diagonal().mean()) or 1.0
    system = root[:, None] * centred * root + penalty * torch.eye(count, dtype=torch.float64)
    dual = root * torch.linalg.solve(system, (root * labels).expand(len(rows), -1))
    dual = dual - share * dual.sum(dim=1, keepdim=True)
    spread = torch.zeros((len(rows), len(values)), dtype=torch.float64).scatter_add_(1, rows, dual)
    vectors = spread @ values
    along = spread @ products
    middle = (along.gather(1, rows) * share).sum(dim=1, keepdim=True)
    right = [(along.gather(1, held) > middle).double(), (along.gather(1, held_others) < middle).double()]
    accuracy = torch.stack([part.mean(dim=1) for part in right]).mean(dim=0)
    return Directions(vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-300), accuracy)


def tcav_scores(slope: Tensor, vectors: Tensor) -> Tensor:
    """Share of rows whose logit grows along each direction, ``(R,)``.

    Args:
        slope: ``(N, D)`` as `slopes` gives it.
        vectors: ``(R, D)``.
    """
    return (slope.double() @ vectors.to(slope.device).double().T > 0).double().mean(dim=0).cpu()


def sensitivities(slope: Tensor, vectors: Tensor) -> Tensor:
    """How fast the logit grows along each direction, in the mean of all rows, ``(R,)``; arguments as of `tcav_scores`."""
    return (vectors.double() @ slope.double().mean(dim=0).cpu()).cpu()


def differ(first: Tensor, second: Tensor) -> float:
    """Two-sided p-value that the means of two samples are the same: Welch's t-test; of constants, 1 if equal, else 0.

    Args:
        first, second: ``(R,)`` scores of a concept's and of random directions.
    """
    from scipy.stats import ttest_ind_from_stats

    (mean, spread, n), (other, wide, m) = ((float(p.mean()), float(p.std()), len(p)) for p in (first, second))
    if max(spread, wide) < 1e-12:
        return 1.0 if abs(mean - other) < 1e-12 else 0.0
    return float(ttest_ind_from_stats(mean, spread, n, other, wide, m, equal_var=False).pvalue)


def stands_out(value: float, others: Tensor) -> float:
    """Two-sided p-value that a number is one more of a normal sample ``(R,)``: Student's t for a single prediction."""
    from scipy.special import stdtr

    spread = float(others.std()) * (1 + 1 / len(others)) ** 0.5
    away = abs(value - float(others.mean()))
    if spread < 1e-300:
        return 1.0 if away < 1e-300 else 0.0
    return float(2 * stdtr(len(others) - 1, -away / spread))
