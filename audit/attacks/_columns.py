"""What may change in a row of a table, by how much, and what it costs: fitted to training rows, shared by every search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING, Any

from audit.attacks._relations import Relation, in_order
from audit.names import nearest
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import Field, InputSpec

_ROUNDING = 1e-6
"""Of ranges and costs, relative: candidates may be float32."""


@dataclass(frozen=True)
class Rules:
    """What a scenario declares about the columns; see the fields of `Tabular`."""

    mutable: tuple[str, ...] | None = None
    immutable: tuple[str, ...] = ()
    increase_only: tuple[str, ...] = ()
    decrease_only: tuple[str, ...] = ()
    integer: tuple[str, ...] | None = None
    category: tuple[str, ...] = ()
    one_hot: tuple[tuple[str, ...], ...] = ()
    ranges: Mapping[str, tuple[float, float]] = dataclass_field(default_factory=dict)
    tail: float = 0.0
    scales: Mapping[str, float] = dataclass_field(default_factory=dict)
    relations: tuple[Relation, ...] = ()
    tolerance: float = 1e-5
    max_changed: int | None = None
    max_cost: float | None = None
    values: int = 16

    def named(self) -> dict[str, tuple[str, ...]]:
        """Rule → the columns that it names."""
        return {
            "mutable": self.mutable or (),
            "immutable": self.immutable,
            "increase_only": self.increase_only,
            "decrease_only": self.decrease_only,
            "integer": self.integer or (),
            "category": self.category,
            "one_hot": tuple(name for group in self.one_hot for name in group),
            "ranges": tuple(self.ranges),
            "scales": tuple(self.scales),
            "relations": tuple(name for relation in self.relations for name in sorted(relation.names)),
        }

    def words(self) -> str:
        """The rules in one line."""
        said = ["only " + ", ".join(self.mutable) + " may change"] if self.mutable is not None else []
        parts = {"fixed": self.immutable, "only up": self.increase_only, "only down": self.decrease_only}
        said += [f"{how}: {', '.join(names)}" for how, names in parts.items() if names]
        said += [f"one of {', '.join(group)}" for group in self.one_hot]
        said += [relation.text for relation in self.relations]
        said += [f"{name} in {low:g}..{high:g}" for name, (low, high) in self.ranges.items()]
        if self.max_changed is not None:
            said.append(f"at most {self.max_changed} columns")
        if self.max_cost is not None:
            prices = ", ".join(f"{scale:g} of {name}" for name, scale in self.scales.items())
            said.append(f"cost at most {self.max_cost:g}" + (f", where 1 buys {prices}" if prices else ""))
        return "; ".join(said)


@dataclass(frozen=True)
class Columns:
    """Rules fitted to the training rows of a table: of its F columns that may change or that a relation names, and their A units.

    A unit is what is changed as one: a column, or the columns of a one-hot group.

    Args:
        place: ``(F,)`` int64, where the columns stand in the model's input.
        names: ``F`` column names.
        unit: ``(F,)`` int64, which unit a column belongs to; -1 where none changes it.
        units: their names.
        group: ``(A,)`` bool: a one-hot group.
        coded: ``(F,)`` bool: category codes.
        whole: ``(F,)`` bool: whole numbers only.
        low, high: ``(F,)`` float64 range of what a value may become; of a column that follows from others, the model's bounds.
        up, down: ``(F,)`` bool: may go this way.
        scale: ``(A,)`` float64: the change of a number that costs 1; of a category or a group, one over what any change of it costs.
        allowed: column → codes it may take, sorted.
        derived: columns that follow from others, in the order in which they are computed.
        joined: ``(R, F)`` bool columns of each relation.
        freezes: ``(R, F)`` bool columns that stay as they are in a row that breaks a relation: its own, and what those follow from.
        mask, moves: ``(M, F)`` bool and float64: the changes worth trying, which columns they set and to what; the widest first.
    """

    rules: Rules
    place: Tensor
    names: tuple[str, ...]
    unit: Tensor
    units: tuple[str, ...]
    group: Tensor
    coded: Tensor
    whole: Tensor
    low: Tensor
    high: Tensor
    up: Tensor
    down: Tensor
    scale: Tensor
    allowed: Mapping[int, Tensor]
    derived: tuple[Relation, ...]
    joined: Tensor
    freezes: Tensor
    mask: Tensor
    moves: Tensor

    @property
    def membership(self) -> Tensor:
        """``(F, A)`` float64: 1 where a column belongs to a unit."""
        import torch

        return (self.unit[:, None] == torch.arange(len(self.units), device=self.unit.device)).double()

    # --- a row and what became of it: every tensor is (..., F), x broadcasts against rows -------------------------------

    def free(self, x: Tensor) -> Tensor:
        """Which columns of each row the search may set: no missing value, no relation that the row breaks as it stands."""
        import torch

        open_ = (self.unit >= 0) & ~x.isnan()
        for group in self._groups():
            open_[..., group] &= _one_of(x[..., group])[..., None]
        for column, codes in self.allowed.items():
            open_[..., column] &= torch.isin(x[..., column].double(), codes)
        if self.rules.relations:
            broken = ~self._holding(x)
            open_ = open_ & ~(broken.double() @ self.freezes.double() > 0)
        return open_

    def reach(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of every number, float64: its range, stretched to where the row stands, one way only where declared."""
        import torch

        here = x.double()
        low = torch.where(self.down, torch.minimum(self.low, here), here)
        high = torch.where(self.up, torch.maximum(self.high, here), here)
        return low, high

    def project(self, x: Tensor, rows: Tensor, free: Tensor) -> Tensor:
        """The nearest rows with fixed columns put back, numbers in reach and whole, one of each group, and derived columns recomputed.

        Relations that derive nothing, budgets and category codes are left to `permits`.
        """
        import torch

        low, high = self.reach(x)
        out = torch.where(free, rows.double(), x.double())
        number = (self.unit >= 0) & ~self.coded
        within = torch.minimum(torch.maximum(out, low), high)
        # Towards where the row stands, so that rounding never costs more.
        rounded = torch.where(within >= x, within.floor(), within.ceil())
        rounded = torch.minimum(torch.maximum(rounded, low.ceil()), high.floor())
        within = torch.where(self.whole, rounded, within)
        out = torch.where(number & free & (out != x), within, out)
        for group in self._groups():
            chosen = torch.nn.functional.one_hot(out[..., group].nan_to_num().argmax(dim=-1), len(group)).to(out.dtype)
            out[..., group] = torch.where(free[..., group], chosen, out[..., group])
        return self.derive(x, out).to(x.dtype)

    def derive(self, x: Tensor, rows: Tensor, everywhere: bool = False) -> Tensor:
        """Rows ``(..., F)`` with every derived column recomputed where a column that it follows from differs from `x`; differentiable.

        Args:
            everywhere: recompute it where nothing differs as well, so that a gradient shows what would follow.
        """
        import torch

        if not self.derived:
            return rows
        columns = list(rows.unbind(dim=-1))
        place = {name: i for i, name in enumerate(self.names)}
        x = x.expand(rows.shape)
        for relation in self.derived:
            own = place[str(relation.derives)]
            sources = [place[name] for name in relation.names if place[name] != own]
            moved = torch.stack([_differs(columns[i], x[..., i].to(rows)) for i in sources]).any(dim=0)
            value = relation.derived(lambda name: columns[place[name]])
            columns[own] = torch.where((moved | everywhere) & ~x[..., own].isnan(), value, columns[own])
        return torch.stack(columns, dim=-1)

    def changes(self, x: Tensor, rows: Tensor) -> Tensor:
        """Which units differ, ``(..., A)`` bool."""
        return _differs(rows, x).double() @ self.membership > 0

    def costs(self, x: Tensor, rows: Tensor) -> Tensor:
        """What each unit's change costs, ``(..., A)`` float64: distance over scale; of a category or a group, one over scale."""
        import torch

        number = (self.unit >= 0) & ~self.coded & ~self.group[self.unit.clamp_min(0)]
        distance = (rows.double() - x.double()).abs().nan_to_num(nan=0.0) * number
        spent: Tensor = distance @ self.membership
        jumps = self.group | (self.coded.double() @ self.membership > 0)
        return torch.where(jumps, self.changes(x, rows).double(), spent) / self.scale

    def permits(self, x: Tensor, rows: Tensor) -> Tensor:
        """Which rows keep every rule, ``(...)`` bool: asked of the values alone, not of how they came about."""
        import torch

        differs = _differs(rows, x)
        may = self.unit >= 0
        for relation in self.derived:
            may = may | torch.tensor([name == relation.derives for name in self.names], device=may.device)
        good = ~(differs & ~may).any(dim=-1) & ~(differs & (x.isnan() | ~rows.isfinite())).any(dim=-1)
        after, before = rows.double(), x.double().expand(rows.shape)
        number = differs & ~self.coded
        slack = _ROUNDING * torch.maximum(self.low.abs(), self.high.abs())
        under, over = torch.minimum(self.low, before) - slack, torch.maximum(self.high, before) + slack
        good &= ~(number & ((after < under) | (after > over))).any(dim=-1)
        good &= ~(number & ((after > before) & ~self.up | (after < before) & ~self.down)).any(dim=-1)
        good &= ~(number & self.whole & (after != after.round())).any(dim=-1)
        for column, codes in self.allowed.items():
            good &= ~differs[..., column] | torch.isin(after[..., column], codes)
        for group in self._groups():
            kept = _one_of(before[..., group]) & _one_of(after[..., group])
            good &= ~differs[..., group].any(dim=-1) | kept
        if self.rules.relations:
            touched = (differs[..., None, :] & self.joined).any(dim=-1)
            good &= (~touched | self._holding(before) & self._holding(after)).all(dim=-1)
        if self.rules.max_changed is not None:
            good &= self.changes(x, rows).sum(dim=-1) <= self.rules.max_changed
        if self.rules.max_cost is not None:
            good &= self.costs(x, rows).sum(dim=-1) <= self.rules.max_cost * (1 + _ROUNDING)
        return good

    def _holding(self, rows: Tensor) -> Tensor:
        """Which relations hold, ``(..., R)`` bool."""
        import torch

        wide, place = rows.double(), {name: i for i, name in enumerate(self.names)}
        return torch.stack(
            [r.holds(lambda name: wide[..., place[name]], self.rules.tolerance) for r in self.rules.relations], dim=-1
        )

    def _groups(self) -> list[Tensor]:
        """Columns of each one-hot group."""
        return [(self.unit == a).nonzero().flatten() for a in self.group.nonzero().flatten().tolist()]


