"""captum: gradients, gradients times inputs and integrated gradients of any score, in passes of bounded size.

captum gets a private copy of the inputs and a function, never a module: it hooks nothing, and what it marks as requiring
gradients is gone with the copy, whether the forward pass returns or raises.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from audit.bridges.global_generators import seeded

if TYPE_CHECKING:
    from torch import Tensor

Score = Callable[["Tensor", "Tensor"], "Tensor"]
"""``(inputs, target) → (N,)``, differentiable; `AuditedModel.target_score` is one."""


def saliency(score: Score, x: Tensor, target: Tensor, *, internal_batch: int, seed: int) -> Tensor:
    """Gradient of the target's score with respect to the input, signed, ``(N, *shape)``.

    Args:
        x: ``(N, *shape)`` inputs.
        target: ``(N,)`` int64.
        internal_batch: rows per pass.
        seed: for the global generators that a stochastic model draws from; they are restored.

    Source: Simonyan et al. 2013, arXiv:1312.6034.
    """
    from captum.attr import Saliency

    return _in_parts(partial(Saliency(score).attribute, abs=False), x, target, internal_batch, seed)


def input_x_gradient(score: Score, x: Tensor, target: Tensor, *, internal_batch: int, seed: int) -> Tensor:
    """Gradient of the target's score times the input, ``(N, *shape)``; arguments as those of `saliency`.

    Source: Shrikumar et al. 2016, arXiv:1605.01713.
    """
    from captum.attr import InputXGradient

    return _in_parts(InputXGradient(score).attribute, x, target, internal_batch, seed)


def _in_parts(attribute: Callable[..., Tensor], x: Tensor, target: Tensor, rows: int, seed: int) -> Tensor:
    import torch

    if not len(x):
        return torch.zeros_like(x)
    with seeded(seed):
        parts = [
            attribute(part.detach().clone().requires_grad_(), additional_forward_args=aim)
            for part, aim in zip(torch.split(x, rows), torch.split(target, rows), strict=True)
        ]
    return torch.cat(parts).detach()


def integrated_gradients(
    score: Score,
    x: Tensor,
    baseline: Tensor,
    target: Tensor,
    *,
    steps: int,
    method: Literal["gausslegendre", "riemann_middle"] = "gausslegendre",
    internal_batch: int,
    seed: int,
) -> Tensor:
    """Integrated gradients along the straight line from `baseline` to `x`, ``(N, *shape)``, as captum computes them.

    The reference for `audit.explainers.integrated_gradients`, which packs (example, step) pairs of different examples into one
    pass; captum needs every example of a call in each pass, so here the examples are split first.

    Args:
        x: ``(N, *shape)`` inputs.
        baseline: ``(N, *shape)``, or one row that broadcasts.
        target: ``(N,)`` int64.
        internal_batch: rows per pass.

    Source: Sundararajan et al. 2017, arXiv:1703.01365.
    """
    import torch
    from captum.attr import IntegratedGradients

    if not len(x):
        return torch.zeros_like(x)
    baseline = baseline.expand_as(x)
    with seeded(seed):
        parts = [
            IntegratedGradients(score).attribute(
                part.detach().clone(),
                origin.detach().clone(),
                additional_forward_args=aim,
                n_steps=steps,
                method=method,
                internal_batch_size=internal_batch,
            )
            for part, origin, aim in zip(
                *(torch.split(whole, internal_batch) for whole in (x, baseline, target)), strict=True
            )
        ]
    return torch.cat(parts).detach()
