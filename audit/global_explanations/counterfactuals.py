"""What would have to be different for another answer: near, sparse, plausible changes of a row, several that differ.

The search is that of the attack ``tabular``: the same constraints, the other purpose. Here it is asked again without the columns that
the changes found so far lean on most, so that the next one is another way.

Source: Wachter et al. 2017, arXiv:1711.00399 (distance); Mothilal et al. 2020, arXiv:1905.07697 (DiCE: several, diverse, feasible);
plausibility: local outlier factor, Breunig et al. 2000, doi 10.1145/342009.335388.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from audit.data import AuditData, Batch
from audit.global_explanations._encoding import encode, standardise
from audit.model import AuditedModel, Capability, Field, InputSpec, implied
from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.attacks._table_search import Finds
    from audit.attacks.tabular import Tabular
    from audit.finding import ThreatModel
    from audit.gate import Gate
    from audit.rng import ExampleRng

MOST_ELEMENTS = 1024
"""Of an input that is no table: each element is searched as a column."""


# --- the question ----------------------------------------------------------------------------------------------------


def towards(model: AuditedModel, desired: int | Gate) -> AuditedModel:
    """The model as a classifier of two over the columns of a table: 1 where its answer is the desired one, else 0.

    Args:
        desired: a class, or what a regression's value must meet.

    Raises:
        NotApplicable: see `as_columns`.
        UserError: an equality, which cannot be aimed at.
    """
    if isinstance(desired, int):
        if model.output == "label":
            return _view(model, lambda x: (model.labels_of(model.scores(x)) == desired).long(), labels=True)
        return _view(model, lambda x: _lead(model.logits(x), desired))
    if desired.direction == "equal":
        raise UserError(f"'{desired}' cannot be aimed at: ask for at least or at most a value")
    sign = 1 if desired.direction == "greater" else -1

    def beyond(x: Tensor) -> Tensor:
        value = model.target_score(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))
        return sign * (value - desired.threshold)

    return _view(model, beyond)


def _lead(logits: Tensor, target: int) -> Tensor:
    """A class's logit over the best other one."""
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
    return logits[:, target] - others.amax(dim=1)


def _view(model: AuditedModel, forward: Callable[[Tensor], Tensor], labels: bool = False) -> AuditedModel:
    gradients = Capability.GRADIENTS in model.capabilities and not labels
    return AuditedModel(
        name=model.name,
        digest=model.digest,
        task="classification",
        classes=("other", "desired"),
        spec=as_columns(model.spec),
        output="label" if labels else "margin",
        capabilities=implied("label" if labels else "margin", gradients=gradients, layers=False),
        forward=lambda x: forward(as_input(model, x)),
        module=model.module,
        micro_batch=model.micro_batch,
        device=model.device,
    )


def as_columns(spec: InputSpec) -> InputSpec:
    """An input as a table: itself, or one column of numbers per element.

    Raises:
        NotApplicable: it is made of signs, or has more than `MOST_ELEMENTS`.
    """
    if spec.tabular:
        return spec
    if spec.kind in ("text", "tokens", "category", "id") or math.prod(spec.shape) > MOST_ELEMENTS:
        raise NotApplicable(
            f"counterfactuals change the columns of a table, or up to {MOST_ELEMENTS:,} numbers; the input is {spec.a_kind} of "
            f"shape {spec.shape}"
        )
    places = torch.cartesian_prod(*(torch.arange(size) for size in spec.shape)).reshape(-1, len(spec.shape)).tolist()
    return InputSpec(
        fields=tuple(Field(name=", ".join(map(str, place)), kind="number", bounds=spec.bounds) for place in places)
    )


def as_input(model: AuditedModel, x: Tensor) -> Tensor:
    """Rows of columns ``(N, F)`` as the model is fed them."""
    return x if model.spec.tabular else x.reshape(len(x), *model.spec.shape).to(model.input_dtype)


def flattened(data: AuditData, spec: InputSpec) -> AuditData:
    """The same rows as columns."""

    def flat(batch: Batch | None) -> Batch | None:
        return None if batch is None else Batch(batch.x.reshape(len(batch), -1), batch.labels, batch.ids, batch.groups)

    test = flat(data.test)
    assert test is not None
    return AuditData(data.source, test, spec, data.classes, flat(data.train), flat(data.population), data.notes)


