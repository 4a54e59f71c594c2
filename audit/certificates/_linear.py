"""Linear maps as a certificate needs them: forward, with absolute coefficients, and transposed. None holds an offset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from audit.certificates._coefficients import Coefficients


class LinearMap(ABC):
    """A linear map from rows ``(N, *in)`` to rows ``(N, *out)``."""

    terms: int
    """Roundings behind one element of the output: products and sums, in any order."""
    mixes: bool = True
    """Whether an element of the output depends on several of the input."""

    @abstractmethod
    def __call__(self, h: Tensor) -> Tensor:
        """``W h``."""

    @abstractmethod
    def absolute(self, h: Tensor) -> Tensor:
        """``|W| h``."""

    @abstractmethod
    def transpose(self, a: Coefficients) -> Coefficients:
        """``Wᵀ a``: the same function, of the input."""


class Dense(LinearMap):
    """A matrix ``(out, in)`` on the last dimension."""

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._absolute = weight, weight.abs()
        self.terms = weight.shape[1]

    def __call__(self, h: Tensor) -> Tensor:
        return F.linear(h, self._weight)

    def absolute(self, h: Tensor) -> Tensor:
        return F.linear(h, self._absolute)

    def transpose(self, a: Coefficients) -> Coefficients:
        data = a.dense().data @ self._weight
        return Coefficients(data, tuple(data.shape[1:]), a.rows)


class Convolution(LinearMap):
    """A convolution in one to three dimensions, padded with zeros."""

    def __init__(self, weight: Tensor, shape: tuple[int, ...], **options: Any) -> None:
        self._weight, self._absolute, self._shape, self._options = weight, weight.abs(), shape, options
        self._convolve: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        self.terms = weight[0].numel()

    def __call__(self, h: Tensor) -> Tensor:
        return self._convolve(h, self._weight, **self._options)

    def absolute(self, h: Tensor) -> Tensor:
        return self._convolve(h, self._absolute, **self._options)

    def transpose(self, a: Coefficients) -> Coefficients:
        o = self._options
        if a.origin is None:
            return Coefficients(self._spread(a.data, self._shape, o["padding"]), self._shape, a.rows)
        widths = [
            (n - 1) * step + wide * (k - 1) + 1
            for n, step, wide, k in zip(
                a.data.shape[2:], o["stride"], o["dilation"], self._weight.shape[2:], strict=True
            )
        ]
        steps, margins = (torch.tensor(o[name], device=a.rows.device) for name in ("stride", "padding"))
        data = self._spread(a.data, (self._shape[0], *widths), (0,) * len(widths))
        return Coefficients(data, self._shape, a.rows, a.origin * steps - margins).trimmed()

    def _spread(self, a: Tensor, shape: tuple[int, ...], padding: Sequence[int]) -> Tensor:
        """The transposed convolution, to rows of a given shape."""
        o = self._options
        like = a.new_empty(()).expand(len(a), *shape)
        gradient: Tensor = torch.ops.aten.convolution_backward(
            a, like, self._weight, None, o["stride"], padding, o["dilation"], False, [0] * len(padding), o["groups"],
            (True, False, False),
        )[0]  # fmt: skip
        return gradient


class Scaling(LinearMap):
    """A factor for each element, broadcast over the batch."""

    mixes = False

    def __init__(self, factor: Tensor | float, terms: int = 4) -> None:
        self._factor = factor
        self.terms = terms  # of the factor itself, the product, and a division done as a product

    def __call__(self, h: Tensor) -> Tensor:
        return h * self._factor

    def absolute(self, h: Tensor) -> Tensor:
        return h * (self._factor.abs() if isinstance(self._factor, Tensor) else abs(self._factor))

    def transpose(self, a: Coefficients) -> Coefficients:
        if isinstance(self._factor, Tensor) and any(n > 1 for n in self._factor.shape[1:]):
            a = a.dense()
        return a.holding(self(a.data))


class Copy(LinearMap):
    """The input itself."""

    mixes = False
    terms = 0

    def __call__(self, h: Tensor) -> Tensor:
        return h

    absolute = __call__

    def transpose(self, a: Coefficients) -> Coefficients:
        return a


class Positive(LinearMap):
    """A linear map without negative coefficients, given as a function: an average, a new shape, a selection, zero padding.

    Args:
        function: ``(N, *in)`` → ``(N, *out)``.
        shape: ``in``.
        terms: how many elements of the input one of the output sums; 1 where it is a copy.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...], terms: int) -> None:
        self._function, self._shape = function, shape
        self.mixes = terms > 1
        self.terms = terms + 2 if terms > 1 else 0

    def __call__(self, h: Tensor) -> Tensor:
        return self._function(h)

    absolute = __call__

    def transpose(self, a: Coefficients) -> Coefficients:
        data = a.dense().data
        with torch.enable_grad():
            h = torch.zeros((len(data), *self._shape), dtype=data.dtype, device=data.device, requires_grad=True)
            (gradient,) = torch.autograd.grad(self._function(h), h, data)
        return Coefficients(gradient, self._shape, a.rows)


def window_positions(
    size: Sequence[int], out: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Where the windows of a pooling layer lie in one flattened channel.

    Args:
        size: of the input, without batch and channels; `out` that of the output.

    Returns:
        ``(windows, elements)`` int64 positions, and which of them are inside the input ``(windows, elements)``.
    """
    index, inside = torch.zeros((1, 1), dtype=torch.int64), torch.ones((1, 1), dtype=torch.bool)
    for d in range(len(size)):
        at = (torch.arange(out[d]) * stride[d] - padding[d])[:, None] + torch.arange(kernel[d]) * dilation[d]
        within = (at >= 0) & (at < size[d])
        at = at.clamp(0, size[d] - 1)
        index = (index[:, None, :, None] * size[d] + at[None, :, None, :]).reshape(len(index) * out[d], -1)
        inside = (inside[:, None, :, None] & within[None, :, None, :]).reshape(index.shape)
    return index, inside
