"""Interval bound propagation: each layer's output within a box, from the box of its input.

Source: Gowal et al. 2018, arXiv:1810.12715; the ball's own norm at the first affine layer as in Wong & Kolter 2018, arXiv:1711.00851.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from audit.certificates._coefficients import Coefficients
from audit.certificates._layers import Affine, Given, Interval, Layer, Nonlinear
from audit.certificates._region import Region
from audit.certificates._rounding import DTYPE, own_rounding

_ELEMENTS = 2**21
"""Coefficients held at a time."""


class IntervalBounds:
    """Bounds of every layer over the region of every row.

    Args:
        layers: in an order in which each reads earlier ones; the first is the input, the last the answer.
        region: what the input may be.
    """

    def __init__(self, layers: Sequence[Layer], region: Region) -> None:
        self.layers, self.region = layers, region
        self.intervals: list[Interval] = []
        self._slack: dict[int, Tensor] = {}
        self._widest = max(layer.size for layer in layers)
        for i, layer in enumerate(layers):
            self._bound(i, layer)

    def _bound(self, i: int, layer: Layer) -> None:
        if isinstance(layer, Given):
            self.intervals.append(Interval(self.region.low, self.region.high))
            return
        inputs = [self.intervals[j] for j in layer.inputs]
        if isinstance(layer, Affine):
            self._slack[i] = layer.slack(inputs)
        self.intervals.append(layer.interval(inputs))
        if (wanted := self._to_refine(i)) is not None:
            self._refine(i, wanted)

    def _to_refine(self, i: int) -> Tensor | None:
        """Elements ``(B, *shape)`` whose bounds are carried back instead of forward; None where none are.

        Here those of the first layers before a nonlinear one, where the ball is no box: there the dual norm is exact.
        """
        if self.region.norm == "linf" or not self.feeds_nonlinear(i) or not self.linear_so_far(i):
            return None
        return torch.ones_like(self.intervals[i].low, dtype=torch.bool)

    def feeds_nonlinear(self, i: int) -> bool:
        """Whether a nonlinear layer reads this affine one."""
        return isinstance(self.layers[i], Affine) and any(
            isinstance(layer, Nonlinear) and i in layer.inputs for layer in self.layers
        )

    def linear_so_far(self, i: int) -> bool:
        """Whether nothing nonlinear lies between the input and this layer."""
        layer = self.layers[i]
        return not isinstance(layer, Nonlinear) and all(self.linear_so_far(j) for j in layer.inputs)

    def _refine(self, i: int, wanted: Tensor) -> None:
        old, size = self.intervals[i], self.layers[i].size
        low, high = old.low.flatten().clone(), old.high.flatten().clone()
        for flat in self.in_chunks(wanted.flatten().nonzero().flatten()):
            a = Coefficients.one_hot(self.layers[i].shape, flat // size, flat % size, DTYPE)
            low[flat] = torch.maximum(low[flat], self.lower(i, a))
            high[flat] = torch.minimum(high[flat], -self.lower(i, -a))
        self.intervals[i] = Interval(low.reshape(old.low.shape), high.reshape(old.high.shape))

    def in_chunks(self, pairs: Tensor) -> Iterator[Tensor]:
        """Index tensors short enough for the coefficients of the widest layer to fit."""
        yield from pairs.split(max(1, _ELEMENTS // self._widest)) if len(pairs) else ()  # type: ignore[no-untyped-call]

    def lower(self, i: int, a: Coefficients) -> Tensor:
        """Lower bound of ``a·output`` of layer `i`, ``(P,)``.

        Coefficients go back through affine layers; what is nonlinear is bounded by `_pass`.
        """
        total = a.data.new_zeros(len(a.data))
        pending = {i: a}
        for j in range(i, -1, -1):
            if j not in pending:
                continue
            a, layer = pending.pop(j), self.layers[j]
            if isinstance(layer, Affine):
                total += layer.constant(a)
                if layer.rounding:
                    total -= a.holding(a.data.abs()).dot(self._slack[j])
                for k, linear in zip(layer.inputs, layer.maps, strict=True):
                    _add(pending, k, linear.transpose(a))
            elif isinstance(layer, Nonlinear):
                total += self._pass(j, layer, a, pending)
            else:
                total += self.region.least(a)
        return total

    def _pass(self, j: int, layer: Nonlinear, a: Coefficients, pending: dict[int, Coefficients]) -> Tensor:
        """What ``a·output`` of a nonlinear layer adds to the bound; coefficients of its input go to `pending`."""
        box = self.intervals[j]
        least = a.holding(a.data.clamp_min(0.0)).dot(box.low) + a.holding(a.data.clamp_max(0.0)).dot(box.high)
        return least - own_rounding(layer.size) * a.holding(a.data.abs()).dot(box.largest)


def _add(pending: dict[int, Coefficients], k: int, a: Coefficients) -> None:
    pending[k] = pending[k] + a if k in pending else a
