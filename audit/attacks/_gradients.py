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
    """Cross-entropy of each row, ``(N,)``. Its gradient underflows to zero where the label leads by more than about 100."""
    from torch.nn import functional

    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best other logit minus the label's, ``(N,)``: positive where misclassified; its direction survives any scale of the logits.

    Source: Carlini & Wagner 2017, arXiv:1608.04644.
    """
    label = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -float("inf"))
    return others.amax(dim=1) - label.squeeze(1)


LOSSES = {"ce": cross_entropy, "margin": margin}


def label_and_gradient(model: AuditedModel, x: Tensor, y: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Which rows are misclassified ``(N,)`` and the loss gradient ``(N, *shape)``, from one forward pass, in micro-batches.

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
            total = LOSSES[loss](logits, label).sum()
            gradient = torch.autograd.grad(total, part, allow_unused=True)[0] if total.requires_grad else None
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
