"""One example after the other: slow, right for any module, and what every other way is proven against."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from audit.train.clipping import clipped
from audit.train.gradients import ClippedSum, GradientMode


class Loop(GradientMode):
    """A backward pass per example."""

    name: ClassVar[str] = "loop"

    def clipped_sum(self, x: Tensor, y: Tensor) -> ClippedSum:
        """See `GradientMode.clipped_sum`."""
        if not len(x):
            return self.nothing()
        total, norms, losses = self.nothing().gradients, [], []
        for i in range(len(x)):
            loss = self.loss(self.module(x[i : i + 1]), y[i : i + 1])
            gradients = torch.autograd.grad(loss.sum(), self.parameters, allow_unused=True)
            each = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, gradients, strict=True)]
            part, norm = clipped([g[None] for g in each], self.layers, self.clipping)
            total = tuple(a + b for a, b in zip(total, part, strict=True))
            norms.append(norm)
            losses.append(loss.detach().reshape(1))
        return ClippedSum(total, torch.cat(norms), torch.cat(losses))