def _differs(rows: Tensor, x: Tensor) -> Tensor:
    """Where values differ; missing equals missing."""
    return (rows != x) & ~(rows.isnan() & x.isnan())


def _one_of(values: Tensor) -> Tensor:
    """Which rows ``(..., G)`` hold exactly one 1 and else 0."""
    found: Tensor = ((values == 0) | (values == 1)).all(dim=-1) & (values.sum(dim=-1) == 1)
    return found


# --- fitting ---------------------------------------------------------------------------------------------------------


def fit_columns(rules: Rules, spec: InputSpec, seen: Tensor | None, device: Any = "cpu") -> Columns:
    """Rules as they are for a table.

    Args:
        seen: ``(N, F)`` training rows; None where there are none, and ranges must then be declared.

    Raises:
        UserError: a rule names a column that does not exist or contradicts another, or there is nothing to take a range from.
    """
    import torch

    _check_names(rules, [field.name for field in spec.fields])
    derived = [r for r in in_order(rules.relations) if r.derives not in rules.immutable]
    mutable = set(rules.mutable if rules.mutable is not None else (field.name for field in spec.fields))
    mutable -= {*rules.immutable, *(str(relation.derives) for relation in derived)}
    concerned = mutable.union(*(relation.names for relation in rules.relations))
    place = [i for i, field in enumerate(spec.fields) if field.name in concerned]
    seen = None if seen is None else seen[:, place]
    fields = [spec.fields[i] for i in place]
    names = tuple(field.name for field in fields)
    unit, units, groups = _units(rules, names, mutable)
    coded = torch.tensor([field.kind == "category" or field.name in rules.category for field in fields])
    columns = [_Column(rules, field, bool(coded[i]), seen, i) for i, field in enumerate(fields)]
    moving = [i for i, a in enumerate(unit) if a >= 0]
    scale = torch.ones(len(units), dtype=torch.float64)
    for i in moving:
        columns[i].settle(rules, in_group=unit[i] in groups)
    for i in reversed(moving):  # of a group, its first column's
        scale[unit[i]] = columns[i].scale
    joined = [[name in relation.names for name in names] for relation in rules.relations]
    freezes = [[name in _roots(relation, derived) for name in names] for relation in rules.relations]
    free_standing = [row for row, relation in zip(freezes, rules.relations, strict=True) if relation not in derived]
    mask, moves = _moves(columns, unit, groups, free_standing, seen, rules)

    def told(value: Any, dtype: Any) -> Tensor:
        return torch.as_tensor(value, dtype=dtype, device=device)

    return Columns(
        rules=rules,
        place=told(place, torch.int64),
        names=names,
        unit=told(unit, torch.int64),
        units=tuple(units),
        group=told([a in groups for a in range(len(units))], torch.bool),
        coded=coded.to(device),
        whole=told([column.whole for column in columns], torch.bool),
        low=told([column.low for column in columns], torch.float64),
        high=told([column.high for column in columns], torch.float64),
        up=told([name not in rules.decrease_only for name in names], torch.bool),
        down=told([name not in rules.increase_only for name in names], torch.bool),
        scale=scale.to(device),
        allowed={i: told(columns[i].values, torch.float64) for i in moving if coded[i]},
        derived=tuple(derived),
        joined=told(joined, torch.bool).reshape(-1, len(names)),
        freezes=told(freezes, torch.bool).reshape(-1, len(names)),
        mask=mask.to(device),
        moves=moves.to(device),
    )


