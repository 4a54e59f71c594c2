"""Neural Cleanse: the smallest patch that sends every input to a class, searched for many classes at once.

A trigger is a mask m in 0..1, shared by an image's channels, and a pattern p within the bounds: (1 - m) x + m p. The search minimises the
cross-entropy towards the class plus cost · |m|₁ with Adam; from the first success on the cost rises while the trigger works and falls
while it does not.

Source: Wang et al. 2019, "Neural Cleanse", IEEE S&P, doi 10.1109/SP.2019.00031; learning rate, moments, first cost, its factors and the
success asked for are those of the authors' code. Theirs moves the cost by a factor every 5 to 10 epochs of 1,000 rows; here it moves by
a fifth of that factor's logarithm after every batch: on networks for digits, masks of 800 and of 400 batches had the same size, within
a few per cent, and a search ends after about 250.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from audit.attacks._gradients import frozen_parameters, logits_and_gradient
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel, InputSpec
    from audit.rng import ExampleRng

SUCCESS = 0.99
"""Share of rows that a trigger must send to its class for its mask to count."""
_LEARNING_RATE = 0.1
_BETAS = (0.5, 0.9)
_FIRST_COST = 1e-3
_COST_UP, _COST_DOWN = 1.5**0.2, 1.5**-0.3
_PAST = 0.9
"""Weight of earlier batches in the success that the cost follows."""
_PATIENCE = 50
"""Updates with a trigger that works, and no mask smaller by 1 %, after which a search ends."""
_FLOOR = 1e-6
"""Distance of the first mask and pattern from the ends of their range, where the hyperbolic tangent has no inverse."""


@dataclass(frozen=True)
class Canvas:
    """Where triggers live: the range of every input element, and which elements share one mask element.

    Args:
        low, high: ``shape`` or broadcasting to it, in the user's units.
        shape: of one input.
        mask_shape: of one mask, broadcasting to `shape`: ``(1, H, W)`` for an image, else `shape`.
    """

    low: Tensor
    high: Tensor
    shape: tuple[int, ...]
    mask_shape: tuple[int, ...]

    def paint(self, x: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
        """Inputs with the trigger on them: all of the same shape, or broadcasting to one."""
        return x + mask * (pattern - x)


def canvas_of(spec: InputSpec, device: str = "cpu") -> Canvas:
    """The canvas of an input spec.

    Raises:
        UserError: a field is no number, or declares no bounds.
    """
    import torch

    if other := [f"{f.name} ({f.kind})" for f in spec.fields if f.kind not in ("image", "number", "series")]:
        raise UserError(
            f"a trigger search paints numbers, the input has {', '.join(other[:5])}: leave trigger_search out of `methods`"
        )
    bounds = [f.bounds for f in spec.fields if f.bounds is not None]
    if len(bounds) < len(spec.fields):
        missing = [f.name for f in spec.fields if f.bounds is None]
        raise UserError(
            f"a trigger search must know the valid range of {', '.join(missing[:5])}: give `bounds: [low, high]` in the model's input spec"
        )
    low, high = (torch.tensor([b[end] for b in bounds], device=device) for end in (0, 1))
    shared = (1, *spec.shape[1:]) if spec.kind == "image" and len(spec.shape) == 3 else spec.shape
    return Canvas(low, high, spec.shape, shared)


@dataclass(frozen=True)
class Triggers:
    """The best trigger of each search.

    Args:
        mask: ``(T, *mask_shape)`` in 0..1: the smallest that reached `SUCCESS`, else the last one.
        pattern: ``(T, *shape)`` within the bounds.
        found: ``(T,)`` bool: one reached `SUCCESS`.
        updates: ``(T,)`` int64 gradient steps taken.
    """

    mask: Tensor
    pattern: Tensor
    found: Tensor
    updates: Tensor

    @property
    def size(self) -> Tensor:
        """L1 norm of each mask, ``(T,)`` float64: how many pixels (columns, samples) it replaces."""
        return self.mask.double().flatten(1).sum(dim=1)


@dataclass(frozen=True)
class _Search:
    """The searches that still run, one row each."""

    index: Tensor
    target: Tensor
    theta: Tensor
    """``(A, M + P)`` mask and pattern before the hyperbolic tangent, side by side."""
    first: Tensor
    second: Tensor
    """Adam's moments of `theta`."""
    cost: Tensor
    success: Tensor
    """Sum over past batches, the last weighing most."""
    best: Tensor
    lapsed: Tensor
    """Whether the cost has risen so far that a trigger that worked did no longer."""
    stale: Tensor
    """Updates with a trigger that works, since the first lapse, since `best` last fell by 1 %."""

    def __len__(self) -> int:
        return len(self.index)

    def take(self, keep: Tensor) -> _Search:
        return _Search(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


def search(
    model: AuditedModel,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    canvas: Canvas,
    rng: ExampleRng,
    *,
    updates: int,
    rows: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Triggers:
    """Search a trigger for each target, a micro-batch of painted rows at a time.

    A search leaves the batch once its mask has stopped shrinking.

    Args:
        x: ``(N, *shape)`` clean rows, y: ``(N,)`` int64 their labels. A search sees those that are not its target's.
        target: ``(T,)`` int64 classes; one may come more than once.
        rng: one stream per search.
        updates: gradient steps at most.
        rows: painted rows per step.
        progress: told how many searches are done.

    Raises:
        UserError: no row has another label than a target.
        NonFiniteOutput: the model answers NaN or infinite.
    """
    import torch

    pools = {int(t): (y != t).nonzero().flatten() for t in set(target.tolist())}
    if empty := [model.classes[t] for t, pool in pools.items() if not len(pool)]:
        raise UserError(f"no clean row belongs to another class than {', '.join(empty)}: give more test rows")
    together = max(1, model.micro_batch // rows)
    parts = []
    with frozen_parameters(model):
        for index in torch.arange(len(target)).split(together):  # type: ignore[no-untyped-call]
            pool = [pools[int(t)] for t in target[index]]
            parts.append(_search(model, x, pool, target[index], canvas, rng.take(index), updates, rows))
            progress(int(index[-1]) + 1)
    return Triggers(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Triggers)))


def _search(
    model: AuditedModel,
    x: Tensor,
    pools: list[Tensor],
    target: Tensor,
    canvas: Canvas,
    rng: ExampleRng,
    updates: int,
    rows: int,
) -> Triggers:
    import torch

    count = len(target)
    cells, elements = math.prod(canvas.mask_shape), math.prod(canvas.shape)
    pool = torch.nn.utils.rnn.pad_sequence(pools, batch_first=True)
    size_of_pool = torch.tensor([len(p) for p in pools], device=x.device)
    theta = torch.atanh(2 * rng.uniform((cells + elements,), _FLOOR, 1 - _FLOOR).to(x) - 1)
    zero = torch.zeros(count, device=x.device)
    run = _Search(
        index=torch.arange(count, device=x.device),
        target=target.to(x.device),
        theta=theta,
        first=torch.zeros_like(theta),
        second=torch.zeros_like(theta),
        cost=zero + _FIRST_COST,
        success=zero,
        best=zero + torch.inf,
        lapsed=zero.bool(),
        stale=zero,
    )
    kept = theta.tanh()
    found = zero.bool()
    taken = torch.zeros(count, dtype=torch.int64, device=x.device)
    for step in range(1, updates + 1):
        draws = rng.take(run.index.cpu()).uniform((rows,)).to(x.device)
        at = pool[run.index].gather(1, (draws * size_of_pool[run.index, None]).long())
        unit = run.theta.tanh()
        right, gradient = _step(model, x[at], unit, run, canvas, cells)
        mask_size = (unit[:, :cells] * 0.5 + 0.5).sum(dim=1)
        success = _PAST * run.success + (1 - _PAST) * right
        works = success / (1 - _PAST**step) >= SUCCESS
        better = works & (right >= SUCCESS) & (mask_size < run.best)
        shrunk = better & (mask_size < 0.99 * run.best)
        kept[run.index[better]] = unit[better]
        found[run.index[better]] = True
        reached = found[run.index]
        kept[run.index[~reached]] = unit[~reached]
        taken[run.index] += 1
        first = torch.lerp(gradient, run.first, _BETAS[0])
        second = torch.lerp(gradient**2, run.second, _BETAS[1])
        unbiased = first / (1 - _BETAS[0] ** step), second / (1 - _BETAS[1] ** step)
        run = _Search(
            index=run.index,
            target=run.target,
            theta=run.theta - _LEARNING_RATE * unbiased[0] / (unbiased[1].sqrt() + 1e-8),
            first=first,
            second=second,
            cost=run.cost * torch.where(works, _COST_UP, _COST_DOWN).where(reached, 1.0),
            success=success,
            best=torch.where(better, mask_size, run.best),
            lapsed=run.lapsed | (reached & ~works),
            stale=torch.where(shrunk, 0.0, run.stale + (works & run.lapsed)),
        )
        run = run.take(run.stale < _PATIENCE)
        if not len(run):
            break
    mask, pattern = _unfold(kept, canvas, cells)
    return Triggers(mask, pattern, found, taken)


def _unfold(unit: Tensor, canvas: Canvas, cells: int) -> tuple[Tensor, Tensor]:
    """Masks and patterns from values in -1..1."""
    share = unit * 0.5 + 0.5
    pattern = canvas.low + (canvas.high - canvas.low) * share[:, cells:].reshape(-1, *canvas.shape)
    return share[:, :cells].reshape(-1, *canvas.mask_shape), pattern


def _step(
    model: AuditedModel, clean: Tensor, unit: Tensor, run: _Search, canvas: Canvas, cells: int
) -> tuple[Tensor, Tensor]:
    """Share of rows sent to each target ``(A,)``, and the gradient of the loss by theta ``(A, M + P)``.

    Args:
        clean: ``(A, B, *shape)``.
    """
    import torch

    searches, rows = clean.shape[:2]
    mask, pattern = (part[:, None] for part in _unfold(unit, canvas, cells))
    target = run.target.repeat_interleave(rows)

    def towards_target(logits: Tensor, at: Tensor) -> Tensor:
        return (logits.softmax(dim=1) - torch.nn.functional.one_hot(target[at], logits.shape[1])) / rows

    logits, by_input = logits_and_gradient(model, canvas.paint(clean, mask, pattern).flatten(0, 1), towards_target)
    by_input = by_input.reshape(clean.shape)
    by_mask = (by_input * (pattern - clean)).sum(dim=1).sum_to_size((searches, *canvas.mask_shape)).flatten(1)
    by_pattern = (by_input.sum(dim=1) * mask[:, 0] * (canvas.high - canvas.low)).flatten(1)
    slope = 0.5 * (1 - unit**2)
    gradient = torch.cat([by_mask + run.cost[:, None], by_pattern], dim=1) * slope
    right = (logits.argmax(dim=1) == target).reshape(searches, rows).float().mean(dim=1)
    return right, gradient


def anomaly_index(size: Tensor) -> Tensor:
    """How far each mask lies below the median of its row, in units of the median absolute deviation made consistent with σ.

    Args:
        size: ``(R, K)`` float64: K classes in each of R searches.

    Returns:
        ``(R, K)``; above 2 an outlier of a normal distribution at 95 % (Wang et al. 2019). Where more than half the masks have one size,
        the deviation is taken as a millionth of the median.
    """
    median = size.quantile(0.5, dim=1, keepdim=True)
    deviation = 1.4826 * (size - median).abs().quantile(0.5, dim=1, keepdim=True)
    return (median - size) / deviation.maximum(1e-6 * median.abs().clamp_min(1e-30))
