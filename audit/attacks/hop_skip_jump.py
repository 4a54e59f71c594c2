"""HopSkipJump: along the decision boundary towards the input, by labels alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from audit.attacks import Attack, Candidates, perturbation_size
from audit.attacks._folded import folded, wrong_for_both
from audit.finding import Access, ThreatModel
from audit.model import Capability
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng

_HALVINGS = 24
"""Times that a line is halved, at most: a float32 knows no more."""
_LEAST = 10
"""Gradient queries below which a direction is not worth its step; what is left of the cap is left."""


class HopSkipJump(Attack):
    """The nearest adversarial example, by predicted labels alone.

    From a point of another class it halves its way along the line to the input down to the boundary, estimates the boundary's
    normal there from the labels of random neighbours, steps along it into the other class, and halves again. All examples walk at
    once, each at its own distance and with its own count; one leaves when its queries are used up or, where the threat model has an
    eps, as soon as it is within.

    The walk starts from noise: uniform, of the box's corners, of a few flat patches, of one value, in turn. (Uniform noise alone, as
    elsewhere, leaves out every input of the class that the model takes noise for.)

    Source: Chen et al. 2020, arXiv:1904.02144, algorithm 2, with the first neighbourhood of its authors' code.
    """

    access: ClassVar[Access] = "black_box_labels"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})
    minimal: ClassVar[bool] = True

    queries: int = Field(5000, ge=1)
    """Rows forward per example; fewer where the threat model's cap is smaller."""
    gradient_queries: int = Field(100, ge=2)
    """Neighbours asked about for the first direction; for the t-th it is this times √t."""
    starts: int = Field(100, ge=1)
    """Draws of noise to find a point of another class; an example that finds none stays as it is."""

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: a norm other than linf and l2.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        if threat.norm not in self.norms:
            raise UserError(f"attack 'hop_skip_jump' is defined for l2 and linf, not for norm {threat.norm}")
        cap = self.queries if threat.queries is None else min(self.queries, threat.queries)
        with folded(model, x) as fast:
            walk = _Walk(model, fast, x.detach(), y.to(x.device), threat, cap)
            self._walk(walk, rng)
        found = walk.size <= walk.eps
        return Candidates(walk.nearest.where(_per_row(found, x), x), walk.spent, torch.zeros_like(walk.spent))

    def _walk(self, walk: _Walk, rng: ExampleRng) -> None:
        """Every example from its start to where its queries end."""
        rows, points = self._begin(walk, rng)
        points = walk.bisect(rows, points)
        step = 0
        while len(rows):
            step += 1
            affordable = walk.cap - walk.spent[rows] - walk.halvings - 3
            counts = affordable.clamp_max(int(self.gradient_queries * math.sqrt(step)))
            on = (counts >= _LEAST) & walk.seeking(rows)
            rows, points, counts = rows[on], points[on], counts[on]
            if not len(rows):
                return
            distance = perturbation_size(points - walk.x[rows], walk.norm).to(points.dtype)
            # The authors' code: a tenth of the box for the first neighbourhood.
            first = step == 1 and math.isfinite(walk.high - walk.low)
            width = distance.new_tensor(0.1 * (walk.high - walk.low)) if first else distance / walk.dimensions
            direction = walk.normal(rows, points, width.expand_as(distance), counts, rng.take(rows.cpu()))
            moved, points = walk.advance(rows, points, direction, distance / math.sqrt(step))
            if bool(moved.any()):
                points[moved] = walk.bisect(rows[moved], points[moved])

    def _begin(self, walk: _Walk, rng: ExampleRng) -> tuple[Tensor, Tensor]:
        """A misclassified point for as many rows as one is found for: their positions, in order, and the points."""
        import torch

        rows, points = torch.arange(len(walk.x), device=walk.x.device), walk.x.clone()
        begun = torch.zeros_like(rows, dtype=torch.bool)
        for attempt in range(self.starts):
            open_ = ~begun & walk.seeking(rows)
            if not bool(open_.any()):
                break
            left = rows[open_]
            noise = _noise(rng.take(left.cpu()), tuple(walk.x.shape[1:]), attempt).to(walk.x)
            low, high = walk.reach(left, attempt)
            points[left] = low + (high - low) * noise
            wrong = walk.ask(left, points[left])
            walk.keep_within(left[wrong], points[left[wrong]])
            begun[left] = wrong
        return rows[begun], points[begun]