def _check_names(rules: Rules, names: Sequence[str]) -> None:
    """Every named column exists, and no two rules contradict each other."""
    for rule, named in rules.named().items():
        for name in named:
            if name not in names:
                guess = nearest(name, list(names))
                hint = f"did you mean '{guess}'?" if guess else f"it has {', '.join(names[:20])}"
                raise UserError(f"{rule} names column '{name}', which the model is not fed; {hint}")
    for relation in rules.relations:
        if rules.mutable is not None and relation.derives in rules.mutable:
            raise UserError(
                f"column '{relation.derives}' follows from relation '{relation.text}': leave it out of mutable"
            )


def _units(rules: Rules, names: Sequence[str], mutable: set[str]) -> tuple[list[int], list[str], set[int]]:
    """Which unit each column belongs to (-1: none), the units' names, and which of them are one-hot groups."""
    unit, units, groups = [-1] * len(names), list[str](), set[int]()
    for group in rules.one_hot:
        inside = [name in mutable for name in group]
        if any(inside) and not all(inside):
            raise UserError(f"one_hot group {', '.join(group)} is mutable in part: name all of its columns, or none")
        if all(inside):
            groups.add(len(units))
            for name in group:
                unit[names.index(name)] = len(units)
            units.append(" / ".join(group))
    grouped = {name for group in rules.one_hot for name in group}
    for i, name in enumerate(names):
        if name in mutable and name not in grouped:
            unit[i] = len(units)
            units.append(name)
    if not units:
        raise UserError("no column may change: name some under mutable")
    return unit, units, groups


