"""Auto-PGD: projected gradient ascent that finds its own step sizes.

Source: Croce & Hein 2020, arXiv:2003.01690; the l1 variant: Croce & Hein 2021, arXiv:2103.01208.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from audit.attacks import Attack, Candidates
from audit.attacks._ball import Ball
from audit.attacks._folded import folded, wrong_for_both
from audit.attacks._gradients import frozen_parameters, logits_and_gradient, require_ball
from audit.attacks._losses import Loss
from audit.attacks._tally import Tally
from audit.finding import Access, ThreatModel
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng

_MOMENTUM = 0.75
"""Share of the gradient step in a move; the rest is the last move again."""
_RISING = 0.75
"""A window with no larger share of rising steps than this halves the step."""
_FIRST, _SHORTER, _SHORTEST = 0.22, 0.03, 0.06
"""Windows between checkpoints as shares of the steps: the first, by how much each is shorter, the shortest."""
_L1_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""l1: radius as a multiple of eps, and share of the steps. Each stage starts at the best point of the last, projected."""
_L1_WINDOW = 0.04
_L1_DENSITY = (2, 3)
"""l1: elements in a step as a share of those that the best point changes; rounded down, or two would never become one."""
_L1_SPARSER = 0.95
"""l1: a best point that changes fewer elements than this share of what it did at the last checkpoint starts over with long steps."""
_L1_SHORTER, _L1_SHORTEST = 1.5, 10.0
"""l1: divisors of the step at a checkpoint, and of the shortest step."""


class AutoPgd(Attack):
    """Base of the Auto-PGD attacks, which differ in what they climb.

    A row starts with steps of 2 eps (l1: eps). At checkpoints it halves its step, and goes back to its best point, where fewer than
    three quarters of the steps since the last have raised the loss, or where neither step nor best loss has changed. Under l1
    steps touch few elements, as many as the best point suggests, and the radius shrinks from 3 eps in three stages.

    An example leaves with all its rows as soon as one of them is misclassified at eps, and a row once it has come to rest. What
    an example gets hangs on nothing but itself: its rows share a batch with others', and those that leave make room.
    """

    access: ClassVar[Access] = "white_box"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.LOGITS})

    steps: int = Field(100, ge=1)
    """Gradient steps from each starting point, for each target."""

    @abstractmethod
    def _goals(self, model: AuditedModel, tally: Tally, y: Tensor) -> Iterator[Goal]:
        """What to climb, one after the other, each for the examples that are left then."""

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: the threat model has no eps, or a norm other than linf, l2 and l1.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        norm, eps = require_ball("apgd", self.norms, threat.norm, threat.eps)
        x, y = x.detach(), y.to(x.device)
        tally = Tally(x, threat.queries)
        # Under a cap no question is to spare for asking twice.
        probe = x if threat.queries is None else x[:0]
        with folded(model, probe) as fast, frozen_parameters(fast), torch.no_grad():
            balls = Ball.around(x, norm, eps, threat.bounds)
            plan = _Plan.of(norm, self.steps, x.device)
            for goal in self._goals(fast, tally, y):
                _Ascent(model, fast, balls, y, goal, plan, tally, rng).run()
        return tally.candidates()


@dataclass(frozen=True)
class Goal:
    """One thing to climb.

    Args:
        loss: what to climb.
        targets: ``(N, copies)`` int64 target classes, for every example of the call; losses without a target ignore them.
    """

    loss: Loss
    targets: Tensor

    @property
    def copies(self) -> int:
        """Rows that work on one example."""
        return self.targets.shape[1]


def in_two(targets: Tensor) -> Iterator[Tensor]:
    """The first column, which is most likely to succeed, then the others at once."""
    for part in (targets[:, :1], targets[:, 1:]):
        if part.shape[1]:
            yield part


@dataclass(frozen=True)
class _Plan:
    """What happens when, by how many of a row's iterates have been judged before."""

    radius: Tensor
    """``(T,)`` multiple of eps that the iterate lies in."""
    begins: Tensor
    """``(T,)`` bool: the iterate is the first of a stage."""
    window: Tensor
    """``(T,)`` int64 steps since the last checkpoint where there is one after this iterate, else 0."""

    def __len__(self) -> int:
        return len(self.radius)

    @classmethod
    def of(cls, norm: str, steps: int, device: Any) -> _Plan:
        import torch

        radius, begins, window = [], [], []
        for factor, count in _stages(norm, steps):
            radius += [factor] * (count + 1)
            begins += [True] + [False] * count
            window += [0, *_windows(norm, count)]
        return cls(*(torch.tensor(values, device=device) for values in (radius, begins, window)))


