"""Rows of a table, changed as someone could change them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from audit.attacks import Attack, Candidates
from audit.attacks._columns import Columns, Rules, fit_columns
from audit.attacks._gradients import frozen_parameters
from audit.attacks._relations import in_order, parse_relation
from audit.attacks._table_search import (
    Finds,
    Oracle,
    at_random,
    beam,
    frank_wolfe,
    sees_gradients,
    shrink,
    smallest,
)
from audit.finding import Access, ThreatModel
from audit.model import Capability
from audit.names import unknown
from audit.parameters import Real, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel
    from audit.rng import ExampleRng

Search = Literal["auto", "black_box", "white_box"]
_BLACK_BOX: tuple[Access, frozenset[Capability]] = ("black_box_scores", frozenset({Capability.LABELS}))
_WHITE_BOX: tuple[Access, frozenset[Capability]] = (
    "white_box",
    frozenset({Capability.GRADIENTS, Capability.LOGITS}),
)


class _OfSearch:
    """What the base class holds per attack, told per search: the class answers for a black box, an instance for its own."""

    def __init__(self, part: int) -> None:
        self._part = part

    def __get__(self, attack: Tabular | None, owner: type[Tabular]) -> Any:
        if attack is None:
            return _BLACK_BOX[self._part]
        if self._part == 0 and attack._labels_only:
            return "black_box_labels"
        return (_WHITE_BOX if attack.search == "white_box" else _BLACK_BOX)[self._part]


class Tabular(Attack):
    """Constrained change of a table row: the fewest columns, and of those the cheapest change, that turn the model's answer.

    What may change is declared; how far it may go, in which steps and at what price is taken from the training rows. Columns that follow
    from others are recomputed, every other relation is checked, missing values stay missing. Trees, networks and models that give
    labels alone are searched: a beam over one column after the other with values that occur; along the gradient where there is one
    (Frank-Wolfe inside the constraints); then at random. What is found is shrunk until no column can be put back and no number a
    thousandth of its change. A row that breaks a relation as it stands keeps the columns of that relation.

    Source: Simonetto et al. 2022, arXiv:2112.01156, and 2024, arXiv:2406.00775 (constraints and their repair); Kireev et al. 2022,
    arXiv:2208.13058 (cost of a change, greedy and beam search); Ballet et al. 2019, arXiv:1911.03274 (units of each column); Chen et al. 2020,
    arXiv:1811.10828 (Frank-Wolfe).

    Blind spots: a search, no proof: a combination that no single step leads towards may be missed. Whether a change is possible in
    life is as true as the declaration.
    """

    access: ClassVar[Access] = _OfSearch(0)  # type: ignore[assignment]
    norms: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[Capability]] = _OfSearch(1)  # type: ignore[assignment]
    minimal: ClassVar[bool] = True

    mutable: tuple[str, ...] | None = None
    """Columns that may change; None: all but the immutable ones, and those that follow from others."""
    immutable: tuple[str, ...] = ()
    """Columns that may not. A relation about one is checked, never solved for it."""
    increase_only: tuple[str, ...] = ()
    """Columns whose value may only grow (age, years in a job)."""
    decrease_only: tuple[str, ...] = ()
    """Columns whose value may only fall."""
    integer: tuple[str, ...] | None = None
    """Columns of whole numbers; None: those whose training values are all whole."""
    category: tuple[str, ...] = ()
    """Columns of numbers that are codes: they move among the codes seen in training, as categories of the model's input do anyway."""
    one_hot: tuple[tuple[str, ...], ...] = ()
    """Groups of columns of which exactly one is 1 and the rest 0; each group changes as one."""
    ranges: dict[str, tuple[Real, Real]] = {}
    """Column → lowest and highest value that it may be given; of the others, what occurs in training. A row beyond may stay there."""
    tail: Real = Field(0.0, ge=0, lt=0.5)
    """Share of the training rows at either end that no range is taken from: codes such as 999999 for 'unknown' are no value to aim at."""
    relations: tuple[str, ...] = ()
    """What must hold between columns after a change: ``loanprc == loanamt / price`` (recomputed), ``loanamt <= price`` (checked),
    ``multi == (unit >= 2)``; in quotes a name that is no word."""
    tolerance: Real = Field(1e-5, ge=0, lt=1)
    """Relative rounding that ``==``, ``<=`` and ``>=`` forgive."""
    max_changed: int | None = Field(None, ge=1)
    """Most columns changed, those that follow from others not counted and a one-hot group as one."""
    max_cost: Real | None = Field(None, gt=0)
    """Most that all changes together may cost. A number's change costs its length over the column's scale; another category, or
    another member of a one-hot group, 1."""
    scales: dict[str, Real] = {}
    """Column → the change that costs 1 (dollars, years); of a category or a one-hot group's first column, one over what a change costs.
    By default the interquartile range of the training rows over 1.349, as wide as the standard deviation of a normal distribution; the
    standard deviation itself where that is 0."""
    classes: tuple[str, ...] | None = None
    """Only rows of these classes are attacked: who is refused has reason to change something. None: all."""
    search: Search = "auto"
    """``white_box`` follows the gradient as well, ``black_box`` asks for answers alone; ``auto``: white box where there is a gradient."""
    values: int = Field(16, ge=2)
    """Values of each column that are tried: training values, spread as the rows are and as the different values are; of a column of
    whole numbers all in its range, if they are no more."""
    beam: int = Field(4, ge=1)
    """Sets of columns that are followed at once."""
    steps: int = Field(20, ge=1)
    """Steps along the gradient, on rows that the beam left."""
    draws: int = Field(64, ge=0)
    """Random admissible rows, on rows that are still left."""

    _columns: Columns | None = PrivateAttr(None)
    _labels_only: bool = PrivateAttr(False)

    @field_validator("relations")
    @classmethod
    def _readable(cls, relations: tuple[str, ...]) -> tuple[str, ...]:
        in_order([parse_relation(text) for text in relations])
        return relations

    @model_validator(mode="after")
    def _consistent(self) -> Tabular:
        grouped = [name for group in self.one_hot for name in group]
        clashes = {
            "both mutable and immutable": set(self.mutable or ()) & set(self.immutable),
            "both increase_only and decrease_only": set(self.increase_only) & set(self.decrease_only),
            "in two one_hot groups": {name for name in grouped if grouped.count(name) > 1},
            "both a category and an integer": set(self.category) & set(self.integer or ()),
            "both a category and in a one_hot group": set(self.category) & set(grouped),
        }
        for clash, names in clashes.items():
            if names:
                raise UserError(f"column '{min(names)}' is {clash}")
        if any(len(group) < 2 for group in self.one_hot):
            raise UserError("a one_hot group needs two columns or more")
        for name, (low, high) in self.ranges.items():
            if low > high:
                raise UserError(f"range of column '{name}' must be [low, high], got [{low:g}, {high:g}]")
        if wrong := [name for name, scale in self.scales.items() if not scale > 0]:
            raise UserError(f"scale of column '{wrong[0]}' must be above 0")
        return self

    def constraints(self) -> str:
        """What may change, in words."""
        only = f"rows of class {', '.join(self.classes)}" if self.classes is not None else ""
        return "; ".join(part for part in (only, self._rules().words()) if part)

    def fit(self, model: AuditedModel, data: AuditData, ctx: Context) -> Tabular:
        """The attack with ranges, scales and whole columns of the training rows (without them, of the population).

        Raises:
            UserError: the input is no table, a rule names a column or class that does not exist, or nothing gives a range.
        """
        if not model.spec.tabular:
            raise UserError(
                f"attack 'tabular' changes columns of a table; the input of model '{model.name}' is of kind {model.spec.kind}"
            )
        for name in self.classes or ():
            if name not in model.classes:
                raise unknown("class", name, list(model.classes))
        rows = data.train if data.train is not None else data.population
        seen = model.tensor(rows).double() if rows is not None and len(rows) else None
        search: Search = self.search
        if search == "auto":
            search = "white_box" if sees_gradients(model) else "black_box"
        fitted = self.model_copy(update={"search": search})
        fitted._columns = fit_columns(self._rules(), model.spec, seen, model.device)
        fitted._labels_only = Capability.PROBABILITIES not in model.capabilities
        return fitted

    def permits(self, model: AuditedModel, x: Tensor, candidates: Tensor) -> Tensor:
        """See `Attack.permits`."""
        columns = self._fitted()
        left_out = candidates.clone()
        left_out[:, columns.place] = x[:, columns.place]
        untouched = ((left_out == x) | (left_out.isnan() & x.isnan())).all(dim=1)
        return untouched & columns.permits(x[:, columns.place], candidates[:, columns.place])

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: the attack was not fitted.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        columns, found = self._fitted(), x.detach().clone()
        oracle, finds = self.search_all(model, x, y, threat, rng)
        finds = smallest(columns, found[:, columns.place], finds)
        found[finds.row] = oracle.whole(finds.x, finds.row)
        zeros = oracle.zeros if self.search == "white_box" else None
        return Candidates(found, oracle.queries, oracle.gradients, zeros)

    def search_all(
        self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng
    ) -> tuple[Oracle, Finds]:
        """Every change that was found, each shrunk by itself, several of a row where the search met several; arguments as of `run`.

        Raises:
            UserError: the attack was not fitted.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        columns, white, y = self._fitted(), self.search == "white_box", y.to(x.device)
        oracle = Oracle(model, x.detach(), columns.place, y, threat.queries)
        x = x.detach()[:, columns.place]
        rows = self._attacked(model, y).nonzero().flatten()
        pool: list[Finds] = []

        def left() -> Tensor:
            found = Finds.join(pool, x).row
            return rows[~torch.isin(rows, found) & oracle.left(rows)]

        with frozen_parameters(model):
            pool.append(beam(oracle, columns, x, left(), self.beam, ranked=white))
            if white:
                pool.append(frank_wolfe(oracle, columns, x, left(), self.steps))
            if self.draws:
                rest = left()
                pool.append(at_random(oracle, columns, x, rest, self.draws, rng.take(rest.cpu())))
            return oracle, shrink(oracle, columns, x, Finds.join(pool, x))

    @property
    def columns(self) -> Columns:
        """What may change, as fitted."""
        return self._fitted()

    def _attacked(self, model: AuditedModel, y: Tensor) -> Tensor:
        import torch

        if self.classes is None:
            return torch.ones_like(y, dtype=torch.bool)
        return torch.isin(y, torch.tensor([model.classes.index(name) for name in self.classes], device=y.device))

    def _fitted(self) -> Columns:
        if self._columns is None:
            raise UserError("attack 'tabular' takes its ranges from training rows: call fit before run")
        return self._columns

    def _rules(self) -> Rules:
        return Rules(
            **{name: getattr(self, name) for name in _RULES},
            relations=tuple(parse_relation(text) for text in self.relations),
        )


_RULES = (
    "mutable", "immutable", "increase_only", "decrease_only", "integer", "category", "one_hot", "ranges", "tail", "scales", "tolerance",
    "max_changed", "max_cost", "values",
)  # fmt: skip