def _roots(relation: Relation, derived: Sequence[Relation]) -> set[str]:
    """Columns of a relation, and those that its derived ones follow from."""
    found = set(relation.names)
    for earlier in reversed(derived):
        if earlier.derives in found:
            found |= earlier.names
    return found


class _Column:
    """One column as the training rows show it."""

    def __init__(self, rules: Rules, field: Field, coded: bool, seen: Tensor | None, place: int) -> None:
        self.field, self.coded = field, coded
        values = seen[:, place].double() if seen is not None else None
        self.seen = None if values is None else values[values.isfinite()].sort().values
        known = self.seen is not None and len(self.seen) > 0
        whole = known and bool((self.seen == self.seen.round()).all()) if self.seen is not None else False
        self.whole = not coded and (field.name in rules.integer if rules.integer is not None else whole)
        self.low, self.high = field.bounds or (-math.inf, math.inf)
        self.scale = 1.0
        self.values: list[float] = []

    def within(self, found: tuple[float, float]) -> None:
        """Narrow the range down to what was found or declared."""
        self.low, self.high = max(self.low, found[0]), min(self.high, found[1])
        if self.low > self.high:
            raise UserError(
                f"column '{self.field.name}': range {found[0]:g}..{found[1]:g} lies outside the model's bounds {self.field.bounds}"
            )

    def settle(self, rules: Rules, in_group: bool) -> None:
        """Range, scale, and values worth trying.

        Raises:
            UserError: neither rows nor declarations give them.
        """
        import torch

        name, seen = self.field.name, self.seen if self.seen is not None and len(self.seen) else None
        if self.field.kind not in ("number", "category"):
            raise UserError(f"column '{name}' is {self.field.kind}: only numbers and categories can be changed here")
        self.scale = rules.scales.get(name, 1.0)
        if in_group:
            self.low, self.high, self.values = 0.0, 1.0, [0.0, 1.0]
            return
        if self.coded:
            known = range(len(self.field.categories)) if seen is None else seen.unique().tolist()  # type: ignore[no-untyped-call]
            self.values = [float(code) for code in known]
        elif seen is not None:
            last = len(seen) - 1
            inner = seen[round(rules.tail * last) : last - round(rules.tail * last) + 1]
            self.within(rules.ranges.get(name, (float(inner[0]), float(inner[-1]))))
            inner = seen.clamp(self.low, self.high)
            self.values = _spread(inner, rules.values)
            quarter, three = (float(inner[round(share * last)]) for share in (0.25, 0.75))
            spread = (three - quarter) / 1.349 or float(inner.std(correction=0)) or self.high - self.low or 1.0
            self.scale = rules.scales.get(name, spread)
        elif name in rules.ranges:
            self.within(rules.ranges[name])
            self.values = torch.linspace(self.low, self.high, rules.values, dtype=torch.float64).tolist()
            self.scale = rules.scales.get(name, (self.high - self.low) / 4 or 1.0)
        if not self.values:
            raise UserError(
                f"column '{name}': no training rows show what it may become; give the data a split, or the column a range"
            )
        if self.coded:
            return
        if self.whole and self.high - self.low < rules.values:
            self.values = [float(v) for v in range(math.ceil(self.low), math.floor(self.high) + 1)]
        self.values = sorted({self.low, *self.values, self.high})