class _Walk:
    """All examples of a call, the label oracle with its count, and the nearest misclassified point of each.

    Args:
        judge: the model; what it says counts.
        model: the same made faster, or itself.
        cap: most rows forward per example.
    """

    def __init__(
        self, judge: AuditedModel, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, cap: int
    ) -> None:
        import torch

        self.judge, self.model, self.x, self.y, self.cap = judge, model, x, y, cap
        self.norm, self.eps = str(threat.norm), math.inf if threat.eps is None else threat.eps
        self.low, self.high = threat.bounds if threat.bounds is not None else (-math.inf, math.inf)
        self.nearest = x.clone()
        self.size = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        self.spent = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.dimensions = math.prod(x.shape[1:])
        # The paper's thresholds are d^-1.5 (l2) and d^-2 (linf) of the line.
        exponent = 1.5 if self.norm == "l2" else 2.0
        self.halvings = min(max(math.ceil(exponent * math.log2(self.dimensions)), 7), _HALVINGS)

    def reach(self, rows: Tensor, attempt: int) -> tuple[Tensor, Tensor]:
        """Lowest and highest values of a start: the box, or where there is none, ever further from the input."""
        if math.isfinite(self.high - self.low):
            return self.x.new_tensor(self.low), self.x.new_tensor(self.high)
        x = self.x[rows]
        far = 2.0 ** (attempt // 4) * x.abs().flatten(1).amax(dim=1).clamp_min(1.0)
        return x - _per_row(far, x), x + _per_row(far, x)

    def seeking(self, rows: Tensor) -> Tensor:
        """Which rows have queries left, one and one to confirm it, and are not within eps yet, ``(n,)`` bool."""
        import torch

        each = 1 if self.model is self.judge else 2
        found = (self.size[rows] <= self.eps) if math.isfinite(self.eps) else False
        return (self.spent[rows] + each <= self.cap) & ~torch.as_tensor(found, device=rows.device)

    def ask(self, rows: Tensor, points: Tensor) -> Tensor:
        """Which points are misclassified, ``(n,)`` bool; a row may have several, one after the other."""
        self.spent += rows.bincount(minlength=len(self.spent))
        wrong: Tensor = self.model.predict(points).to(self.y.device) != self.y[rows]
        return wrong

    def keep(self, rows: Tensor, points: Tensor) -> None:
        """Remember misclassified points, one per row, that are nearer than any before; the model itself has to agree."""
        size = perturbation_size(points.double() - self.x[rows].double(), self.norm)
        nearer = size < self.size[rows]
        if self.model is not self.judge:
            nearer &= self.spent[rows] < self.cap
            self.spent[rows[nearer]] += 1
            nearer, _ = wrong_for_both(self.judge, self.model, points, self.y[rows], nearer)
        self.size[rows[nearer]] = size[nearer]
        self.nearest[rows[nearer]] = points[nearer]

    def keep_within(self, rows: Tensor, points: Tensor) -> None:
        """Remember those within eps, whose rows may leave."""
        if math.isfinite(self.eps):
            on = perturbation_size(points.double() - self.x[rows].double(), self.norm) <= self.eps
            self.keep(rows[on], points[on])

    def bisect(self, rows: Tensor, points: Tensor) -> Tensor:
        """Misclassified points brought along the line to the input (linf: into ever smaller cubes) down to the boundary."""
        import torch

        if not len(rows):
            return points
        clean, points = self.x[rows], points.clone()
        far, end = points.clone(), perturbation_size(points - clean, self.norm).to(points.dtype)
        low, high = torch.zeros_like(end), torch.ones_like(end)
        for _ in range(self.halvings):
            on = self.seeking(rows).nonzero().flatten()
            if not len(on):
                break
            middle = (low[on] + high[on]) / 2
            if self.norm == "l2":
                trial = clean[on] + _per_row(middle, far) * (far[on] - clean[on])
            else:
                cube = _per_row(middle * end[on], far)
                trial = torch.minimum(torch.maximum(far[on], clean[on] - cube), clean[on] + cube)
            trial = trial.clamp(self.low, self.high)
            wrong = self.ask(rows[on], trial)
            low[on], high[on] = middle.where(~wrong, low[on]), middle.where(wrong, high[on])
            points[on[wrong]] = trial[wrong]
            self.keep_within(rows[on[wrong]], trial[wrong])
        self.keep(rows, points)
        return points

    def normal(self, rows: Tensor, points: Tensor, radius: Tensor, counts: Tensor, rng: ExampleRng) -> Tensor:
        """Estimated direction into the other classes, ``(n, *shape)``: of l2 norm 1, or under linf its sign.

        The mean over random neighbours at `radius` ``(n,)`` of their offset, signed by whether they are misclassified, with the
        mean sign taken off (equation 16). `counts` ``(n,)`` neighbours are asked about, in pieces that fit in memory.
        """
        import torch

        signed, plain = torch.zeros_like(points), torch.zeros_like(points)
        balance = torch.zeros_like(radius)
        most = max(self.model.micro_batch, min(4 * self.model.micro_batch, 2**24 // self.dimensions))
        start, end = 0, int(counts.max())
        while start < end:
            on = (counts > start).nonzero().flatten()
            width = min(max(1, most // len(on)), end - start)
            own = rng.take(on.cpu())
            shape = (width, *points.shape[1:])
            offsets = (own.normal(shape) if self.norm == "l2" else own.uniform(shape, -1.0, 1.0)).to(points)
            flat = offsets.flatten(2)
            scale = radius[on, None, None] / flat.norm(dim=2, keepdim=True).clamp_min(1e-12)
            center = points[on, None]
            neighbours = (center + (flat * scale).reshape(offsets.shape)).clamp(self.low, self.high)
            asked = torch.arange(start, start + width, device=rows.device) < counts[on, None]
            sign = torch.zeros(asked.shape, dtype=points.dtype, device=points.device)
            wrong = self.ask(rows[on, None].expand_as(asked)[asked], neighbours[asked])
            sign[asked] = wrong.to(points.dtype) * 2 - 1
            # As it was made: after clipping, and after rounding where the radius is close to a float's resolution.
            made = (neighbours - center).flatten(2)
            signed[on] += torch.einsum("nw,nwd->nd", sign, made).reshape(signed[on].shape)
            plain[on] += torch.einsum("nw,nwd->nd", asked.to(made), made).reshape(plain[on].shape)
            balance[on] += sign.sum(dim=1)
            start += width
        mean = balance / counts
        mean = mean.where(mean.abs() < 1, 0.0)  # all alike: their own direction, or its opposite
        slope = signed - _per_row(mean, plain) * plain
        if self.norm == "linf":
            return slope.sign()
        return slope / _per_row(slope.flatten(1).norm(dim=1).clamp_min(1e-30), slope)

    def advance(self, rows: Tensor, points: Tensor, direction: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """A step that stays misclassified, halved until it does: which rows made one, ``(n,)`` bool, and where all are now."""
        import torch

        points, moved = points.clone(), torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for _ in range(_HALVINGS):
            on = (~moved & self.seeking(rows)).nonzero().flatten()
            if not len(on):
                break
            trial = (points[on] + _per_row(length[on], points) * direction[on]).clamp(self.low, self.high)
            wrong = self.ask(rows[on], trial)
            self.keep_within(rows[on[wrong]], trial[wrong])
            points[on[wrong]] = trial[wrong]
            moved[on] = wrong
            length = length / 2
        return moved, points


def _noise(rng: ExampleRng, shape: tuple[int, ...], attempt: int) -> Tensor:
    """``(N, *shape)`` in [0, 1]: uniform, all 0 or 1, patches of a third of the sides, one value per channel, by turns."""
    import torch

    noise = rng.uniform(shape)
    kind = attempt % 4
    if kind == 1:
        return noise.round()
    if kind > 1:
        for axis in range(2 if len(shape) == 3 else len(shape), noise.dim()):
            cells = min(3 if kind == 2 else 1, noise.shape[axis])
            coarse = torch.arange(noise.shape[axis]) * cells // noise.shape[axis]
            noise = noise.index_select(axis, coarse)
    return noise


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