# --- how far, and how odd --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    """Mean-absolute-deviation-scaled L1 distance over the columns of a table.

    A number counts its difference over the median absolute deviation of the rows it was fitted to (the standard deviation where
    that is 0), a category 1 where it differs; missing values are equal to each other.

    Args:
        scale: ``(F,)`` float64.
        coded: ``(F,)`` bool.
    """

    scale: Tensor
    coded: Tensor

    @staticmethod
    def fit(rows: Tensor, spec: InputSpec) -> Distance:
        """The distance as it is among rows ``(N, F)``."""
        values = rows.double()
        deviation = (values - values.nanmedian(dim=0).values).abs().nanmedian(dim=0).values
        spread = ((values - values.nanmean(dim=0)) ** 2).nanmean(dim=0).sqrt()
        scale = torch.where(deviation > 0, deviation, spread).nan_to_num(nan=1.0)
        coded = torch.tensor([field.kind == "category" for field in spec.fields], device=rows.device)
        return Distance(torch.where(scale > 0, scale, 1.0), coded)

    def __call__(self, x: Tensor, others: Tensor) -> Tensor:
        """Distances ``(...)`` between rows ``(..., F)``; arguments broadcast."""
        x, others = x.double(), others.double()
        missing = x.isnan() | others.isnan()
        apart = torch.where(self.coded, (x != others).double(), (x - others).abs() / self.scale)
        apart = torch.where(missing, (x.isnan() != others.isnan()).double(), apart)
        return apart.sum(dim=-1)


@dataclass(frozen=True)
class Plausibility:
    """How usual rows are among those with the desired answer.

    Args:
        inlier: ``(T,)`` bool: the local outlier factor finds nothing odd.
        neighbour_distance: ``(T,)`` mean distance to the k nearest of them, over the median that those have themselves.
    """

    inlier: Tensor
    neighbour_distance: Tensor


def plausibility(rows: Tensor, usual: Tensor, spec: InputSpec, neighbours: int) -> Plausibility:
    """Compare rows ``(T, F)`` with those that have the desired answer ``(M, F)``, in standardised columns.

    Raises:
        UserError: fewer than three rows to compare with.
    """
    from sklearn.neighbors import LocalOutlierFactor

    if len(usual) < 3:
        raise UserError(f"plausibility needs 3 rows with the desired answer, the data has {len(usual)}")
    base = encode(usual, spec)[0]
    like, asked = standardise(base, base), standardise(encode(rows, spec)[0], base)
    k = min(neighbours, len(usual) - 1)
    found = LocalOutlierFactor(n_neighbors=k, novelty=True).fit(like.numpy())
    own = torch.cdist(like, like).topk(k + 1, dim=1, largest=False).values[:, 1:].mean(dim=1)
    near = torch.cdist(asked, like).topk(k, dim=1, largest=False).values.mean(dim=1)
    typical = float(own.median())
    inlier = torch.from_numpy(found.predict(asked.numpy()) == 1) if len(asked) else torch.zeros(0, dtype=torch.bool)
    return Plausibility(inlier, near / typical if typical > 0 else near)


def nearest_distance(x: Tensor, others: Tensor, distance: Distance) -> Tensor:
    """Distance from each row ``(N, F)`` to the nearest of others ``(M, F)``, ``(N,)``."""
    size = max(1, 2**22 // max(1, others.numel()))
    return torch.cat([distance(part[:, None], others).amin(dim=1) for part in x.split(size)])  # type: ignore[no-untyped-call]


# --- the search ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counterfactuals:
    """Changed rows with the desired answer.

    Args:
        row: ``(T,)`` int64 the row that each belongs to, ascending; of one row the first is the nearest.
        x: ``(T, F)``.
    """

    row: Tensor
    x: Tensor

    @property
    def first(self) -> Tensor:
        """``(T,)`` bool: the nearest of its row."""
        return self.row.diff(prepend=self.row[:1] - 1) != 0

    def apart(self, distance: Distance) -> Tensor:
        """Mean distance between the counterfactuals of each row that has two or more, ``(R,)``."""
        same = (self.row[:, None] == self.row) & ~torch.eye(len(self.row), dtype=torch.bool, device=self.row.device)
        pair, other = same.nonzero(as_tuple=True)
        _, which, pairs = self.row[pair].unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
        total = torch.zeros(len(pairs), dtype=torch.float64, device=self.row.device)
        total.index_add_(0, which, distance(self.x[pair], self.x[other]))
        mean: Tensor = total / pairs
        return mean


def find_counterfactuals(
    model: AuditedModel,
    x: Tensor,
    fit: Callable[[tuple[str, ...]], Tabular | None],
    count: int,
    distance: Distance,
    threat: ThreatModel,
    rng: ExampleRng,
) -> Counterfactuals:
    """Up to `count` changes of each row that turn its answer to 1.

    Args:
        model: as `towards` gives it; it answers 0 to every row.
        x: ``(N, F)``.
        fit: the search with some more columns fixed; None where nothing may change any more.
        count: the first is the nearest found; each further one adds most that is new for what it costs.
        rng: one stream per row.
    """
    places: list[Tensor] = []
    changed: list[Tensor] = []
    fixed: dict[int, tuple[str, ...]] = dict.fromkeys(range(len(x)), ())
    for turn in range(count):
        following: dict[int, tuple[str, ...]] = {}
        for columns, rows in _by_value(fixed):
            search = fit(columns)
            if search is None:
                continue
            at = torch.tensor(rows, device=x.device)
            here, wanted = x[at], torch.zeros(len(at), dtype=torch.int64, device=x.device)
            streams = rng.take(rows).fork(f"without {turn}: {', '.join(columns)}")
            oracle, finds = search.search_all(model, here, wanted, threat, streams)
            places.append(at[finds.row])
            changed.append(oracle.whole(finds.x, finds.row))
            for row, name in _leans_on(search, here, finds):
                following[rows[row]] = (*columns, *name)
        fixed = following
    if not places or not sum(map(len, places)):
        return Counterfactuals(torch.zeros(0, dtype=torch.int64, device=x.device), x[:0])
    return _choose(x, torch.cat(places), torch.cat(changed), count, distance)


def _by_value(fixed: dict[int, tuple[str, ...]]) -> Iterator[tuple[tuple[str, ...], list[int]]]:
    """Rows that are searched together: those with the same columns fixed."""
    for columns in sorted({tuple(sorted(names)) for names in fixed.values()}):
        yield columns, [row for row, names in fixed.items() if tuple(sorted(names)) == columns]


def _leans_on(search: Tabular, x: Tensor, finds: Finds) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Each row that something was found for, and the columns of the unit that its cheapest change spends most on."""
    columns = search.columns
    spent = columns.costs(x[finds.row][:, columns.place], finds.x)
    order = spent.sum(dim=1).argsort(stable=True)
    for row in finds.row.unique().tolist():  # type: ignore[no-untyped-call]
        cheapest = order[finds.row[order] == row][0]
        unit = int(spent[cheapest].argmax())
        yield row, tuple(columns.names[i] for i in (columns.unit == unit).nonzero().flatten().tolist())


def _choose(x: Tensor, row: Tensor, changed: Tensor, count: int, distance: Distance) -> Counterfactuals:
    """Of every row's changes the nearest, then those that are furthest from the chosen ones beyond their own distance."""
    rows, kept = [], []
    for number in row.unique().tolist():  # type: ignore[no-untyped-call]
        mine = changed[row == number].unique(dim=0)  # type: ignore[no-untyped-call]
        own = distance(x[number], mine)
        chosen = [int(own.argmin())]
        new = distance(mine, mine[chosen[0]])
        while len(chosen) < min(count, len(mine)):
            worth = (new - own).masked_fill(new == 0, -torch.inf)
            if not bool((worth > -torch.inf).any()):
                break
            # Changes of different columns are all worth as much as the first: the nearest of them.
            best = worth >= worth.max() - 1e-9 * own.max()
            chosen.append(int(own.masked_fill(~best, torch.inf).argmin()))
            new = torch.minimum(new, distance(mine, mine[chosen[-1]]))
        rows += [number] * len(chosen)
        kept.append(mine[chosen])
    return Counterfactuals(torch.tensor(rows, device=x.device), torch.cat(kept))