def _spread(ordered: Tensor, count: int) -> list[float]:
    """About `count` of the values that occur: half as the rows are spread, half as the different values are."""
    import torch

    distinct = ordered.unique()  # type: ignore[no-untyped-call]
    if len(distinct) <= count:
        return [float(v) for v in distinct.tolist()]
    half = count // 2

    def evenly(values: Tensor) -> Tensor:
        return values[torch.linspace(0, len(values) - 1, half).round().long()]

    return sorted({*evenly(ordered).tolist(), *evenly(distinct).tolist()})


def _moves(
    columns: Sequence[_Column],
    unit: Sequence[int],
    groups: set[int],
    linked: Sequence[Sequence[bool]],
    seen: Tensor | None,
    rules: Rules,
) -> tuple[Tensor, Tensor]:
    """Changes worth trying, as which columns they set and to what: each unit to each of its values, the widest first; and, for units
    that a relation links and that cannot move one by one, what training rows hold in all of them together."""
    import torch

    where, to = torch.tensor(unit), list[tuple[int, int, int, dict[int, float]]]()
    for a in range(max(unit) + 1):
        own = (where == a).nonzero().flatten().tolist()
        if a in groups:
            choices = [{i: float(i == chosen) for i in own} for chosen in own]
        else:
            values = sorted(columns[own[0]].values)
            middle = (len(values) - 1) / 2
            choices = [{own[0]: v} for _, v in sorted(enumerate(values), key=lambda at: -abs(at[0] - middle))]
        to += [(place, a, 0, choice) for place, choice in enumerate(choices)]
    for number, link in enumerate(linked):
        touched = {unit[i] for i, inside in enumerate(link) if inside and unit[i] >= 0}
        own = [i for i, a in enumerate(unit) if a in touched]
        if seen is None or len(touched) < 2:
            continue
        whole = seen[seen[:, own].isfinite().all(dim=1)]
        if len(whole):
            whole = whole[whole[:, own[0]].argsort(stable=True)]
            donors = whole[torch.linspace(0, len(whole) - 1, rules.values).round().long()]
            to += [
                (place, len(unit), number, dict(zip(own, row.tolist(), strict=True)))
                for place, row in enumerate(donors[:, own])
            ]
    to.sort(key=lambda move: move[:3])
    mask = torch.zeros((len(to), len(unit)), dtype=torch.bool)
    moves = torch.zeros((len(to), len(unit)), dtype=torch.float64)
    for m, (*_, choice) in enumerate(to):
        for i, value in choice.items():
            mask[m, i], moves[m, i] = True, value
    return mask, moves
