"""Searches for the smallest admissible change of a table row that turns the model's answer.

Every one asks all candidates of all rows still searched in one call. N rows, F columns, A units (see `Columns`), M moves worth trying.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.attacks._gradients import logits_and_gradient, margin
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.attacks._columns import Columns
    from audit.model import AuditedModel
    from audit.rng import ExampleRng

_ELEMENTS = 2**22
"""Of candidates held at once."""
_HALVINGS = 10
"""How finely a change is pulled in: to a thousandth."""
_LEAST_SAVING = 1e-4
"""A change is pulled in until that saves less than this share of its cost."""
_SHORTLIST = 64
"""Moves asked about per row where a gradient ranks them."""


class Oracle:
    """The model, asked about candidates: rows are counted per example, and never more of them than the cap.

    Args:
        x: ``(N, *)`` whole rows, of which the searches see the columns at `place` ``(F,)``.
        y: ``(N,)`` int64 labels that a candidate must not get.
        cap: most rows forward per example; None for no cap.
    """

    def __init__(self, model: AuditedModel, x: Tensor, place: Tensor, y: Tensor, cap: int | None) -> None:
        import torch

        self.model, self.x, self.place, self.y, self.cap = model, x, place, y, cap
        self.queries, self.gradients, self.zeros = (torch.zeros_like(y) for _ in range(3))

    @property
    def graded(self) -> bool:
        """Whether answers tell how far off a row is, or its label alone."""
        return self.model.output != "label"

    def left(self, rows: Tensor) -> Tensor:
        """Which examples may still ask, ``(n,)`` bool."""
        import torch

        return torch.ones_like(rows, dtype=torch.bool) if self.cap is None else self.queries[rows] < self.cap

    def ask(self, candidates: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which candidates ``(T, F)`` of the examples at `rows` ``(T,)`` are misclassified, and by how much, ``(T,)`` each.

        The margin is the best other class's score minus the label's, or 0 and 1 of a model that gives labels alone. What the cap does
        not pay for is not asked about: it counts as classified rightly, by minus infinity.
        """
        import torch

        paid = self._paid(rows)
        self.queries += torch.bincount(rows[paid], minlength=len(self.y))
        wrong = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        ahead = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device)
        if bool(paid.any()):
            scores, label = self.model.scores(self.whole(candidates[paid], rows[paid])), self.y[rows[paid]]
            wrong[paid] = self.model.labels_of(scores) != label
            ahead[paid] = self._ahead(scores.double(), wrong[paid], label)
        return wrong, ahead

    def whole(self, candidates: Tensor, rows: Tensor) -> Tensor:
        """Candidates ``(T, F)`` with the columns that no search sees, ``(T, *)``."""
        return self.x[rows].index_copy_(1, self.place, candidates)

    def gradient(self, candidates: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `ask`, each example once: which are misclassified, and the margin's gradient ``(n, F)`` float64."""
        whole = self.whole(candidates, rows)
        logits, gradient = logits_and_gradient(self.model, whole, lambda logits, at: margin(logits, self.y[rows[at]]))
        self.queries[rows] += 1
        self.gradients[rows] += 1
        self.zeros[rows] += (gradient == 0).all(dim=1)
        return logits.argmax(dim=1) != self.y[rows], gradient[:, self.place].double()

    def _paid(self, rows: Tensor) -> Tensor:
        """The first of each example's candidates, as many as its cap leaves."""
        import torch

        if self.cap is None:
            return torch.ones_like(rows, dtype=torch.bool)
        order = rows.argsort(stable=True)
        ordered = rows[order]
        rank = torch.empty_like(rows)
        rank[order] = torch.arange(len(rows), device=rows.device) - torch.searchsorted(ordered, ordered)
        return rank < self.cap - self.queries[rows]

    def _ahead(self, scores: Tensor, wrong: Tensor, label: Tensor) -> Tensor:
        if not self.graded:
            return wrong.double()
        if self.model.output == "margin":
            return scores.reshape(-1) * (1 - 2 * label)
        if self.model.output == "probability":
            scores = scores.clamp_min(1e-300).log()
        own = scores.gather(1, label[:, None])
        return (scores.scatter(1, label[:, None], -float("inf")).amax(dim=1, keepdim=True) - own).squeeze(1)


@dataclass(frozen=True)
class Finds:
    """Misclassified rows of a search.

    Args:
        row: ``(T,)`` int64 example that each belongs to.
        x: ``(T, F)``.
    """

    row: Tensor
    x: Tensor

    @staticmethod
    def join(parts: list[Finds], like: Tensor) -> Finds:
        """All of them."""
        import torch

        none = torch.zeros(0, dtype=torch.int64, device=like.device)
        return Finds(
            torch.cat([none, *(part.row for part in parts)]), torch.cat([like[:0], *(part.x for part in parts)])
        )


# --- few columns: a beam ---------------------------------------------------------------------------------------------


def beam(oracle: Oracle, columns: Columns, x: Tensor, rows: Tensor, width: int, ranked: bool) -> Finds:
    """Change one unit after the other, to each value worth trying, and keep the `width` most promising sets of units.

    A row leaves with the cheapest of its first successes (up to `width`, with different units), so that fewer columns come first; or when
    a further unit brings the model no closer to another answer.

    Args:
        x: ``(N, F)``.
        rows: ``(n,)`` int64 examples to search.
        ranked: ask about the moves that the gradient promises most of alone.
    """
    largest = max(1, _ELEMENTS // (max(1, len(columns.moves)) * width * x.shape[1]))
    parts = [
        _beam_of_rows(oracle, columns, x, part, width, ranked)
        for part in rows.split(largest)  # type: ignore[no-untyped-call]
    ]
    return Finds.join([find for part in parts for find in part], x)


def _beam_of_rows(oracle: Oracle, columns: Columns, x: Tensor, rows: Tensor, width: int, ranked: bool) -> list[Finds]:
    import torch

    finds: list[Finds] = []
    states = x[rows][:, None]
    best = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=x.device)
    for _ in (
        columns.units if oracle.graded else columns.units[:1]
    ):  # without scores nothing tells a better start from a worse
        open_ = oracle.left(rows)
        rows, states, best = rows[open_], states[open_], best[open_]
        if not len(rows):
            break
        clean = x[rows]
        tried = _moved(columns, clean, states)
        asked = _worth_asking(columns, clean, states, tried)
        if ranked:
            asked &= _promising(oracle, columns, rows, states, tried, asked)
        n, b, m, f = tried.shape
        # By move, then by state: under a cap the widest moves of every state come first.
        flat = tried.transpose(1, 2).reshape(n, m * b, f)
        asked = asked.transpose(1, 2).reshape(n, m * b)
        owner, which = asked.nonzero(as_tuple=True)
        wrong, ahead = (torch.zeros_like(asked), torch.full_like(asked, -torch.inf, dtype=torch.float64))
        wrong[owner, which], ahead[owner, which] = oracle.ask(flat[owner, which], rows[owner])
        sets = columns.changes(clean[:, None], flat)
        key = _set_key(sets)
        done = wrong.any(dim=1)
        if bool(done.any()):
            cost = columns.costs(clean[done][:, None], flat[done]).sum(dim=2)
            rank = -(sets[done].sum(dim=2) + cost / (1 + cost)).masked_fill(~wrong[done], torch.inf)
            at, real = _best_of_each_set(rank, key[done], width)
            finds.append(Finds(rows[done][:, None].expand_as(at)[real], flat[done].gather(1, _wide(at, f))[real]))
        at, real = _best_of_each_set(ahead, key, width)
        top = ahead.gather(1, at)[:, 0]
        # A place that no further set fills repeats the first: what it leads to is the same, and is not asked about twice.
        at = torch.where(real, at, at[:, :1])
        states = flat.gather(1, _wide(at, f))
        on = ~done & (top > best)
        rows, states, best = rows[on], states[on], top[on]
    return finds


def _moved(columns: Columns, x: Tensor, states: Tensor) -> Tensor:
    """Every move from every state, ``(n, b, M, F)``, projected; one whose cost would go beyond the budget goes as far as that lets it."""
    import torch

    clean = x[:, None, None]
    tried = torch.where(columns.mask, columns.moves, states[:, :, None].double())
    if columns.rules.max_cost is not None:
        spent = columns.costs(clean, tried)
        moved = columns.mask.double() @ columns.membership > 0
        others = (spent * ~moved).sum(dim=-1, keepdim=True)
        # A millionth less, for the rounding of float32.
        room = (columns.rules.max_cost * (1 - 1e-6) - others).clamp_min(0.0) * columns.scale[columns.unit.clamp_min(0)]
        number = columns.mask & ~columns.coded & ~columns.group[columns.unit.clamp_min(0)]
        limited = clean.double() + torch.minimum(torch.maximum(tried - clean.double(), -room), room)
        tried = torch.where(number, limited, tried)
    return columns.project(clean, tried, columns.free(x)[:, None, None])


def _worth_asking(columns: Columns, x: Tensor, states: Tensor, tried: Tensor) -> Tensor:
    """Admissible, and with a unit changed that was not, ``(n, b, M)`` bool; equal states are followed once."""
    clean = x[:, None, None]
    more = columns.changes(clean, tried) & ~columns.changes(x[:, None], states)[:, :, None]
    same = (states[:, :, None] == states[:, None]) | (states[:, :, None].isnan() & states[:, None].isnan())
    repeats = same.all(dim=-1).tril(diagonal=-1).any(dim=-1)
    return more.any(dim=-1) & ~repeats[..., None] & columns.permits(clean, tried)


def _promising(oracle: Oracle, columns: Columns, rows: Tensor, states: Tensor, tried: Tensor, asked: Tensor) -> Tensor:
    """Of the moves in `asked` the `_SHORTLIST` of each state with the largest first-order gain, and all moves between codes, ``(n, b, M)`` bool."""
    import torch

    n, b, m = tried.shape[:3]
    if m <= _SHORTLIST:
        return torch.ones((n, b, m), dtype=torch.bool, device=tried.device)
    gain = torch.full((n, b, m), -torch.inf, dtype=torch.float64, device=tried.device)
    for i in range(b):
        here = oracle.left(rows)
        _, gradient = oracle.gradient(states[here, i], rows[here])
        step = (tried[here, i].double() - states[here, i, None].double()).nan_to_num(nan=0.0)
        gain[here, i] = torch.einsum("nmf,nf->nm", step, gradient)
    gain = gain.masked_fill(~asked, -torch.inf)
    least = gain.topk(_SHORTLIST, dim=-1).values[..., -1:]
    return (gain >= least) | (columns.mask & columns.coded).any(dim=-1)


def _set_key(sets: Tensor) -> Tensor:
    """A number for each set of units: a sum of random odd 64-bit numbers, one per unit, modulo 2**64."""
    import numpy as np
    import torch

    draws = np.random.default_rng(0).integers(-(2**62), 2**62, sets.shape[-1]) | 1
    return (sets.long() * torch.from_numpy(draws).to(sets.device)).sum(dim=-1)


def _best_of_each_set(rank: Tensor, key: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Positions of the `width` highest with different keys, ``(n, width)``, and which of them are any good (not minus infinity)."""
    import torch

    left, at = rank.clone(), []
    for _ in range(min(width, rank.shape[1])):
        best = left.argmax(dim=1, keepdim=True)
        at.append(torch.where(left.gather(1, best) > -torch.inf, best, -1))
        left = left.masked_fill(key == key.gather(1, best), -torch.inf)
    found = torch.cat(at, dim=1)
    return found.clamp_min(0), found >= 0


def _wide(at: Tensor, features: int) -> Tensor:
    return at[..., None].expand(*at.shape, features)


# --- many columns: along the gradient, or at random ------------------------------------------------------------------


def frank_wolfe(oracle: Oracle, columns: Columns, x: Tensor, rows: Tensor, steps: int) -> Finds:
    """Follow the gradient inside what the rules allow: each step goes towards the admissible change that gains most to first order.

    That change is exact: ranges, directions and cost make a fractional knapsack, which the units of largest gain per cost fill first; at
    most `max_changed` of them are taken. The first step goes all the way, so a linear model turns in it if it can be turned at all. Whole
    numbers and one-hot groups move in the continuous, and the model is asked about their projection. Category codes stay.

    Source: Frank & Wolfe 1956; as an attack Chen et al. 2020, arXiv:1811.10828; repair at every step: Simonetto et al. 2024, arXiv:2406.00775.
    """
    import torch

    finds: list[Finds] = []
    free = columns.free(x[rows])
    relaxed = x[rows].double()
    for step in range(steps + 1):
        clean = x[rows]
        here = columns.project(clean, relaxed, free)
        # Where a relation or a budget refuses the projection, the gradient is still that of a point nearby.
        wrong, gradient = oracle.gradient(here, rows)
        good = wrong & columns.permits(clean, here)
        if bool(good.any()):
            finds.append(Finds(rows[good], here[good]))
        on = ~good & oracle.left(rows)
        rows, free, relaxed, clean, here = rows[on], free[on], relaxed[on], clean[on], here[on]
        if not len(rows) or step == steps:
            break
        pull = _through_relations(columns, clean, here, gradient[on])
        goal = _best_admissible(columns, clean, free, pull)
        relaxed = relaxed + 2 / (step + 2) * (goal - relaxed)
        if columns.rules.max_changed is not None:
            worth = (pull * (relaxed - clean.double()).nan_to_num(nan=0.0)) @ columns.membership
            kept = _largest(worth.clamp_min(0.0), columns.rules.max_changed) @ columns.membership.T > 0
            relaxed = torch.where(kept, relaxed, clean.double())
    return Finds.join(finds, x)


def _through_relations(columns: Columns, x: Tensor, here: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by the columns that are set, those that follow from them included."""
    import torch

    if not columns.derived:
        return gradient
    with torch.enable_grad():
        given = here.double().detach().requires_grad_()
        (pull,) = torch.autograd.grad(columns.derive(x, given, everywhere=True), given, gradient)
    return pull.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _best_admissible(columns: Columns, x: Tensor, free: Tensor, gradient: Tensor) -> Tensor:
    """The admissible rows ``(n, F)`` float64 of largest first-order gain; see `frank_wolfe`."""
    import torch

    low, high = columns.reach(x)
    base = x.double()
    step = torch.where(gradient > 0, high - base, low - base).nan_to_num(nan=0.0)
    movable = free & ~columns.coded
    step = torch.where(movable & ~columns.group[columns.unit.clamp_min(0)], step, 0.0)
    for group in columns.group.nonzero().flatten().tolist():
        own = (columns.unit == group).nonzero().flatten()
        aim = torch.nn.functional.one_hot(gradient[:, own].argmax(dim=1), len(own)).to(base.dtype)
        step[:, own] = torch.where(movable[:, own], aim - base[:, own], 0.0)
    step = torch.where(step != 0, step, 0.0)
    gain = (gradient * step) @ columns.membership
    rules = columns.rules
    if rules.max_cost is not None:
        cost = columns.costs(base, base + step)
        if rules.max_changed is not None:
            share = (rules.max_cost / cost.clamp_min(1e-30)).clamp_max(1.0)
            gain = _largest(gain * share, rules.max_changed)
        order = (gain / cost.clamp_min(1e-30)).argsort(dim=1, descending=True, stable=True)
        ordered = (cost * (gain > 0)).gather(1, order)
        room = rules.max_cost * (1 - 1e-6) - (ordered.cumsum(dim=1) - ordered)
        part = torch.zeros_like(gain).scatter(1, order, (room / ordered.clamp_min(1e-30)).clamp(0.0, 1.0))
        part = torch.where(columns.group & (part < 1), 0.0, part)
    else:
        if rules.max_changed is not None:
            gain = _largest(gain, rules.max_changed)
        part = torch.ones_like(gain)
    part = part * (gain > 0)
    return torch.where(base.isnan(), base, base + step * (part @ columns.membership.T))


def _largest(gain: Tensor, count: int) -> Tensor:
    """The `count` largest of each row, the rest 0."""
    import torch

    at = gain.topk(min(count, gain.shape[1]), dim=1).indices
    return torch.zeros_like(gain).scatter(1, at, gain.gather(1, at))


def at_random(oracle: Oracle, columns: Columns, x: Tensor, rows: Tensor, draws: int, rng: ExampleRng) -> Finds:
    """Random admissible rows: of a random share of the units, each one of the moves worth trying.

    Args:
        rng: one stream per row of `rows`.
    """
    import torch

    finds: list[Finds] = []
    units, f = len(columns.units), x.shape[1]
    owner = columns.mask.double() @ columns.membership > 0
    single = owner.sum(dim=1) == 1
    choices = [(owner[:, a] & single).nonzero().flatten() for a in range(units)]
    pick, share, chance = (rng.fork(what).uniform(shape).to(x.device) for what, shape in (
        ("value", (draws, units)), ("share", (draws, 1)), ("unit", (draws, units)),
    ))  # fmt: skip
    if columns.rules.max_changed is not None:
        share = share.clamp_max(columns.rules.max_changed / units)
    largest = max(1, _ELEMENTS // max(1, draws * f))
    for part in torch.arange(len(rows), device=x.device).split(largest):  # type: ignore[no-untyped-call]
        clean = x[rows[part]][:, None]
        tried = clean.double().expand(-1, draws, -1).clone()
        for a, moves in enumerate(choices):
            drawn = moves[(pick[part, :, a] * len(moves)).long().clamp_max(len(moves) - 1)]
            take = (chance[part, :, a] <= share[part, :, 0])[..., None] & columns.mask[drawn]
            tried = torch.where(take, columns.moves[drawn], tried)
        free = columns.free(clean)
        tried = columns.project(clean, tried, free)
        if columns.rules.max_cost is not None:
            cost = columns.costs(clean, tried).sum(dim=-1, keepdim=True)
            over = (columns.rules.max_cost * (1 - 1e-6) / cost.clamp_min(1e-30)).clamp_max(1.0)
            number = (columns.unit >= 0) & ~columns.coded & ~columns.group[columns.unit.clamp_min(0)]
            nearer = clean.double() + over * (tried.double() - clean.double())
            tried = columns.project(clean, torch.where(number, nearer, tried.double()), free)
        asked = columns.permits(clean, tried) & columns.changes(clean, tried).any(dim=-1)
        at, which = asked.nonzero(as_tuple=True)
        wrong, _ = oracle.ask(tried[at, which], rows[part][at])
        finds.append(Finds(rows[part][at[wrong]], tried[at, which][wrong]))
    return Finds.join(finds, x)


# --- no more than is needed ------------------------------------------------------------------------------------------


def shrink(oracle: Oracle, columns: Columns, x: Tensor, finds: Finds) -> Finds:
    """Put back what is not needed: units first, then the numbers' way, as long as the model stays wrong.

    In the end no single unit can be put back, and no number a thousandth of its change, with the rest as they are.
    """
    import torch

    here = finds.x.clone()
    largest = max(1, _ELEMENTS // (max(len(columns.units), _HALVINGS + 2) * len(columns.units) * x.shape[1]))
    for part in torch.arange(len(here), device=x.device).split(largest):  # type: ignore[no-untyped-call]
        nearer = here[part]
        _put_back(oracle, columns, x, finds.row[part], nearer)
        _pull_in(oracle, columns, x, finds.row[part], nearer)
        here[part] = nearer
    return Finds(finds.row, here)


def _put_back(oracle: Oracle, columns: Columns, x: Tensor, rows: Tensor, here: Tensor) -> None:
    """Return units to what they were: each alone, then as many together as it takes no more, the least needed first."""
    import torch

    active = torch.arange(len(rows), device=x.device)
    while len(active):
        clean, now = x[rows[active]], here[active]
        changed = columns.changes(clean, now)
        units = len(columns.units)
        single = torch.eye(units, dtype=torch.bool, device=x.device).expand(len(active), -1, -1)
        wrong, ahead = _without(oracle, columns, clean, now, rows[active], single & changed[:, :, None])
        # The least needed first: the one without which the model is furthest gone; of labels, the dearest.
        worth = ahead if oracle.graded else columns.costs(clean, now)
        order = worth.masked_fill(~wrong, -torch.inf).argsort(dim=1, descending=True, stable=True)
        place = order.argsort(dim=1)
        several = (place[:, None] <= torch.arange(units, device=x.device)[:, None]) & wrong[:, None]
        several &= (torch.arange(units, device=x.device) < wrong.sum(dim=1, keepdim=True))[..., None]
        further = several & (several.sum(dim=2, keepdim=True) > 1)
        more, _ = _without(oracle, columns, clean, now, rows[active], further)
        count = torch.where(more, torch.arange(1, units + 1, device=x.device), 0).amax(dim=1)
        best = torch.where(wrong.any(dim=1), count.clamp_min(1), 0)
        back = place < best[:, None]
        back &= wrong
        now = columns.project(clean, _returned(columns, clean, now, back), columns.free(clean))
        gone = best > 0
        here[active[gone]] = now[gone]
        active = active[gone]


def _returned(columns: Columns, x: Tensor, rows: Tensor, back: Tensor) -> Tensor:
    """Rows with the columns of the units in `back` ``(..., A)`` as they are in `x`."""
    import torch

    return torch.where(back.double() @ columns.membership.T > 0, x.double(), rows.double())


def _without(
    oracle: Oracle, columns: Columns, x: Tensor, now: Tensor, rows: Tensor, back: Tensor
) -> tuple[Tensor, Tensor]:
    """Ask about rows with sets of units put back, ``(n, K, A)`` bool (an empty set is not asked about): still wrong ``(n, K)``, and
    by how much."""
    import torch

    clean = x[:, None]
    tried = columns.project(clean, _returned(columns, clean, now[:, None], back), columns.free(x)[:, None])
    asked = back.any(dim=2) & columns.permits(clean, tried)
    asked &= columns.changes(clean, tried).any(dim=2)
    owner, which = asked.nonzero(as_tuple=True)
    wrong, ahead = torch.zeros_like(asked), torch.full_like(asked, -torch.inf, dtype=torch.float64)
    wrong[owner, which], ahead[owner, which] = oracle.ask(tried[owner, which], rows[owner])
    return wrong, ahead


def _pull_in(oracle: Oracle, columns: Columns, x: Tensor, rows: Tensor, here: Tensor) -> None:
    """Move numbers back towards where they were: each round each of them alone, by 7/8, 3/4, and every
    half of a half; the one that saves most stays moved."""
    import torch

    active = torch.arange(len(rows), device=x.device)
    number = ~columns.group & ~(columns.coded.double() @ columns.membership > 0)
    halves = 0.5 ** torch.arange(1, _HALVINGS + 1, dtype=torch.float64, device=x.device)
    shares = torch.cat([halves[1:3], 1 - halves])
    member = columns.membership.T.bool()
    while len(active):
        clean, now = x[rows[active]], here[active]
        wide, free = clean[:, None, None], columns.free(clean)[:, None, None]
        changed = columns.changes(clean, now) & number
        part = torch.where(member[:, None], shares[:, None], 1.0)  # (A, P, F)
        step = (now.double() - clean.double())[:, None, None]
        tried = columns.project(wide, wide.double() + part * step, free)
        asked = changed[..., None] & columns.permits(wide, tried)
        cost = columns.costs(wide, tried).sum(dim=-1)
        total = columns.costs(clean, now).sum(dim=-1)
        asked &= (cost < total[:, None, None]) & columns.changes(wide, tried).any(dim=-1)
        at = asked.nonzero(as_tuple=True)
        wrong = torch.zeros_like(asked)
        wrong[at], _ = oracle.ask(tried[at], rows[active][at[0]])
        saved = torch.where(wrong, total[:, None, None] - cost, 0.0).flatten(1)
        best = saved.argmax(dim=1)
        gain = saved.gather(1, best[:, None]).squeeze(1)
        better = gain > _LEAST_SAVING * total
        here[active[better]] = tried.flatten(1, 2)[torch.arange(len(active), device=x.device), best][better]
        active = active[better]


def smallest(columns: Columns, x: Tensor, finds: Finds) -> Finds:
    """Of each example's finds the one with the fewest units changed, the cheapest of those."""
    if not len(finds.row):
        return finds
    clean = x[finds.row]
    count = columns.changes(clean, finds.x).sum(dim=1)
    cost = columns.costs(clean, finds.x).sum(dim=1)
    for key in (cost, count, finds.row):  # stable sorts, the last rules
        order = key.argsort(stable=True)
        finds, count, cost = Finds(finds.row[order], finds.x[order]), count[order], cost[order]
    first = finds.row.diff(prepend=finds.row[:1] - 1) != 0
    return Finds(finds.row[first], finds.x[first])


def sees_gradients(model: AuditedModel) -> bool:
    """Whether the model answers what the searches along the gradient need."""
    return {Capability.GRADIENTS, Capability.LOGITS} <= model.capabilities
