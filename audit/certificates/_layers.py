"""A feed-forward network as certificates see it: layers that bound their output, and carry a linear bound back to their inputs."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from audit.certificates._coefficients import Coefficients
from audit.certificates._linear import LinearMap
from audit.certificates._rounding import UNDERFLOW, UNIT, gamma, own_rounding


@dataclass(frozen=True)
class Interval:
    """Elementwise bounds ``(B, *shape)`` of what a layer gives for each row."""

    low: Tensor
    high: Tensor

    @property
    def largest(self) -> Tensor:
        """Bound on the absolute value."""
        return torch.maximum(-self.low, self.high)

    def within(self, other: Interval) -> Interval:
        """Both at once."""
        return Interval(torch.maximum(self.low, other.low), torch.minimum(self.high, other.high))


@dataclass(frozen=True)
class Layer(ABC):
    """One step of the network.

    Args:
        name: as in the model, for messages.
        inputs: positions of the layers it reads.
        shape: of one row of its output.
    """

    name: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements of one row."""
        return int(torch.Size(self.shape).numel())

    @abstractmethod
    def interval(self, inputs: Sequence[Interval]) -> Interval:
        """Bounds of the output from bounds of the inputs."""


@dataclass(frozen=True)
class Given(Layer):
    """The network's input; its interval is the region's."""

    def interval(self, inputs: Sequence[Interval]) -> Interval:
        raise TypeError("the input has no inputs")


@dataclass(frozen=True)
class Affine(Layer):
    """``Σ maps(inputs) + offset``.

    Args:
        maps: one per input.
        unit: unit roundoff of the model's arithmetic.
        offset: broadcasts to `shape`; None where there is none.
        offset_size: ``>= |offset|``, and more where the offset is itself a sum of larger terms.
    """

    maps: tuple[LinearMap, ...]
    unit: float
    offset: Tensor | None = None
    offset_size: Tensor | None = None

    @property
    def mixes(self) -> bool:
        """Whether an element depends on several of the inputs."""
        return len(self.maps) > 1 or any(m.mixes for m in self.maps)

    @cached_property
    def rounding(self) -> float:
        """Slack per unit of ``|W| |h| + |b|``; 0 for a layer that only moves elements."""
        terms = sum(m.terms for m in self.maps) + (len(self.maps) - 1) + 2 * (self.offset is not None)
        # Carried back, the transposed map sums at most as many products as the output has elements.
        return gamma(terms, self.unit) + own_rounding(terms + self.size) if terms else 0.0

    def slack(self, inputs: Sequence[Interval]) -> Tensor:
        """Bound on the rounding of each element, ``(B, *shape)``."""
        size = self._sum([m.absolute(h.largest) for m, h in zip(self.maps, inputs, strict=True)])
        return self.rounding * ((size if self.offset_size is None else size + self.offset_size) + UNDERFLOW)

    def interval(self, inputs: Sequence[Interval]) -> Interval:
        if not self.rounding:
            (only,), (only_input,) = self.maps, inputs
            return Interval(only(only_input.low), only(only_input.high))
        centre = self._sum([m((h.low + h.high) / 2) for m, h in zip(self.maps, inputs, strict=True)])
        radius = self._sum([m.absolute((h.high - h.low) / 2) for m, h in zip(self.maps, inputs, strict=True)])
        centre = centre if self.offset is None else centre + self.offset
        radius = radius + self.slack(inputs)
        return Interval(centre - radius, centre + radius)

    def constant(self, a: Coefficients) -> Tensor:
        """``a·offset``, ``(P,)``."""
        return a.data.new_zeros(len(a.data)) if self.offset is None else a.dot(self.offset)

    @staticmethod
    def _sum(parts: Sequence[Tensor]) -> Tensor:
        return functools.reduce(torch.add, parts)


class Relaxation(ABC):
    """Linear bounds of a nonlinear layer's output within the interval of its input, for each row."""

    @abstractmethod
    def backward(self, a: Coefficients) -> tuple[Coefficients, Tensor]:
        """A lower bound of ``a·output`` that is linear in the input.

        Returns:
            Coefficients of the input, and constants ``(P,)``.
        """


@dataclass(frozen=True)
class Nonlinear(Layer):
    """A layer with one input, monotone in every element."""

    @abstractmethod
    def apply(self, h: Tensor) -> Tensor:
        """The layer itself, ``(N, *shape)``; exact in floating point."""

    @abstractmethod
    def relax(self, before: Interval) -> Relaxation:
        """Linear bounds within an interval of the input."""

    @abstractmethod
    def undecided(self, before: Interval) -> Tensor:
        """Which elements of the input a tighter interval would help, bool of the input's shape."""

    def interval(self, inputs: Sequence[Interval]) -> Interval:
        (before,) = inputs
        return Interval(self.apply(before.low), self.apply(before.high))


@dataclass(frozen=True)
class Relu(Nonlinear):
    """``max(0, h)``."""

    def apply(self, h: Tensor) -> Tensor:
        return h.clamp_min(0.0)

    def undecided(self, before: Interval) -> Tensor:
        return (before.low < 0) & (before.high > 0)

    def relax(self, before: Interval) -> Relaxation:
        return _ReluLines(before)


