"""Projected gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from audit.attacks import Attack, Candidates
from audit.attacks._gradients import frozen_parameters, label_and_gradient, require_ball
from audit.finding import Access, ThreatModel
from audit.model import Capability
from audit.parameters import Real

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


@dataclass(frozen=True)
class _Search:
    """The examples still searched, one row each; what leaves, leaves with all of it."""

    index: Tensor
    """Which row of the call it is."""
    x: Tensor
    visited: Tensor
    """``(N, t)`` int64 digests of the iterates that the model got right, `x` not among them."""
    clean: Tensor
    label: Tensor
    low: Tensor
    high: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def take(self, keep: Tensor) -> _Search:
        return _Search(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


class Pgd(Attack):
    """Projected gradient descent on the loss, with constant steps of the gradient's sign (linf) or direction (l2).

    An example leaves the batch as soon as it is misclassified, or once its iterate, bit for bit, is one that the model has got
    right before: the iteration is deterministic and would go round in that circle until the steps run out. On a small network under
    linf that saves two thirds of the passes and changes no outcome.

    Source: Madry et al. 2018, arXiv:1706.06083; margin loss: Carlini & Wagner 2017, arXiv:1608.04644.
    """

    access: ClassVar[Access] = "white_box"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.LOGITS})

    steps: int = Field(40, ge=1)
    """Gradient steps of each restart."""
    step_size: Real = Field(0.5, gt=0)
    """Length of a step as a share of eps, so that it keeps its meaning when eps is swept. On six networks for digits and on
    EfficientNet-lite0, half of eps left no more rows right than a quarter or 2.5/steps did, all in all, in fewer passes."""
    restarts: int = Field(1, ge=1)
    """Runs from different starting points; a later one takes on only what is still classified correctly."""
    random_start: bool = True
    """Start at a random point of the eps ball instead of at the input."""
    loss: Literal["ce", "margin"] = "ce"
    """``ce``: cross-entropy, its direction computed so that confident logits do not make it vanish; ``margin``: best other logit
    minus the label's."""

    @model_validator(mode="after")
    def _restarts_differ(self) -> Pgd:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts > 1 repeat the same run unless random_start is true")
        return self

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: the threat model has no eps, or a norm other than linf and l2.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        norm, eps = require_ball("pgd", self.norms, threat.norm, threat.eps)
        x, y = x.detach(), y.to(x.device)
        found = x.clone()
        queries, gradients, zeros = (torch.zeros(len(x), dtype=torch.int64, device=x.device) for _ in range(3))
        low, high = _box(x, norm, eps, threat.bounds)
        none = torch.zeros((len(x), 0), dtype=torch.int64, device=x.device)
        everything = _Search(torch.arange(len(x), device=x.device), x, none, x, y, low, high)
        digest = _Digest(x)
        undecided = torch.ones(len(x), dtype=torch.bool, device=x.device)
        with frozen_parameters(model):
            for _ in range(self.restarts):
                search = everything.take(undecided)
                if not len(search):
                    break
                search = self._start(search, norm, eps, rng.take(undecided.cpu()))
                for _ in range(self.steps):
                    wrong, gradient = label_and_gradient(model, search.x, search.label, self.loss)
                    queries[search.index] += 1
                    gradients[search.index] += 1
                    flat = (gradient == 0).flatten(1).all(dim=1)
                    zeros[search.index] += flat
                    self._record(search, wrong, found, undecided)
                    visited = torch.cat([search.visited, digest(search.x)], dim=1)
                    new = _step(search, gradient, norm, eps, self.step_size * eps)
                    repeats = flat | (visited == digest(new)).any(dim=1)
                    search = replace(search, x=new, visited=visited).take(~(wrong | repeats))
                    if not len(search):
                        break
                else:
                    queries[search.index] += 1
                    self._record(search, model.predict(search.x) != search.label, found, undecided)
        return Candidates(found, queries, gradients, zeros)

    def _start(self, search: _Search, norm: str, eps: float, rng: ExampleRng) -> _Search:
        """The first iterate of every example."""
        if not self.random_start:
            return search
        shape = tuple(search.clean.shape[1:])
        if norm == "linf":
            noise = rng.uniform(shape, -eps, eps)
        else:
            direction = rng.normal(shape)
            radius = eps * rng.uniform(()) ** (1 / max(1, direction[0].numel()))
            noise = direction * _per_row(radius / direction.flatten(1).norm(dim=1).clamp_min(1e-30), direction)
        noise = noise.to(search.clean)
        return replace(search, x=_clamp(search.clean + noise, search))

    @staticmethod
    def _record(search: _Search, wrong: Tensor, found: Tensor, undecided: Tensor) -> None:
        at = search.index[wrong]
        found[at] = search.x[wrong]
        undecided[at] = False


def _box(x: Tensor, norm: str, eps: float, bounds: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of every element, rounded inwards so that none is further than eps away."""
    import torch

    low, high = bounds if bounds is not None else (-torch.inf, torch.inf)
    if norm == "linf":
        least, most = x.double() - eps, x.double() + eps
        lowest, highest = least.to(x.dtype), most.to(x.dtype)
        lowest = torch.where(lowest.double() < least, lowest.nextafter(x), lowest)
        highest = torch.where(highest.double() > most, highest.nextafter(x), highest)
        return lowest.clamp_min(low), highest.clamp_max(high)
    return torch.full_like(x, low), torch.full_like(x, high)


def _clamp(x: Tensor, search: _Search) -> Tensor:
    import torch

    return torch.minimum(torch.maximum(x, search.low), search.high)


def _step(search: _Search, gradient: Tensor, norm: str, eps: float, length: float) -> Tensor:
    """One step up the loss, back into the ball and the box."""
    if norm == "linf":
        return _clamp(search.x + length * gradient.sign(), search)
    # What points out of the box takes no share of the step's length.
    blocked = ((search.x <= search.low) & (gradient < 0)) | ((search.x >= search.high) & (gradient > 0))
    gradient = gradient.masked_fill(blocked, 0.0)
    # Divided by the largest element first: squares of tiny or huge gradients leave the range of float32.
    gradient = gradient / _per_row(gradient.abs().flatten(1).amax(dim=1).clamp_min(1e-37), gradient)
    gradient = gradient / _per_row(gradient.flatten(1).norm(dim=1).clamp_min(1e-37), gradient)
    delta = search.x + length * gradient - search.clean
    size = delta.flatten(1).norm(dim=1)
    delta = delta * _per_row((eps / size.clamp_min(1e-37)).clamp_max(1.0), delta)
    # The box holds the clean input, so clamping to it only shortens the perturbation.
    return _clamp(search.clean + delta, search)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


class _Digest:
    """64 bits of each row's exact values: a sum over the bits of its elements with random odd weights, modulo 2**64."""

    def __init__(self, like: Tensor) -> None:
        import numpy as np
        import torch

        self._integer = torch.int64 if like.element_size() == 8 else torch.int32
        weights = np.random.default_rng(0).integers(-(2**62), 2**62, like[:1].numel()) | 1
        self._weights = torch.from_numpy(weights).to(like.device)

    def __call__(self, x: Tensor) -> Tensor:
        """``(N, 1)`` int64."""
        import torch

        bits = x.contiguous().flatten(1).view(self._integer).to(torch.int64)
        return (bits * self._weights).sum(dim=1, keepdim=True)
