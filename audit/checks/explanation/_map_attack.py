"""Attacks on a map: move it as far as can be while the answer stays. They propose; the check measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from audit.checks.explanation._ranks import top

if TYPE_CHECKING:
    from torch import Tensor

    from audit.attacks._ball import Ball
    from audit.model import AuditedModel
    from audit.rng import ExampleRng

MapKind = Literal["gradient", "times_input", "path"]

_PATH_POINTS = 8
"""Points on the line that stands in for integrated gradients."""
_FIRST_STEP = 0.25
"""Length of the first step, in eps; the last is a tenth of it."""


@dataclass(frozen=True)
class Answers:
    """What the model must go on saying.

    Args:
        model: the audited one, as it is.
        prediction: ``(N,)`` class or value of each clean row.
        tolerance: how far a value may move and count as the same; 0 for classes.
    """

    model: AuditedModel
    prediction: Tensor
    tolerance: float

    def take(self, rows: Tensor | slice) -> Answers:
        """Of some rows."""
        return Answers(self.model, self.prediction[rows], self.tolerance)

    def same(self, x: Tensor) -> Tensor:
        """Which rows are still answered alike, ``(N,)`` bool."""
        answer = self.model.predict(x)
        if self.model.task == "regression":
            return (answer - self.prediction).abs() <= self.tolerance
        return answer == self.prediction

    def way_back(self, x: Tensor) -> Tensor:
        """Gradient that leads back to the clean answer, ``(N, *shape)``."""
        import torch

        with torch.enable_grad():
            x = x.detach().requires_grad_()
            if self.model.task == "regression":
                value = self.model.target_score(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))
                near = -((value - self.prediction) ** 2)
            else:
                near = self.model.logits(x).log_softmax(dim=1).gather(1, self.prediction[:, None])
            return torch.autograd.grad(near.sum(), x)[0]


def sizes(values: Tensor, pixels: bool) -> Tensor:
    """Size of each feature's value ``(N, F)``: of a pixel its channels together."""
    return (values.sum(dim=1) if pixels else values).flatten(1).abs()


def mass_left(size: Tensor, first: Tensor) -> Tensor:
    """Share of a map's size that lies on the features that were first, ``(N,)``; what an attack lowers.

    Source: Ghorbani et al. 2019, arXiv:1710.10547, section 3 (top-k attack).
    """
    import torch

    return (size * first).sum(dim=1) / size.sum(dim=1).clamp_min(torch.finfo(size.dtype).tiny)


def by_gradient(
    answers: Answers,
    ball: Ball,
    start: Tensor,
    target: Tensor,
    first: Tensor,
    kind: MapKind,
    baseline: Tensor,
    steps: int,
) -> Tensor:
    """Steepest descent on `mass_left` of the map of the model with soft corners.

    A row whose answer has changed (in the model as it is) steps back towards it; kept is the point with the least mass of those
    where the answer is the same.

    Args:
        ball: around the clean rows.
        start: ``(N, *shape)`` within it.
        first: ``(N, F)`` bool: the features that come first in the clean map.
        kind: which map stands in for the explainer's.
        baseline: ``(N, *shape)`` where the path begins.
    """
    import torch

    model = answers.model
    pixels = first.shape[1] != ball.center[0].numel()
    best, least = ball.center.clone(), torch.full((len(start),), torch.inf, dtype=torch.float64, device=start.device)
    x = start
    for step in range(steps + 1):
        mass, slope = _slope(model, x, target, first, kind, baseline, pixels)
        same = answers.same(x)
        better = same & (mass < least)
        best = torch.where(_as_rows(better, x), x, best)
        least = torch.where(better, mass, least)
        if step == steps:
            break
        direction = -slope
        if not bool(same.all()):
            direction[~same] = answers.take(~same).way_back(x[~same])
        length = ball.eps * _FIRST_STEP * 10 ** (-step / max(1, steps - 1))
        x = ball.project(ball.ascend(x, direction, length))
    return best


