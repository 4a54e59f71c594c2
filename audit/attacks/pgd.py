"""Projected gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator, model_validator

from audit.attacks import Attack, Candidates
from audit.attacks._ball import Ball
from audit.attacks._gradients import frozen_parameters, label_and_gradient, require_ball, require_loss
from audit.attacks._tally import Tally
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

    example: Tensor
    """Which row of the call it is."""
    label: Tensor
    ball: Ball
    x: Tensor
    velocity: Tensor
    """Sum of the past gradients, each of l1 norm 1, fading by the momentum."""
    visited: Tensor
    """``(N, t)`` int64 digests of the iterates that the model got right, `x` not among them."""

    def __len__(self) -> int:
        return len(self.example)

    def take(self, keep: Tensor) -> _Search:
        return _Search(
            self.example[keep],
            self.label[keep],
            self.ball.take(keep),
            self.x[keep],
            self.velocity[keep],
            self.visited[keep],
        )


class Pgd(Attack):
    """Projected gradient descent on the loss: steps of constant length in the direction of steepest ascent.

    That is the gradient's sign (linf), the gradient (l2), or the elements with the largest slopes (l1). An example leaves the batch as
    soon as it is misclassified, or once its iterate, bit for bit, is one that the model has got right before: without momentum the
    iteration would go round in that circle until the steps run out. On a small network under linf that saves two thirds of the
    passes and changes no outcome.

    Source: Madry et al. 2018, arXiv:1706.06083; margin loss: Carlini & Wagner 2017, arXiv:1608.04644; momentum: Dong et al. 2018, arXiv:1710.06081.
    """

    access: ClassVar[Access] = "white_box"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.LOGITS})

    steps: int = Field(40, ge=1)
    """Gradient steps of each restart."""
    step_size: Real = Field(0.5, gt=0)
    """Length of a step as a share of eps, so that it keeps its meaning when eps is swept. On six networks for digits and on
    EfficientNet-lite0, half of eps left no more rows right than a quarter or 2.5/steps did, all in all, in fewer passes."""
    momentum: Real = Field(0.0, ge=0)
    """Share of the gathered direction that stays from step to step (MI-FGSM; its paper takes 1). 0: the gradient alone."""
    restarts: int = Field(1, ge=1)
    """Runs from different starting points; a later one takes on only what is still classified correctly."""
    random_start: bool = True
    """Start at a random point of the eps ball instead of at the input."""
    loss: str = "ce"
    """``ce``: cross-entropy, its direction computed so that confident logits do not make it vanish; ``margin``: best other logit
    minus the label's; or a loss of your own, by the name of its entry point in ``audit.losses``."""

    @field_validator("loss")
    @classmethod
    def _known(cls, loss: str) -> str:
        return require_loss(loss)

    @model_validator(mode="after")
    def _restarts_differ(self) -> Pgd:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts > 1 repeat the same run unless random_start is true")
        return self

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: the threat model has no eps, or a norm other than linf, l2 and l1.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        norm, eps = require_ball("pgd", self.norms, threat.norm, threat.eps)
        x, y = x.detach(), y.to(x.device)
        tally = Tally(x, threat.queries)
        none = torch.zeros((len(x), 0), dtype=torch.int64, device=x.device)
        balls = Ball.around(x, norm, eps, threat.bounds)
        everything = _Search(torch.arange(len(x), device=x.device), y, balls, x, torch.zeros_like(x), none)
        with frozen_parameters(model):
            for _ in range(self.restarts):
                left = tally.left()
                search = everything.take(left)
                if len(search) and self.random_start:
                    search = replace(search, x=search.ball.start(rng.take(left.cpu())))
                self._climb(model, search, tally)
        return tally.candidates()

    def _climb(self, model: AuditedModel, search: _Search, tally: Tally) -> None:
        """One restart."""
        import torch

        digest = _Digest(search.x)
        for _ in range(self.steps):
            search = search.take(tally.affordable(search.example))
            if not len(search):
                return
            wrong, gradient = label_and_gradient(model, search.x, search.label, self.loss)
            flat = tally.followed(search.example, gradient)
            tally.record(search.example, wrong, search.x)
            if self.momentum:
                gradient = search.velocity * self.momentum + _of_length_one(gradient)
            new = search.ball.project(search.ball.ascend(search.x, gradient, self.step_size * search.ball.eps))
            if self.momentum:
                search = replace(search, x=new, velocity=gradient).take(~wrong)
                continue
            visited = torch.cat([search.visited, digest(search.x)], dim=1)
            repeats = flat | (visited == digest(new)).any(dim=1)
            search = replace(search, x=new, visited=visited).take(~(wrong | repeats))
        search = search.take(tally.affordable(search.example))
        if len(search):
            tally.asked(search.example)
            tally.record(search.example, model.predict(search.x) != search.label, search.x)


def _of_length_one(gradient: Tensor) -> Tensor:
    """Each row divided by its l1 norm."""
    single = [1] * (gradient.dim() - 1)
    largest = gradient.abs().flatten(1).amax(dim=1).clamp_min(1e-37).reshape(-1, *single)
    gradient = gradient / largest
    return gradient / gradient.abs().flatten(1).sum(dim=1).clamp_min(1e-37).reshape(-1, *single)


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