def _stages(norm: str, steps: int) -> list[tuple[float, int]]:
    """Radius as a multiple of eps, and steps, of every stage."""
    if norm != "l1":
        return [(1.0, steps)]
    counts = [int(share * steps) for _, share in _L1_STAGES[:-1]]
    counts.append(steps - sum(counts))
    return [(factor, count) for (factor, _), count in zip(_L1_STAGES, counts, strict=True) if count]


def _windows(norm: str, steps: int) -> list[int]:
    """For every step the length of the window that ends with it, 0 where none does."""
    length = max(int((_L1_WINDOW if norm == "l1" else _FIRST) * steps), 1)
    shorter, shortest = (0, 1) if norm == "l1" else (max(int(_SHORTER * steps), 1), max(int(_SHORTEST * steps), 1))
    ends = [0] * steps
    at = length
    while at <= steps:
        ends[at - 1] = length
        length = max(length - shorter, shortest)
        at += length
    return ends


@dataclass(frozen=True)
class _Rows:
    """The rows that climb, those of one example neighbours; every tensor has one entry per row."""

    example: Tensor
    label: Tensor
    target: Tensor
    ball: Ball
    """Of eps, whatever the stage."""
    time: Tensor
    """How many of its iterates have been judged."""
    x: Tensor
    """The iterate to be judged next."""
    past: Tensor
    """The one before."""
    value: Tensor
    """The loss at the last iterate judged in this stage."""
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    step: Tensor
    """``(R, 1, …)`` length of a step as a share of the radius."""
    rises: Tensor
    """Steps since the last checkpoint that raised the loss."""
    checked: Tensor
    """`best_value` at the last checkpoint."""
    halved: Tensor
    """Whether the last checkpoint halved the step."""
    changed: Tensor
    """l1: elements that the best point changed at the last checkpoint."""

    def __len__(self) -> int:
        return len(self.example)

    def take(self, rows: Tensor) -> _Rows:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {
            name: mine.take(rows) if isinstance(mine, Ball) else mine[rows] for name, mine in values.items()
        }
        return _Rows(**taken)

    def joined(self, other: _Rows) -> _Rows:
        import torch

        if not len(self):
            return other
        pairs: dict[str, Any] = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        joined: dict[str, Any] = {
            name: a.joined(b) if isinstance(a, Ball) else torch.cat([a, b]) for name, (a, b) in pairs.items()
        }
        return _Rows(**joined)


