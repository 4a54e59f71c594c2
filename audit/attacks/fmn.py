"""Fast Minimum-Norm attack."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from audit.attacks import Attack, Candidates
from audit.attacks._ball import Ball
from audit.attacks._gradients import frozen_parameters, logits_and_gradient, margin
from audit.attacks._nearest import Nearest, box_of, length, logits_of, per_row, require_distance
from audit.finding import Access, ThreatModel
from audit.model import Capability
from audit.parameters import Real

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng

_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
LAST_STEP = 0.01
"""Length of the last step as a share of the first's."""
LAST_GAMMA = 0.001
TINY, HUGE = 1e-30, 1e30
"""Keep quotients and radii finite in float32."""


@dataclass(frozen=True)
class _Search:
    """One row per input."""

    example: Tensor
    x: Tensor
    radius: Tensor
    """Of the ball that the next iterate stays in."""
    unit: Tensor
    """Euclidean length of a step of 1."""

    def __len__(self) -> int:
        return len(self.example)

    def take(self, keep: Tensor) -> _Search:
        if bool(keep.all()):
            return self
        return _Search(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


class Fmn(Attack):
    """Gradient steps on the margin, each followed by a projection onto a ball whose radius shrinks while the iterate is misclassified
    and grows while it is not, so that it settles at the distance of the boundary.

    Until something is found the radius is the distance of the boundary as the gradient has it, and a little more: exactly that far, an
    iterate creeps up to the boundary and never crosses it where the model is linear. From then on the radius changes by a factor that is
    annealed with the length of the steps. One row forward and back per step, whatever the number of classes; there is no target and no
    random start.

    Source: Pintor et al. 2021, arXiv:2102.12827, without its optional start at an adversarial point; the walk back at the end is the
    final search of Croce & Hein 2020, arXiv:1907.02044.
    """

    access: ClassVar[Access] = "white_box"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.LOGITS})
    minimal: ClassVar[bool] = True

    steps: int = Field(100, ge=1)
    """Gradient steps."""
    step_size: Real = Field(1.0, gt=0)
    """Euclidean length of the first step as a share of the range of the input; without bounds, of the row's distance from the boundary
    as the first gradient has it. It falls along a cosine to a hundredth."""
    gamma: Real = Field(0.05, gt=0, lt=1)
    """By which share the radius first changes in a step; it falls along a cosine to .001."""
    final_search: int = Field(3, ge=0)
    """Steps back from the nearest example towards the input, at the end."""

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: a norm other than linf, l2 and l1.
            NonFiniteOutput: the model answers NaN or infinite.
        """

        norm = require_distance("fmn", self.norms, threat.norm, threat.eps)
        x, y = x.detach(), y.to(x.device)
        nearest = Nearest(x, y, norm, threat.eps, box_of(threat.bounds), threat.queries)
        low, high = nearest.box
        search = _Search(nearest.left(), x, x.new_full((len(x),), math.inf), x.new_full((len(x),), high - low))
        clean = x.new_zeros((len(x), len(model.classes)))
        with frozen_parameters(model):
            for step in range(self.steps):
                search = search.take(nearest.affordable(search.example))
                if not len(search):
                    break
                logits, gradient = _logits_and_slope(model, search.x, y[search.example])
                flat = nearest.followed(search.example, gradient)
                wrong = nearest.weigh(search.example, logits, search.x)
                lead = (margin(logits, y[search.example]) * logits).sum(dim=1)
                if step == 0:
                    clean[search.example] = logits
                    nearest.calibrate(search.example, logits)
                    first = lead.abs() / length(gradient, "l2").clamp_min(TINY)
                    search = replace(search, unit=search.unit.where(search.unit.isfinite(), first))
                # Without a gradient a point that is right stays where it is for ever.
                keep = ~nearest.fooled[search.example] & (wrong | ~flat)
                search = search.take(keep)
                if not len(search):
                    break
                search = self._step(nearest, search, step, lead[keep], gradient[keep], wrong[keep])
            else:
                search = search.take(nearest.affordable(search.example))
                nearest.asked(search.example)
                nearest.weigh(search.example, logits_of(model, search.x), search.x)
            nearest.walk_back(model, clean, self.final_search)
        return nearest.candidates()

    def _step(
        self, nearest: Nearest, search: _Search, step: int, lead: Tensor, gradient: Tensor, wrong: Tensor
    ) -> _Search:
        """A new radius, and the next iterate within it."""
        import torch

        annealed = (1 + math.cos(math.pi * step / self.steps)) / 2
        gamma = LAST_GAMMA + (self.gamma - LAST_GAMMA) * annealed
        share = self.step_size * (LAST_STEP + (1 - LAST_STEP) * annealed)
        clean, norm = nearest.clean[search.example], nearest.norm
        best = nearest.size[search.example].to(clean)
        away = lead.abs() / length(gradient, _DUAL[norm]).clamp_min(TINY)
        reached = search.radius.where(best.isfinite(), length(search.x - clean, norm) + away)
        radius = torch.where(wrong, (search.radius * (1 - gamma)).minimum(best), reached * (1 + gamma))
        low, high = nearest.box
        radius = radius.minimum(length(torch.maximum(clean - low, high - clean), norm)).clamp_max(HUGE)
        ball = _ball(clean, norm, radius, nearest.box)
        moved = replace(ball, norm="l2").ascend(search.x, gradient, per_row(share * search.unit, clean))
        return replace(search, x=ball.project(moved), radius=radius)


def _logits_and_slope(model: AuditedModel, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(N, C)`` and the gradient ``(N, *shape)`` of the best other logit minus the label's."""
    return logits_and_gradient(model, x, lambda logits, at: margin(logits, y[at]))


def _ball(clean: Tensor, norm: str, radius: Tensor, box: tuple[float, float]) -> Ball:
    """Balls with a radius ``(N,)`` each."""
    low, high = box
    eps = per_row(radius, clean)
    if norm == "linf":
        return Ball(norm, clean, eps, (clean - eps).clamp_min(low), (clean + eps).clamp_max(high))
    single = [1] * clean.dim()
    return Ball(norm, clean, eps, clean.new_full(single, low), clean.new_full(single, high))
