"""Gradients with respect to inputs only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from audit.names import installed, offered
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


Slope = Callable[["Tensor", "Tensor"], "Tensor"]
"""Logits ``(N, C)`` and labels ``(N,)`` → a loss's derivative by the logits ``(N, C)``, up to a positive factor per row."""
LOSSES: dict[str, Slope] = {"ce": cross_entropy, "margin": margin}


def require_loss(name: str) -> str:
    """The name, where a loss answers to it: ``ce``, ``margin``, or an installed package's entry point of ``audit.losses``.

    Raises:
        UserError: none does.
    """
    known = sorted([*LOSSES, *offered("losses")])
    if name not in known:
        raise UserError(
            f"there is no loss '{name}'; known: {', '.join(known)}; a package may offer more as entry points of audit.losses"
        )
    return name


def slope_of(loss: str) -> Slope:
    """A loss by name.

    An entry point is a function of logits ``(N, C)`` and labels ``(N,)`` that gives one number per row, ``(N,)``, larger the nearer
    the row is to what the attacker wants; differentiated here.
    """
    if loss in LOSSES:
        return LOSSES[loss]
    value = installed("losses", require_loss(loss))

    def slope(logits: Tensor, y: Tensor) -> Tensor:
        import torch

        with torch.enable_grad():
            at = logits.detach().requires_grad_()
            (found,) = torch.autograd.grad(value(at, y).sum(), at)
        return found

    return slope


def logits_and_gradient(
    model: AuditedModel, x: Tensor, cotangent: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits ``(N, C)`` and the gradient of a loss by the inputs ``(N, *shape)``, from one forward pass, in micro-batches.

    NaN in the gradient becomes 0, infinity the largest float. A model that answers the same whatever it is fed has a zero gradient.

    Args:
        cotangent: logits ``(n, C)`` and the positions ``(n,)`` of their rows in `x` → the loss's derivative by the logits, ``(n, C)``.

    Raises:
        NonFiniteOutput: the model answers NaN or infinite.
    """
    import torch

    def one(positions: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            part = x[positions].detach().requires_grad_()
            logits = model.logits(part)
            model.check_finite(logits.detach())
            gradient = None
            if logits.requires_grad:
                (gradient,) = torch.autograd.grad(
                    logits, part, cotangent(logits.detach(), positions), allow_unused=True
                )
        return logits.detach(), torch.zeros_like(part) if gradient is None else gradient.nan_to_num(nan=0.0)

    answers = model.in_parts(torch.arange(len(x), device=x.device), one)
    if not answers:
        return x.new_zeros((0, len(model.classes))), torch.zeros_like(x)
    return torch.cat([logits for logits, _ in answers]), torch.cat([gradient for _, gradient in answers])


def label_and_gradient(model: AuditedModel, x: Tensor, y: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Which rows are misclassified ``(N,)`` and the loss gradient ``(N, *shape)`` up to a positive factor per row."""
    slope = slope_of(loss)
    logits, gradient = logits_and_gradient(model, x, lambda logits, at: slope(logits, y[at]))
    return logits.argmax(dim=1) != y, gradient


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
