"""Per-example gradients by Opacus's hooks: each layer's, from its input and the gradient of its output."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor

from audit.train.clipping import clipped
from audit.train.gradients import ClippedSum
from audit.train.gradients._opacus import Hooked


class Hooks(Hooked):
    """One pass forward and back; holds the gradients of all examples at once.

    Source: Yousefpour et al. 2021, arXiv:2109.12298.
    """

    name: ClassVar[str] = "hooks"

    def _attach(self) -> Any:
        return GradSampleHooks(self.module, loss_reduction="sum")

    def clipped_sum(self, x: Tensor, y: Tensor) -> ClippedSum:
        """See `GradientMode.clipped_sum`."""
        if not len(x):
            return self.nothing()
        losses = self._losses(x, y).detach()
        gradients = [
            p.new_zeros((len(x), *p.shape)) if g is None else g
            for p, g in zip(self.parameters, self._found("grad_sample"), strict=True)
        ]
        with torch.no_grad():
            sums, norms = clipped(gradients, self.layers, self.clipping)
        return ClippedSum(sums, norms, losses)
