"""How much of each example's gradient may enter a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["flat", "per_layer", "automatic"]


@dataclass(frozen=True)
class Clipping:
    """The bound on one example's gradient.

    ``flat``: the whole gradient g becomes ``g · min(1, norm / |g|)`` (Abadi et al. 2016, arXiv:1607.00133). ``per_layer``: the same of
    each of L layers by itself with ``norm / √L``, so that the whole is within `norm` (McMahan et al. 2018, arXiv:1710.06963).
    ``automatic``: ``g · norm / (|g| + gamma)``, which has no threshold to tune (Bu et al. 2022, arXiv:2206.07136).

    Args:
        norm: largest norm C of one example's part of the sum, all layers together.
        gamma: of ``automatic``.
    """

    kind: Kind = "flat"
    norm: float = 1.0
    gamma: float = 0.01

    def factors(self, squares: Tensor) -> Tensor:
        """What each example's gradient is multiplied by, ``(L, N)`` or ``(1, N)``.

        Args:
            squares: ``(L, N)`` squared norm of each example's gradient of each layer.
        """
        if self.kind == "per_layer":
            return (self.norm / math.sqrt(len(squares)) / squares.sqrt()).clamp(
                max=1.0
            )  # a norm of 0 gives infinity, hence 1
        whole = squares.sum(dim=0, keepdim=True).sqrt()
        if self.kind == "automatic":
            return self.norm / (whole + self.gamma)
        return (self.norm / whole).clamp(max=1.0)


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are trained, by name, each once."""
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def layer_numbers(module: nn.Module) -> list[int]:
    """Layer of each trained parameter: those that one module owns together are one layer."""
    owners = [name.rpartition(".")[0] for name, _ in trained(module)]
    order = list(dict.fromkeys(owners))
    return [order.index(owner) for owner in owners]


def clipped(
    gradients: Sequence[Tensor], layers: Sequence[int], clipping: Clipping
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Sum over the examples of their clipped gradients, and the norms ``(N,)`` that they had.

    Args:
        gradients: per parameter ``(N, *shape)``.
        layers: layer of each parameter.
    """
    n = len(gradients[0])
    squares = gradients[0].new_zeros((max(layers) + 1, n))
    for layer, gradient in zip(layers, gradients, strict=True):
        squares[layer] += gradient.flatten(1).square().sum(dim=1)
    factors = clipping.factors(squares).expand_as(squares)
    sums = tuple(
        torch.tensordot(factors[layer], gradient, dims=1) for layer, gradient in zip(layers, gradients, strict=True)
    )
    return sums, squares.sum(dim=0).sqrt()
