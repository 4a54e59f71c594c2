"""Whether input gradients exist: an attack or map that follows them sees nothing where they are exactly zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel

ROWS = 8
"""Rows per backward pass: activations of a large net fit in memory."""


@dataclass(frozen=True)
class Gradients:
    """Counts over `n` rows.

    Args:
        zero_margin: rows where the margin (best score minus second best) has a gradient of exactly zero.
        zero_loss: rows where the cross-entropy of the label has.
        broken: rows whose gradient is NaN or infinite.
        connected: whether the scores depend on the input at all, as far as autograd knows.
    """

    n: int
    zero_margin: int
    zero_loss: int
    broken: int
    connected: bool


def count_zero(model: AuditedModel, x: Tensor, labels: Tensor) -> Gradients:
    """Input gradients of ``(N, *shape)`` rows in the space of `AuditedModel.logits`."""
    import torch
    from torch.nn.functional import cross_entropy

    margin = loss = broken = 0
    connected = True
    for part, target in zip(x.split(ROWS), labels.split(ROWS), strict=True):  # type: ignore[no-untyped-call]
        inputs = part.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            logits = model.logits(inputs)
            if not logits.requires_grad:
                return Gradients(len(x), len(x), len(x), 0, connected=False)
            best = logits.topk(2, dim=1).values
            of_margin, of_loss = (
                torch.autograd.grad(score, inputs, retain_graph=True, materialize_grads=True)[0].flatten(1)
                for score in ((best[:, 0] - best[:, 1]).sum(), cross_entropy(logits, target, reduction="sum"))
            )
        broken += int((~(of_margin.isfinite() & of_loss.isfinite())).any(dim=1).sum())
        margin += int((of_margin == 0).all(dim=1).sum())
        loss += int((of_loss == 0).all(dim=1).sum())
    return Gradients(len(x), margin, loss, broken, connected)
