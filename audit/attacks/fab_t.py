"""Targeted Fast Adaptive Boundary attack."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from audit.attacks import Attack, Candidates
from audit.attacks._gradients import frozen_parameters, logits_and_gradient
from audit.attacks._hyperplane import to_hyperplane
from audit.attacks._nearest import Nearest, box_of, length, logits_of, per_row, require_distance
from audit.finding import Access, ThreatModel
from audit.model import Capability
from audit.parameters import Real

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


@dataclass(frozen=True)
class _Search:
    """One row per input and target; the rows of an input are neighbours and leave together."""

    example: Tensor
    target: Tensor
    x: Tensor

    def take(self, keep: Tensor) -> _Search:
        if bool(keep.all()):
            return self
        return _Search(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


class FabT(Attack):
    """Walks along the boundary to one class after the other, in the order of their logits at the input, and keeps the nearest example.

    Every step takes the boundary for the hyperplane that one gradient gives, projects the iterate and the input onto it inside the
    box, and mixes the two, the input's share growing as the iterate comes close. A misclassified iterate is kept if it is the nearest,
    and drawn back towards the input. The likeliest class is tried alone, the others side by side in one batch; with an eps an input
    leaves, with all its rows, when something within it is found.

    One pass a step tells label, logits and gradient, where the paper's code asks for the label apart: the hyperplane under an iterate
    that was drawn back is the one at the misclassified point itself, which lies closer to the boundary. On a plain and an
    adversarially trained network for digits the mean distance came out .0 to .9 % shorter, in linf, l2 and l1, in half the forward passes.

    Source: Croce & Hein 2020, arXiv:1907.02044; targeted version, defaults and place in AutoAttack: Croce & Hein 2020, arXiv:2003.01690.
    """

    access: ClassVar[Access] = "white_box"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.LOGITS})
    minimal: ClassVar[bool] = True

    steps: int = Field(100, ge=1)
    """Gradient steps towards each target."""
    targets: int = Field(9, ge=1)
    """Classes tried, the likeliest at the clean input first; fewer where the model knows fewer."""
    restarts: int = Field(1, ge=1)
    """Runs; the first starts at the input, each later one at a random point half as far away as eps or the nearest example found."""
    alpha_max: Real = Field(0.1, gt=0, le=1)
    """Largest share of the input's projection in a step."""
    eta: Real = Field(1.05, ge=1)
    """How far beyond the hyperplane a step goes, as a multiple of the way to it."""
    beta: Real = Field(0.9, gt=0, lt=1)
    """Share of its distance from the input that a misclassified iterate keeps."""
    final_search: int = Field(3, ge=0)
    """Steps back from the nearest example towards the input, at the end."""

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: a norm other than linf, l2 and l1.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        norm = require_distance("fab_t", self.norms, threat.norm, threat.eps)
        x, y = x.detach(), y.to(x.device)
        nearest = Nearest(x, y, norm, threat.eps, box_of(threat.bounds), threat.queries)
        if not len(x) or not bool(nearest.affordable(nearest.left()).all()):
            return nearest.candidates()
        with frozen_parameters(model):
            nearest.asked(nearest.left())
            clean = logits_of(model, x)
            nearest.calibrate(nearest.left(), clean)
            others = clean.scatter(1, y[:, None], -torch.inf)
            targets = others.topk(min(self.targets, clean.shape[1] - 1), dim=1).indices
            for run in range(self.restarts):
                start = x if run == 0 else _random_start(nearest, rng)
                for together in (targets[:, :1], targets[:, 1:]):
                    if not together.shape[1]:
                        continue
                    left = nearest.left()
                    if run:
                        left = left[(start[left] != x[left]).flatten(1).any(dim=1)]
                    # Which rows share a batch changes its size alone: they do not see each other.
                    for rows in left.split(max(1, model.micro_batch // together.shape[1])):  # type: ignore[no-untyped-call]
                        self._walk(model, nearest, rows, together[rows], start[rows])
            nearest.walk_back(model, clean, self.final_search)
        return nearest.candidates()

    def _walk(self, model: AuditedModel, nearest: Nearest, rows: Tensor, targets: Tensor, start: Tensor) -> None:
        """All steps towards the targets ``(n, T)`` of some rows."""
        copies = targets.shape[1]
        search = _Search(rows.repeat_interleave(copies), targets.flatten(), start.repeat_interleave(copies, dim=0))
        for _ in range(self.steps):
            search = search.take(nearest.affordable(search.example))
            if not len(search.example):
                return
            lead, logits, gradient = _linearised(model, nearest, search)
            flat = nearest.followed(search.example, gradient)
            wrong = nearest.weigh(search.example, logits, search.x)
            # Without a gradient a point that is right stays where it is for ever.
            keep = ~nearest.fooled[search.example] & (wrong | ~flat)
            search = search.take(keep)
            if not len(search.example):
                return
            search = replace(search, x=self._step(nearest, search, lead[keep], gradient[keep], wrong[keep]))
        search = search.take(nearest.affordable(search.example))
        if len(search.example):
            nearest.asked(search.example)
            nearest.weigh(search.example, logits_of(model, search.x), search.x)

    def _step(self, nearest: Nearest, search: _Search, lead: Tensor, gradient: Tensor, wrong: Tensor) -> Tensor:
        """The next iterates: between the projections of iterate and input onto the hyperplane where the target draws level."""
        import torch

        clean = nearest.clean[search.example].flatten(1)
        x, gradient = search.x.flatten(1), gradient.flatten(1)
        points = torch.stack([torch.where(wrong[:, None], clean + self.beta * (x - clean), x), clean])
        gaps = lead + (gradient * (points - x)).sum(dim=2)
        moves = to_hyperplane(points, gradient, gaps, nearest.norm, *nearest.box)
        near, far = length(moves.flatten(0, 1), nearest.norm).chunk(2)
        alpha = (near / (near + far).clamp_min(torch.finfo(near.dtype).tiny)).clamp_max(self.alpha_max)[:, None]
        ours, inputs = points + self.eta * moves
        mixed: Tensor = ours * (1 - alpha) + inputs * alpha
        return mixed.clamp(*nearest.box).reshape(search.x.shape)


def _linearised(model: AuditedModel, nearest: Nearest, search: _Search) -> tuple[Tensor, Tensor, Tensor]:
    """By how much the target leads the label ``(R,)``, the logits ``(R, C)``, and the gradient of the lead ``(R, *shape)``."""
    import torch

    label, target = nearest.y[search.example, None], search.target[:, None]

    def apart(logits: Tensor, at: Tensor) -> Tensor:
        return torch.zeros_like(logits).scatter(1, target[at], 1.0).scatter(1, label[at], -1.0)

    logits, gradient = logits_and_gradient(model, search.x, apart)
    return (logits.gather(1, target) - logits.gather(1, label)).squeeze(1), logits, gradient


def _random_start(nearest: Nearest, rng: ExampleRng) -> Tensor:
    """A point in a random direction, half as far away as eps or the nearest example known; the input where neither is."""
    import torch

    x = nearest.clean
    shape = tuple(x.shape[1:])
    direction = (rng.uniform(shape, -1.0, 1.0) if nearest.norm == "linf" else rng.normal(shape)).to(x)
    radius = nearest.size.clamp_max(nearest.eps if nearest.eps is not None else torch.inf) / 2
    factor = torch.where(radius.isfinite(), radius, 0.0).to(x) / length(direction, nearest.norm).clamp_min(1e-30)
    return (x + per_row(factor, x) * direction).clamp(*nearest.box)
