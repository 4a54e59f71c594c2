"""Gradients with respect to inputs: what they can mean, and how they are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from audit.explainers._passes import rows_per_pass
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel

Score = Callable[["Tensor", "Tensor"], "Tensor"]
"""``(N, *shape)`` inputs and ``(N,)`` targets → ``(N,)`` scores, differentiable; `AuditedModel.target_score` is one."""


def refuse_codes(model: AuditedModel, explainer: str) -> None:
    """Refuse inputs that are codes of something: between two codes there is nothing to move through.

    Raises:
        UserError: a field is a category, text, tokens or an id.
    """
    codes = [field.name for field in model.spec.fields if field.kind in ("category", "text", "tokens", "id")]
    if codes:
        asked = "permutation_shap" if model.spec.kind == "text" else "shap_values"
        instead = asked if model.text is None else "layer_integrated_gradients"
        raise UserError(
            f"{explainer}: a gradient means nothing for the codes in {', '.join(codes[:5])} of model '{model.name}': use {instead}"
        )


def gradient(score: Score, x: Tensor, target: Tensor) -> Tensor:
    """Gradient of each row's score, ``(N, *shape)``, in one pass; 0 where the score does not depend on the input."""
    import torch

    with torch.enable_grad():
        at = x.detach().requires_grad_()
        answer = score(at, target).sum()
        if not answer.requires_grad:
            return torch.zeros_like(x)
        (found,) = torch.autograd.grad(answer, at, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def scores(model: AuditedModel, x: Tensor, target: Tensor) -> Tensor:
    """The target's score of each row, ``(N,)`` float64, without gradients.

    Raises:
        NonFiniteOutput: the model answers NaN or infinite.
    """
    import torch

    rows = rows_per_pass(model, gradients=False)
    with torch.no_grad():
        parts = [
            model.target_score(part, aim).double()
            for part, aim in zip(torch.split(x, rows), torch.split(target, rows), strict=True)
            if len(part)
        ]
    found = torch.cat(parts) if parts else x.new_zeros(0, dtype=torch.float64)
    model.check_finite(found)
    return found