class _ReluLines(Relaxation):
    """Above, the chord over the interval; below, the identity or zero, whichever leaves the smaller triangle.

    Source: Zhang et al. 2018, arXiv:1811.00866, §3.3 (CROWN-Ada).
    """

    def __init__(self, before: Interval) -> None:
        low, high = before.low.clamp_max(0.0), before.high.clamp_min(0.0)
        self._lower = (high > -low).to(low.dtype)
        self._upper = high / (high - low).clamp_min(torch.finfo(low.dtype).tiny)
        # The chord must not sink below the corners when it is rounded.
        self._offset = -self._upper * low + 8 * UNIT * high

    def backward(self, a: Coefficients) -> tuple[Coefficients, Tensor]:
        below, above = a.data.clamp_min(0.0), a.data.clamp_max(0.0)
        slopes = below * a.at(self._lower) + above * a.at(self._upper)
        return a.holding(slopes), a.holding(above).dot(self._offset)


@dataclass(frozen=True)
class MaxPool(Nonlinear):
    """The largest of each window.

    Args:
        positions: ``(windows, elements)`` of the input's flattened channel; windows in the order of the output.
        inside: ``(windows, elements)`` bool; padding is never the largest.
        before: shape of one row of the input, channels first.
    """

    positions: Tensor
    inside: Tensor
    before: tuple[int, ...]

    def windows(self, h: Tensor, outside: float = -torch.inf) -> Tensor:
        """``(N, C, windows, elements)``."""
        found: Tensor = h.flatten(2)[:, :, self.positions]
        return found if bool(self.inside.all()) else found.masked_fill(~self.inside, outside)

    def apply(self, h: Tensor) -> Tensor:
        return self.windows(h).amax(dim=3).reshape(len(h), *self.shape)

    def undecided(self, before: Interval) -> Tensor:
        low, high = self.windows(before.low), self.windows(before.high)
        rival = high > low.amax(dim=3, keepdim=True)
        contested = rival & (rival.sum(dim=3, keepdim=True) > 1)
        return self.gathered(contested.to(before.low.dtype)) > 0

    def gathered(self, values: Tensor) -> Tensor:
        """The sum over the windows that hold each element of the input: ``(N, C, windows, elements)`` to ``(N, *before)``."""
        out = values.new_zeros(*values.shape[:2], int(torch.Size(self.before[1:]).numel()))
        values = values if bool(self.inside.all()) else values.masked_fill(~self.inside, 0.0)
        return out.index_add_(2, self.positions.flatten(), values.flatten(2)).reshape(len(values), *self.before)

    def relax(self, before: Interval) -> Relaxation:
        return _MaxPoolPlanes(self, before)


class _MaxPoolPlanes(Relaxation):
    """Above, a slope in the one element k that can be largest of all; below, the element whose interval has the highest centre.

    With γ at or above every lower bound and every upper bound but u_k, ``γ + (u_k - γ) / (u_k - l_k) · (h_k - l_k)`` bounds the maximum:
    every other element stays below γ, and h_k is met at both its ends. The smallest such γ gives the least value both at the centre
    of the box and in its far corner among all planes ``γ + Σ s_i (h_i - l_i)`` with ``s_i = max(0, u_i - γ) / (u_i - l_i)``, of which
    one is the usual choice (Boopathy et al. 2019, arXiv:1811.12395). Where one element is always the largest both planes are that
    element; the maximum of h and 0 gives CROWN's lines for ReLU.
    """

    def __init__(self, layer: MaxPool, before: Interval) -> None:
        low, high = layer.windows(before.low), layer.windows(before.high)
        top = high.argmax(dim=3, keepdim=True)
        most, least = high.gather(3, top), low.gather(3, top)
        others = high.scatter(3, top, -torch.inf).amax(dim=3, keepdim=True)
        height = torch.maximum(low.amax(dim=3, keepdim=True), others)
        slope = torch.where(most > height, (most - height) / (most - least), 0.0)
        self._layer = layer
        self._upper = torch.zeros_like(low).scatter_(3, top, slope)
        rounding = 8 * UNIT * (most.abs() + least.abs() + height.abs())  # the plane must not sink below the corners
        self._offset = (height - slope * least + rounding).squeeze(3)
        centre = torch.where(layer.inside, low + high, -torch.inf)
        self._lower = torch.zeros_like(low).scatter_(3, centre.argmax(dim=3, keepdim=True), 1.0)

    def backward(self, a: Coefficients) -> tuple[Coefficients, Tensor]:
        a = a.dense()
        below, above = a.data.clamp_min(0.0).flatten(2), a.data.clamp_max(0.0).flatten(2)
        constant = (above * self._offset[a.rows]).flatten(1).sum(dim=1)
        slopes = below[..., None] * self._lower[a.rows] + above[..., None] * self._upper[a.rows]
        return Coefficients(self._layer.gathered(slopes), self._layer.before, a.rows), constant