@dataclass(frozen=True)
class _Ascent:
    """One goal, for every example that is left."""

    judge: AuditedModel
    """Whose answer counts."""
    model: AuditedModel
    """Whose gradients are followed: the judge, or the same made faster."""
    balls: Ball
    labels: Tensor
    goal: Goal
    plan: _Plan
    tally: Tally
    rng: ExampleRng

    def run(self) -> None:
        """Climb with as many rows at once as a forward pass takes; those that leave make room for examples that wait."""
        waiting = self.tally.left()
        rows = self._entering(waiting[:0])
        while True:
            room = max((self.model.micro_batch - len(rows)) // self.goal.copies, 0 if len(rows) else 1)
            if room and len(waiting):
                rows = rows.joined(self._entering(waiting[:room]))
                waiting = waiting[room:]
            rows = rows.take(self.tally.affordable(rows.example, 1 if self.model is self.judge else 2))
            if len(rows):
                rows = self._advanced(rows)
            if not len(rows) and not len(waiting):
                return

    def _entering(self, examples: Tensor) -> _Rows:
        """Rows at random starts, for examples at these positions."""
        import torch

        example = examples.repeat_interleave(self.goal.copies)
        ball = self.balls.take(example)
        first = replace(ball, eps=ball.eps * self.plan.radius[0])
        x = first.start(self.rng.take(examples.cpu()), self.goal.copies) if len(example) else ball.center
        count = torch.zeros_like(example)
        lowest = torch.full_like(example, -torch.inf, dtype=torch.float64)
        return _Rows(
            example=example,
            label=self.labels[example],
            target=self.goal.targets[examples].flatten(),
            ball=ball,
            time=count,
            x=x,
            past=x,
            value=-lowest,
            best=x,
            best_gradient=torch.zeros_like(x),
            best_value=lowest,
            step=torch.full_like(ball.eps, self._longest),
            rises=count,
            checked=lowest,
            halved=count == 0,
            changed=_elements_changed(x, ball),
        )

    @property
    def _longest(self) -> float:
        """First length of a step as a share of the radius."""
        return 1.0 if self.balls.norm == "l1" else 2.0

    def _advanced(self, rows: _Rows) -> _Rows:
        """Judge every row's iterate, let go who is done, and move the others."""
        wrong, gradient, value = self._asked(rows)
        self.tally.record(rows.example, wrong, rows.x)
        stays = ~self.tally.fooled[rows.example] & (rows.time + 1 < len(self.plan))
        if not bool(stays.all()):
            rows, gradient, value = rows.take(stays), gradient[stays], value[stays]
        if not len(rows):
            return rows
        rows = _with_best(rows, gradient, value)
        return self._moved_sparsely(rows, gradient) if self.balls.norm == "l1" else self._moved(rows, gradient)

    def _asked(self, rows: _Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Which rows are misclassified within eps, the loss's gradient and its value."""
        import torch

        value = torch.zeros(len(rows), dtype=torch.float64, device=rows.x.device)

        def slope(logits: Tensor, at: Tensor) -> Tensor:
            values, slopes = self.goal.loss(logits, rows.label[at], rows.target[at])
            value[at] = values.double()
            return slopes

        logits, gradient = logits_and_gradient(self.model, rows.x, slope)
        self.tally.followed(rows.example, gradient)
        wrong = (logits.argmax(dim=1) != rows.label) & (self.plan.radius[rows.time] == 1)
        wrong, again = wrong_for_both(self.judge, self.model, rows.x, rows.label, wrong)
        self.tally.asked(rows.example[again])
        return wrong, gradient, value

    def _moved(self, rows: _Rows, gradient: Tensor) -> _Rows:
        """linf and l2: checkpoint, then a gradient step blended with the last move."""

        x, window = rows.x, self.plan.window[rows.time - 1]
        if bool((window > 0).any()):
            due = window > 0
            stale = ~rows.halved & (rows.checked >= rows.best_value)
            halve = due & ((rows.rises <= _RISING * window) | stale)
            wide = _per_row(halve, x)
            x, gradient = rows.best.where(wide, x), rows.best_gradient.where(wide, gradient)
            rows = replace(
                rows,
                step=(rows.step / 2).where(wide, rows.step),
                halved=halve.where(due, rows.halved),
                checked=rows.best_value.where(due, rows.checked),
                rises=rows.rises.masked_fill(due, 0),
            )
        ball = rows.ball
        climbed = ball.project(ball.ascend(x, gradient, rows.step * ball.eps))
        new = climbed.lerp(x, 1 - _MOMENTUM).add_(x - rows.past, alpha=1 - _MOMENTUM)
        if bool((rows.time == 1).any()):
            new = climbed.where(_per_row(rows.time == 1, x), new)
        new = ball.project(new)
        rests = ((new == x) & (x == rows.past) & (x == rows.best)).flatten(1).all(dim=1)
        rows = replace(rows, x=new, past=x)
        # All it will ever do again is stand there.
        return rows.take(~rests) if bool(rests.any()) else rows

    def _moved_sparsely(self, rows: _Rows, gradient: Tensor) -> _Rows:
        """l1: checkpoint, then a step of few elements; or the start of the next stage."""
        x, due = rows.x, self.plan.window[rows.time - 1] > 0
        if bool(due.any()):
            now = _elements_changed(rows.best, rows.ball)
            sparser = due & (now < _L1_SPARSER * rows.changed)
            wide = _per_row(sparser, x)
            x, gradient = rows.best.where(wide, x), rows.best_gradient.where(wide, gradient)
            shorter = (rows.step / _L1_SHORTER).clamp_min(1 / _L1_SHORTEST).where(_per_row(due, x), rows.step)
            rows = replace(rows, step=shorter.masked_fill(wide, self._longest), changed=now.where(due, rows.changed))
        radius = rows.ball.eps * _per_row(self.plan.radius[rows.time], x)
        ball = replace(rows.ball, eps=radius)
        count = rows.changed * _L1_DENSITY[0] // _L1_DENSITY[1]
        begins = self.plan.begins[rows.time]
        wide = _per_row(begins, x)
        new = rows.best.where(wide, ball.ascend_sparsely(x, gradient, rows.step * radius, count))
        rows = replace(rows, x=ball.project(new), past=x)
        if not bool(begins.any()):
            return rows
        return replace(
            rows,
            value=rows.value.masked_fill(begins, float("inf")),
            best_value=rows.best_value.masked_fill(begins, -float("inf")),
            step=rows.step.masked_fill(wide, self._longest),
            changed=_elements_changed(rows.x, rows.ball).where(begins, rows.changed),
        )


def _with_best(rows: _Rows, gradient: Tensor, value: Tensor) -> _Rows:
    """The rows after their iterate was judged."""
    better = value > rows.best_value
    wide = _per_row(better, rows.x)
    return replace(
        rows,
        time=rows.time + 1,
        rises=rows.rises + (value > rows.value),
        value=value,
        best=rows.x.where(wide, rows.best),
        best_gradient=gradient.where(wide, rows.best_gradient),
        best_value=value.where(better, rows.best_value),
    )


def _elements_changed(x: Tensor, ball: Ball) -> Tensor:
    return (x != ball.center).flatten(1).sum(dim=1)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """``(R,)`` as ``(R, 1, …)``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
