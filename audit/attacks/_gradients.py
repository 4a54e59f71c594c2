"""Gradients with respect to inputs only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel


@contextmanager
def frozen_parameters(model: AuditedModel) -> Iterator[None]:
    """Parameter gradients off while an attack runs; those that the caller had on come back, after an exception too."""
    trained = [p for p in model.module.parameters() if p.requires_grad] if model.module is not None else []
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Gradient of the cross-entropy by the logits, ``(N, C)``, up to a positive factor per row.

    The derivative is softmax minus one-hot; divided by 1 minus the label's probability it is the softmax of the other classes, with
    -1 at the label. Computed so it cannot underflow: in float32 the derivative itself loses its label's part as soon as the label leads
    by 17, which turns the attack away silently, and all of it at about 100.
    """
    return _without(logits, y).softmax(dim=1).scatter(1, y[:, None], -1.0)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Gradient of the best other logit minus the label's by the logits, ``(N, C)``.

    Source: Carlini & Wagner 2017, arXiv:1608.04644.
    """
    import torch

    best = _without(logits, y).argmax(dim=1, keepdim=True)
    return torch.zeros_like(logits).scatter(1, best, 1.0).scatter(1, y[:, None], -1.0)


def _without(logits: Tensor, y: Tensor) -> Tensor:
    """Logits with the label's own at minus infinity."""
    return logits.detach().scatter(1, y[:, None], -float("inf"))


LOSSES = {"ce": cross_entropy, "margin": margin}


def label_and_gradient(model: AuditedModel, x: Tensor, y: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Which rows are misclassified ``(N,)`` and the loss gradient ``(N, *shape)`` up to a positive factor per row, in micro-batches.

    Both come from one forward pass.

    NaN in the gradient becomes 0, infinity the largest float. A model that answers the same whatever it is fed has a zero gradient.

    Raises:
        NonFiniteOutput: the model answers NaN or infinite.
    """
    import torch

    wrong, gradients = [], []
    parts = zip(x.split(model.micro_batch), y.split(model.micro_batch), strict=True)  # type: ignore[no-untyped-call]
    for part, label in parts:
        with torch.enable_grad():
            part = part.detach().requires_grad_()
            logits = model.logits(part)
            model.check_finite(logits.detach())
            gradient = None
            if logits.requires_grad:
                (gradient,) = torch.autograd.grad(logits, part, LOSSES[loss](logits, label), allow_unused=True)
        wrong.append(logits.detach().argmax(dim=1) != label)
        if gradient is None:
            gradient = torch.zeros_like(part)
        gradients.append(gradient.nan_to_num(nan=0.0))
    return torch.cat(wrong), torch.cat(gradients)


def require_ball(attack: str, norms: frozenset[str], norm: str | None, eps: float | None) -> tuple[str, float]:
    """The norm and eps of a threat model, where the attack is defined for them.

    Raises:
        UserError: no eps, or a norm that the attack is not defined for.
    """
    if norm is None or norm not in norms:
        raise UserError(f"attack '{attack}' is defined for {' and '.join(sorted(norms))}, not for norm {norm}")
    if eps is None or not eps > 0:
        raise UserError(f"attack '{attack}' needs eps > 0, got {eps}")
    return norm, eps
