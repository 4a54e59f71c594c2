"""Ghost clipping by Opacus's hooks: the norms of the gradients without the gradients, then a weighted pass back."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from opacus.grad_sample import GradSampleHooksFastGradientClipping
from torch import Tensor

from audit.train.gradients import ClippedSum
from audit.train.gradients._opacus import Hooked, quiet


class Ghost(Hooked):
    """One pass forward, one back for the norms, and one back per bound: one in all, or one per layer if clipping is per layer.

    Norms of linear and embedding layers come from their inputs and output gradients alone; other layers' gradients are made one layer
    at a time and dropped.

    Source: Li et al. 2022, arXiv:2110.05679; Bu et al. 2022, arXiv:2205.10683.
    """

    name: ClassVar[str] = "ghost"
    _again = True

    def _attach(self) -> Any:
        return GradSampleHooksFastGradientClipping(self.module, loss_reduction="sum")

    def clipped_sum(self, x: Tensor, y: Tensor) -> ClippedSum:
        """See `GradientMode.clipped_sum`."""
        if not len(x):
            return self.nothing()
        losses = self._losses(x, y)
        squares = losses.new_zeros((max(self.layers) + 1, len(x)))
        for layer, norm in zip(self.layers, self._found("_norm_sample"), strict=True):
            if norm is not None:
                squares[layer] += norm.square()
        factors = self.clipping.factors(squares)
        sums = [torch.zeros_like(p) for p in self.parameters]
        for bound, weights in enumerate(factors):
            places = [i for i, layer in enumerate(self.layers) if len(factors) == 1 or layer == bound]
            with quiet():
                got = torch.autograd.grad(
                    losses @ weights,
                    [self.parameters[i] for i in places],
                    retain_graph=bound + 1 < len(factors),
                    allow_unused=True,
                )
            for i, gradient in zip(places, got, strict=True):
                if gradient is not None:
                    sums[i] = gradient
        return ClippedSum(tuple(sums), squares.sum(dim=0).sqrt(), losses.detach())
