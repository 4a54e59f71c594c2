"""Where an input may go: the ball of eps around it, within the box. Projection, steepest ascent, random start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from audit.rng import ExampleRng


@dataclass(frozen=True)
class Ball:
    """For every row, the inputs within eps of its center and inside the box. The box holds the center.

    Args:
        norm: linf, l2 or l1.
        center: ``(N, *shape)`` the clean inputs.
        eps: ``(N, 1, …)`` radius of every row, in the units of the input.
        low: lowest value of every element, of the center's shape under linf (where it is the ball as well), else ``(1, 1, …)``.
        high: highest value, likewise.
    """

    norm: str
    center: Tensor
    eps: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, x: Tensor, norm: str, eps: float, bounds: tuple[float, float] | None) -> Ball:
        """The balls of one radius around ``(N, *shape)`` inputs; no bounds, no box."""
        import torch

        low, high = bounds if bounds is not None else (-torch.inf, torch.inf)
        single = [1] * x.dim()
        radius = x.new_full((len(x), *single[1:]), eps)
        if norm != "linf":
            return cls(norm, x, radius, x.new_full(single, low), x.new_full(single, high))
        # Rounded inwards, so that no element is further than eps away, not by a rounding either.
        least, most = x.double() - eps, x.double() + eps
        lowest, highest = least.to(x.dtype), most.to(x.dtype)
        lowest = torch.where(lowest.double() < least, lowest.nextafter(x), lowest)
        highest = torch.where(highest.double() > most, highest.nextafter(x), highest)
        return cls(norm, x, radius, lowest.clamp_min(low), highest.clamp_max(high))

    def __len__(self) -> int:
        return len(self.center)

    def take(self, rows: Tensor) -> Ball:
        """The balls at a mask or at positions; a position may come more than once."""
        aligned = self.norm == "linf"
        return Ball(
            self.norm,
            self.center[rows],
            self.eps[rows],
            self.low[rows] if aligned else self.low,
            self.high[rows] if aligned else self.high,
        )

    def joined(self, other: Ball) -> Ball:
        """These balls and then the other's, of the same norm and box."""
        import torch

        center, eps = torch.cat([self.center, other.center]), torch.cat([self.eps, other.eps])
        if self.norm != "linf":
            return replace(self, center=center, eps=eps)
        return Ball(self.norm, center, eps, torch.cat([self.low, other.low]), torch.cat([self.high, other.high]))

    def project(self, x: Tensor) -> Tensor:
        """The nearest inputs, in the Euclidean sense, within ball and box, ``(N, *shape)``."""
        if self.norm == "l2":
            x = self.center + _within_l2(x - self.center, *self._room(x), self.eps)
        elif self.norm == "l1":
            x = self.center + _within_l1(x - self.center, *self._room(x), self.eps)
        # Under linf this is all there is to do, otherwise it takes back roundings.
        return x.clamp(self.low, self.high)

    def ascend(self, x: Tensor, gradient: Tensor, length: Tensor | float) -> Tensor:
        """A step in the direction of steepest ascent for the norm that does not leave the box where it need not; to be projected.

        linf: the gradient's sign. l2: the gradient, without the elements that the box blocks. l1: all of it on the element with the
        largest slope, and what the box has no room for on the next (Croce & Hein 2021, proposition 3.1).

        Args:
            length: of the step in the norm, one number or ``(N, 1, …)``.
        """
        if self.norm == "linf":
            return x + length * gradient.sign()
        if self.norm == "l2":
            blocked = ((x <= self.low) & (gradient < 0)) | ((x >= self.high) & (gradient > 0))
            return x + length * _direction(gradient.masked_fill(blocked, 0.0))
        return x + self._filled(x, gradient, length)

    def ascend_sparsely(self, x: Tensor, gradient: Tensor, length: Tensor, count: Tensor) -> Tensor:
        """An l1 step shared evenly among the `count` ``(N,)`` elements with the largest slopes; to be projected.

        Source: Croce & Hein 2021, arXiv:2103.01208, section 3.2.
        """
        slope = gradient.flatten(1).abs()
        last = slope.sort(dim=1, descending=True).values.gather(1, (count.clamp(1, slope.shape[1]) - 1)[:, None])
        sign = gradient.sign() * (slope >= last).reshape(gradient.shape)
        moved = _per_row(sign.flatten(1).abs().sum(dim=1).clamp_min(1.0), gradient)
        return x + length * sign / moved

    def furthest(self, gradient: Tensor) -> Tensor:
        """The input within ball and box where a linear function with this gradient is largest, ``(N, *shape)``."""
        import torch

        if self.norm == "linf":
            up = torch.where(gradient > 0, self.high, self.center)
            return torch.where(gradient < 0, self.low, up)
        if self.norm == "l1":
            return self.project(self.center + self._filled(self.center, gradient, self.eps))
        direction = _direction(gradient)
        scale = direction.abs().masked_fill(direction == 0, 1.0).flatten(1).amin(dim=1)
        # Projecting a point far out along the gradient; far enough for every element to reach eps, or its bound.
        far = self.eps / _per_row(scale.clamp_min(1e-6), gradient)
        return self.project(self.center + far * direction)

    def start(self, rng: ExampleRng, copies: int = 1) -> Tensor:
        """A random input of every ball, ``(N, *shape)``.

        linf and l2: uniform in the ball. l1: Gaussian noise as wide as the box, projected, which leaves few elements changed
        (Croce & Hein 2021). Then brought into the box.

        Args:
            rng: one stream per example.
            copies: neighbouring rows that are starts of one example.
        """
        shape = (copies, *self.center.shape[1:])
        if self.norm == "linf":
            noise = self.eps * self._drawn(rng.uniform(shape, -1.0, 1.0))
        elif self.norm == "l2":
            direction = self._drawn(rng.normal(shape))
            share = rng.uniform((copies,)).flatten().to(direction) ** (1 / max(1, direction[:1].numel()))
            noise = self.eps * _per_row(share / _length(direction), direction) * direction
        else:
            width = (self.high - self.low).where((self.high - self.low).isfinite(), self.eps)
            noise = width * self._drawn(rng.normal(shape))
        return self.project(self.center + noise)

    def _drawn(self, numbers: Tensor) -> Tensor:
        """``(examples, copies, *shape)`` as ``(N, *shape)`` like the center."""
        return numbers.flatten(0, 1).to(self.center)

    def _room(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """How far down and up each element may go from the center, in the box."""
        return self.center - self.low, self.high - self.center

    def _filled(self, x: Tensor, gradient: Tensor, length: Tensor | float) -> Tensor:
        """An l1 step: elements in order of their slopes, each as far as the box allows, until the length is used up."""
        import torch

        room = torch.where(gradient > 0, self.high - x, x - self.low).masked_fill(gradient == 0, 0.0).flatten(1)
        order = gradient.flatten(1).abs().argsort(dim=1, descending=True, stable=True)
        room = room.gather(1, order)
        spent = torch.cat([torch.zeros_like(room[:, :1]), room.cumsum(dim=1)[:, :-1]], dim=1)
        left = (length.flatten(1) if isinstance(length, torch.Tensor) else length) - spent
        moved = torch.minimum(left.clamp_min(0.0), room)
        return torch.zeros_like(room).scatter(1, order, moved).reshape(x.shape) * gradient.sign()


def _within_l2(delta: Tensor, down: Tensor, up: Tensor, eps: Tensor) -> Tensor:
    """The nearest of the perturbations that are at most eps long and leave ``-down <= delta <= up``.

    It is the perturbation scaled, then clipped. The scale grows step by step as more elements meet their bound, each step exact for
    those that have; it never overshoots, and once no element is added it is the answer.
    """
    import torch

    # Divided by eps first: squares of tiny or huge numbers leave the range of float32.
    size = (delta / eps).abs().flatten(1)
    room = torch.where(delta > 0, up, down).expand_as(delta) / eps
    room = room.flatten(1)
    scale = 1 / size.norm(dim=1, keepdim=True).clamp_min(1.0)
    blocked = scale * size > room
    while bool(blocked.any()):
        left = (1 - room.masked_fill(~blocked, 0.0).square().sum(dim=1, keepdim=True)).clamp_min(0.0)
        free = size.masked_fill(blocked, 0.0).norm(dim=1, keepdim=True)
        scale = torch.maximum(scale, (left.sqrt() / free.clamp_min(1e-30)).clamp_max(1.0))
        new = scale * size > room
        if torch.equal(new, blocked):
            break
        blocked = new
    return torch.minimum(scale * size, room).reshape(delta.shape) * delta.sign() * eps


def _within_l1(delta: Tensor, down: Tensor, up: Tensor, eps: Tensor) -> Tensor:
    """The nearest of the perturbations with l1 norm at most eps that leave ``-down <= delta <= up``.

    Every element gives up the same amount, then is clipped. The norm that is left falls piecewise linearly with that amount; between
    its sorted kinks, in float64, the amount is solved for.

    Source: Croce & Hein 2021, arXiv:2103.01208, proposition 2.1.
    """
    import torch

    size = delta.abs().flatten(1).double()
    room = torch.where(delta > 0, up, down).expand_as(delta).flatten(1).double()
    kinks, order = torch.cat([(size - room).clamp_min(0.0), size], dim=1).sort(dim=1)
    # From the first kink on, an element's share falls; from the second on it is 0.
    slope = torch.where(order < size.shape[1], -1.0, 1.0).cumsum(dim=1)[:, :-1]
    fall = (slope * kinks.diff(dim=1)).cumsum(dim=1)
    norms = torch.minimum(size, room).sum(dim=1, keepdim=True) + torch.cat([torch.zeros_like(fall[:, :1]), fall], dim=1)
    goal = eps.flatten(1).double()
    # The last kink where more than eps is left; where there is none, nothing is given up.
    at = (norms > goal).sum(dim=1, keepdim=True) - 1
    first = at.clamp(0, slope.shape[1] - 1)
    amount = kinks.gather(1, first) + (norms.gather(1, first) - goal) / -slope.gather(1, first).clamp_max(-1.0)
    amount = amount.where(at >= 0, 0.0)
    kept = torch.minimum((size - amount).clamp_min(0.0), room)
    return (kept.reshape(delta.shape) * delta.sign()).to(delta.dtype)


def _direction(gradient: Tensor) -> Tensor:
    """Each row divided by its l2 norm."""
    # By the largest element first: squares of tiny or huge gradients leave the range of float32.
    gradient = gradient / _per_row(gradient.abs().flatten(1).amax(dim=1).clamp_min(1e-37), gradient)
    return gradient / _per_row(_length(gradient), gradient)


def _length(x: Tensor) -> Tensor:
    length: Tensor = x.flatten(1).norm(dim=1).clamp_min(1e-30)
    return length


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """``(N,)`` as ``(N, 1, …)``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
