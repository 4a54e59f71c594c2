"""Coefficients of a linear bound on one layer's output: of the whole layer, or of the window that a neuron behind it sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coefficients:
    """One linear function of a layer's output for each of P pairs of a row and what is bounded.

    A neuron of a convolution depends on a small window of each layer before it; all else is zero and need not be held.

    Args:
        data: ``(P, *shape)``, or ``(P, C, *window)`` where there is an origin. Zero where a window reaches over the edge.
        shape: of one row of the layer's output.
        rows: ``(P,)`` which row of the batch each pair speaks of.
        origin: ``(P, d)`` int64 where in the layer each window begins; it may begin before it.
    """

    data: Tensor
    shape: tuple[int, ...]
    rows: Tensor
    origin: Tensor | None = None

    @staticmethod
    def one_hot(shape: tuple[int, ...], rows: Tensor, element: Tensor, dtype: torch.dtype) -> Coefficients:
        """1 at one element of each row, counted through the flattened layer: a window of one place where the layer has places."""
        places = int(torch.Size(shape[1:]).numel())
        data = torch.zeros((len(rows), shape[0]), dtype=dtype, device=rows.device)
        data.scatter_(1, (element // places)[:, None], 1.0)
        if len(shape) == 1:
            return Coefficients(data, shape, rows)
        origin = torch.stack(torch.unravel_index(element % places, shape[1:]), dim=1)
        return Coefficients(data.reshape(*data.shape, *[1] * (len(shape) - 1)), shape, rows, origin)

    def __neg__(self) -> Coefficients:
        return self.holding(-self.data)

    def __add__(self, other: Coefficients) -> Coefficients:
        if self.origin is not None and other.origin is not None and self.data.shape == other.data.shape:
            same: Tensor = (self.origin == other.origin).all()
            if bool(same):
                return self.holding(self.data + other.data)
        whole = self.dense()
        return whole.holding(whole.data + other.dense().data)

    def holding(self, data: Tensor) -> Coefficients:
        """Other coefficients of the same elements."""
        return replace(self, data=data)

    def at(self, values: Tensor) -> Tensor:
        """A layer's values ``(B, *shape)`` at the elements of `data`, each pair's from its own row; any value beyond the edge."""
        if self.origin is None:
            return values[self.rows]
        places, _ = self._places()
        values = values.flatten(2)
        channels = torch.arange(self.shape[0], device=places.device)
        index = (self.rows[:, None] * self.shape[0] + channels)[:, :, None] * values.shape[2] + places[:, None, :]
        return values.reshape(-1)[index].reshape(self.data.shape)

    def dot(self, values: Tensor) -> Tensor:
        """``Σ data · values`` of each pair ``(P,)``; `values` is ``(B, *shape)``, or broadcasts to `shape` and holds for every row."""
        if values.dim() > len(self.shape):
            values = self.at(values)
        elif self.origin is not None and any(n > 1 for n in values.shape[1:]):
            values = replace(self, rows=torch.zeros_like(self.rows)).at(values.expand(self.shape)[None])
        return (self.data * values).flatten(1).sum(dim=1)

    def dense(self) -> Coefficients:
        """The same, of the whole layer."""
        if self.origin is None:
            return self
        places, inside = self._places()
        size = int(torch.Size(self.shape[1:]).numel())
        whole = self.data.new_zeros((len(self.data), self.shape[0], size))
        part = self.data.flatten(2) * inside[:, None, :]
        whole.scatter_add_(2, places[:, None, :].expand(part.shape), part)
        return Coefficients(whole.reshape(len(whole), *self.shape), self.shape, self.rows)

    def trimmed(self) -> Coefficients:
        """Zero beyond the edge; the whole layer where the window is no smaller."""
        if self.origin is None:
            return self
        if self.data[0].numel() >= int(torch.Size(self.shape).numel()):
            return self.dense()
        _, inside = self._places()
        return self.holding(self.data * inside.reshape(len(inside), 1, *self.data.shape[2:]))

    def _places(self) -> tuple[Tensor, Tensor]:
        """Flattened place of each element of a window, clamped to the layer, and whether it lies inside: ``(P, window)``."""
        assert self.origin is not None
        place = torch.zeros((len(self.origin), 1), dtype=torch.int64, device=self.origin.device)
        inside = torch.ones_like(place, dtype=torch.bool)
        for d, (width, size) in enumerate(zip(self.data.shape[2:], self.shape[1:], strict=True)):
            along = self.origin[:, d, None] + torch.arange(width, device=place.device)
            within = (along >= 0) & (along < size)
            place = (place[:, :, None] * size + along.clamp(0, size - 1)[:, None, :]).flatten(1)
            inside = (inside[:, :, None] & within[:, None, :]).flatten(1)
        return place, inside
