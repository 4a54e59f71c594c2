"""CROWN: linear bounds carried back through the network, each ReLU between two lines within its own interval.

Source: Zhang et al. 2018, arXiv:1811.00866; max-pooling after Boopathy et al. 2019, arXiv:1811.12395, with tighter planes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audit.certificates._coefficients import Coefficients
from audit.certificates._layers import Layer, Nonlinear, Relaxation
from audit.certificates._region import Region
from audit.certificates.interval import IntervalBounds


class CrownBounds(IntervalBounds):
    """As `IntervalBounds`, with linear bounds of nonlinear layers and with every interval that they depend on bounded the same way.

    An interval is the tighter of the two bounds; only elements whose sign, or rank in a window, the interval leaves open are carried
    back.
    """

    def __init__(self, layers: Sequence[Layer], region: Region) -> None:
        self._relaxed: dict[int, Relaxation] = {}
        super().__init__(layers, region)

    def _to_refine(self, i: int) -> Tensor | None:
        if not self.feeds_nonlinear(i) or (self.region.norm == "linf" and self._box_is_exact(i)):
            return None
        box = self.intervals[i]
        wanted = torch.zeros_like(box.low, dtype=torch.bool)
        for layer in self.layers:
            if isinstance(layer, Nonlinear) and i in layer.inputs:
                wanted |= layer.undecided(box)
        return wanted

    def _box_is_exact(self, i: int) -> bool:
        """Whether an element of the layer depends on the input through one sum alone: interval arithmetic is exact then."""
        return self.linear_so_far(i) and self._sums(i) <= 1

    def _sums(self, i: int) -> int:
        layer = self.layers[i]
        return max((self._sums(j) for j in layer.inputs), default=0) + int(getattr(layer, "mixes", False))

    def _pass(self, j: int, layer: Nonlinear, a: Coefficients, pending: dict[int, Coefficients]) -> Tensor:
        (k,) = layer.inputs
        if j not in self._relaxed:
            self._relaxed[j] = layer.relax(self.intervals[k])
        back, constant = self._relaxed[j].backward(a)
        pending[k] = pending[k] + back if k in pending else back
        return constant
