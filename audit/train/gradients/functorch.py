"""Per-example gradients by `torch.func`: the gradient of one example, vectorised over the batch."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from audit.train.clipping import clipped, trained
from audit.train.gradients import ClippedSum, GradientMode


class Functorch(GradientMode):
    """The module as a function of its parameters and one row, mapped over rows; every row is a batch of one inside.

    So it is right where parameters are broadcast over the batch, and where a layer would read the batch's size.
    """

    name: ClassVar[str] = "functorch"

    def clipped_sum(self, x: Tensor, y: Tensor) -> ClippedSum:
        """See `GradientMode.clipped_sum`."""
        if not len(x):
            return self.nothing()
        names = [name for name, _ in trained(self.module)]
        moving = {name: p.detach() for name, p in trained(self.module)}
        fixed = {name: p.detach() for name, p in self.module.named_parameters() if name not in moving}
        fixed |= dict(self.module.named_buffers())

        def one(parameters: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
            answer = functional_call(self.module, {**fixed, **parameters}, (row[None],))
            return self.loss(answer, label[None]).sum()

        with sdpa_kernel(SDPBackend.MATH):  # the fused attentions cannot be vectorised: they would run row by row
            gradients, losses = vmap(grad_and_value(one), in_dims=(None, 0, 0), randomness="different")(moving, x, y)
        with torch.no_grad():
            sums, norms = clipped([gradients[name] for name in names], self.layers, self.clipping)
        return ClippedSum(sums, norms, losses.detach())