def _slope(
    model: AuditedModel, x: Tensor, target: Tensor, first: Tensor, kind: MapKind, baseline: Tensor, pixels: bool
) -> tuple[Tensor, Tensor]:
    """`mass_left` of the map of the softened model, ``(N,)`` float64, and its gradient."""
    import torch

    from audit.checks.explanation._smooth import softplus_for_relu

    with softplus_for_relu(), torch.enable_grad():
        x = x.detach().requires_grad_()
        points = 1 if kind != "path" else _PATH_POINTS
        share = (
            (torch.arange(points, dtype=x.dtype, device=x.device) + 0.5) / points if kind == "path" else x.new_ones(1)
        )
        share = share.reshape(1, -1, *[1] * (x.dim() - 1))
        along = (baseline[:, None] + share * (x - baseline)[:, None]).flatten(0, 1) if kind == "path" else x
        score = model.target_score(along, target.repeat_interleave(points)).sum()
        if not score.requires_grad:
            return x.new_zeros(len(x), dtype=torch.float64), torch.zeros_like(x)
        (slope,) = torch.autograd.grad(score, along, create_graph=True)
        slope = slope.reshape(len(x), points, *x.shape[1:]).mean(dim=1)
        values = {"gradient": slope, "times_input": slope * x, "path": slope * (x - baseline)}[kind]
        mass = mass_left(sizes(values, pixels), first)
        if not mass.requires_grad:  # a map that does not depend on the input
            return mass.detach().double(), torch.zeros_like(x)
        found = torch.autograd.grad(mass.sum(), x, allow_unused=True)[0]
    return mass.detach().double(), torch.zeros_like(x) if found is None else found.nan_to_num()


def by_search(
    answers: Answers, ball: Ball, first: Tensor, explain: Callable[[Tensor], Tensor], rounds: int, rng: ExampleRng
) -> Tensor:
    """Random search on `mass_left` of the explainer's own map: a corner of the ball first, then parts of the best point drawn anew.

    For any explainer and model; the part shrinks from all elements to one in twenty, as in Andriushchenko et al. 2020,
    arXiv:1912.00049.

    Args:
        explain: rows → ``(N, F)`` sizes of their features' values.
        rounds: maps computed of each row.
    """
    import torch

    best = ball.center.clone()
    least = mass_left(explain(best), first).double()
    for number in range(rounds):
        share = max(0.05, 1.0 if number == 0 else 0.5 ** (1 + 4 * number / rounds))
        streams = rng.fork(f"round {number}")
        fresh = corners(ball, streams)
        drawn = streams.uniform(tuple(best.shape[1:])).to(best.device) < share
        x = ball.project(torch.where(drawn, fresh, best))
        same = answers.same(x)
        mass = mass_left(explain(x), first).double()
        better = same & (mass < least)
        best = torch.where(_as_rows(better, x), x, best)
        least = torch.where(better, mass, least)
    return best


def corners(ball: Ball, rng: ExampleRng) -> Tensor:
    """Random points at the distance eps, brought into the box: signs in linf, a direction in l2."""
    noise = rng.normal(tuple(ball.center.shape[1:])).to(ball.center)
    if ball.norm == "linf":
        noise = noise.sign()
    else:
        noise = noise / noise.flatten(1).norm(dim=1).clamp_min(math.ulp(0.0) ** 0.5).reshape(ball.eps.shape)
    return ball.project(ball.center + ball.eps * noise)


def first_features(size: Tensor, share: float) -> Tensor:
    """The largest `share` of the features of each row, at least one, ``(N, F)`` bool."""
    return top(size, count_of(size.shape[1], share))


def count_of(features: int, share: float) -> int:
    """How many features a share is, at least one."""
    return max(1, round(share * features))


def _as_rows(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (x.dim() - 1))
