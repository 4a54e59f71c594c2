"""Which way each column moves the answer, how far, and which columns do so only together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from audit.checks import Check
from audit.checks._few_rows import few_rows
from audit.checks._sample import sample
from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._tables import class_index, column, require_table
from audit.finding import EvidenceRef, Exact, Measurement, Metric, Proportion, Resampled
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.global_explanations._scores import Score
    from audit.global_explanations.accumulated_effects import AccumulatedEffect
    from audit.global_explanations.interactions import Interaction
    from audit.model import AuditedModel

Direction = Literal["increasing", "decreasing"]
_SIGN: dict[str, int] = {"increasing": 1, "decreasing": -1}
_NEGLIGIBLE = 0.01
"""A joint effect below this share of the score's own standard deviation is too small for its parts to matter (policy)."""


class Effects(Check):
    """How the score follows each column of a table: accumulated local effects, partial dependence, single rows, interactions.

    The effect range of a column is the largest minus the smallest accumulated local effect: how far the column alone moves the
    score, asked of rows that have about its value. A column declared ``monotone`` gets two numbers: the share of its effect's total
    variation that goes in the declared direction, and the share of rows whose own curve (all other columns fixed) never goes against
    it. Interaction is Friedman's H²: the share of what two columns do together (or one with all others) that is no sum of what each
    does. A wide band, or a partial dependence that leaves the accumulated effect, says that columns move together: read neither as
    "what happens if". A large interaction says that the curves of its columns are averages of curves that differ.

    Source: accumulated local effects: Apley & Zhu 2020, arXiv:1612.08468; partial dependence: Friedman 2001, doi 10.1214/aos/1013203451;
    single rows: Goldstein et al. 2015, arXiv:1309.6392; H²: Friedman & Popescu 2008, arXiv:0811.1679.
    Blind spots: describes the model, not the world; partial dependence, single rows and H² ask about combinations of values that may
    not exist; bands are over the rows, the model is fixed; H² is a share, so it can be large where the joint effect is tiny (such
    numbers are marked), and on the probability scale a model that is a sum of log-odds has some; columns of one one-hot group are
    moved one by one.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="effect_range", title="range of the accumulated effect", better="neither", kinds=("resampled",)),
        Metric(name="monotone", title="share in the declared direction", better="higher", kinds=("resampled", "exact")),
        Metric(name="monotone_rows", title="rows in the declared direction", better="higher", kinds=("proportion",)),
        Metric(name="interaction", title="interaction (H²)", better="lower", kinds=("resampled",)),
    )
    remedy: ClassVar[str] = (
        "Look at the curves: an effect that is too large or goes the wrong way asks for a monotone constraint, or for leaving the "
        "column out; where columns act together, show effects for each value of the other."
    )

    features: tuple[str, ...] | None = Field(None, min_length=1)
    """Columns to follow; None: all."""
    of_class: str | None = None
    """The class whose score is followed; None: the second of two."""
    scale: Literal["probability", "log_odds"] = "probability"
    """Of a classifier's score: the class's probability, or its log-odds, on which logistic models and boosters are sums."""
    monotone: dict[str, Direction] = {}
    """Column → the direction in which its effect should go: ``{income: increasing}``."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of columns whose interaction is measured, beside those of the strongest: ``[[age, income]]``."""
    strongest: int = Field(5, ge=0)
    """Columns with the largest effects whose interactions, all pairs of them, are measured, and whose curves are stored."""
    samples: int = Field(500, ge=10)
    """Test rows that are followed."""
    interaction_rows: int = Field(100, ge=10)
    """Rows of these that interactions are measured on: each pair takes the square of this number of answers."""
    intervals: int = Field(20, ge=2)
    """Most steps of a column; one with fewer values moves from value to value."""
    replicates: int = Field(200, ge=100)
    """Bootstrap samples behind every interval."""
    curves: int = Field(8, ge=0)
    """Rows whose own curves are stored, per column."""

    @model_validator(mode="after")
    def _pairs_of_two(self) -> Effects:
        for first, second in self.pairs:
            if first == second:
                raise UserError(f"pair [{first}, {second}] needs two different columns")
        return self

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            NotApplicable: the input is no table.
            UserError: a column or class does not exist, or the model answers labels and log-odds are asked for.
        """
        from audit.global_explanations._scores import score_of

        require_table(model, "effects")
        target = class_index(model, self.of_class, "of_class")
        batch = sample(data.test, self.samples, ctx)
        table = _Table(
            model, batch, model.tensor(batch), score_of(model, target, self.scale), self._unit(model, target)
        )
        declared = {column(model, name): _SIGN[direction] for name, direction in self.monotone.items()}
        pairs = [(column(model, first), column(model, second)) for first, second in self.pairs]
        names = self.features if self.features is not None else tuple(field.name for field in model.spec.fields)
        followed = list(dict.fromkeys([*(column(model, name) for name in names), *declared]))

        effects = self._effects(table, followed, ctx)
        ranked = sorted(followed, key=lambda j: -float(effects[j].ranges[0]))
        summary = _summary(ctx, table, effects, ranked)
        shown = list(dict.fromkeys([*ranked[: self.strongest], *declared]))
        for j in ranked:
            curve, rows = self._curves(table, j, effects[j], ctx) if j in shown or j in declared else ((), None)
            dims = {"feature": table.name(j)}
            yield Measurement(
                metric="effect_range",
                estimate=_resampled(effects[j].ranges, table.n),
                dims=dims,
                evidence=(summary, *curve),
                cautions=table.missing(j),
            )
            if j in declared and rows is not None:
                yield from _monotone(declared[j], effects[j], rows, dims, curve, table)
        yield from self._interactions(table, ranked[: self.strongest], pairs, ctx)

    def _unit(self, model: AuditedModel, target: int) -> str:
        if model.task == "regression":
            return "value"
        return f"{self.scale.replace('_', '-')} of {model.classes[target]}"

    def _effects(self, table: _Table, followed: Sequence[int], ctx: Context) -> dict[int, AccumulatedEffect]:
        import torch

        from audit.global_explanations.accumulated_effects import (
            accumulated_effect,
            resampling_weights,
            similarity_order,
        )

        here = table.score(table.x)
        weights = resampling_weights(table.n, self.replicates, ctx.number("resamples"))
        coded = torch.tensor([field.kind == "category" for field in table.model.spec.fields])
        found = {}
        for done, j in enumerate(followed, 1):
            order = similarity_order(table.x, j, coded) if bool(coded[j]) else None
            found[j] = accumulated_effect(table.score, table.x, j, here, weights, self.intervals, order)
            ctx.progress(done, len(followed), "columns followed")
        return found

    def _curves(
        self, table: _Table, j: int, effect: AccumulatedEffect, ctx: Context
    ) -> tuple[tuple[EvidenceRef, ...], Tensor]:
        """Stored curves of one column, and each row's own ``(N, K)``."""
        from audit.global_explanations.partial_dependence import individual_curves
        from audit.stats import mean_and_se, t_interval

        rows = individual_curves(table.score, table.x, j, effect.grid).cpu()
        x, label = table.axis(j, effect.grid)
        about = {"x_label": label, "x_scale": "linear", "y_scale": "linear"}
        bands = [t_interval(*mean_and_se(column)) for column in (rows - rows.mean(dim=1, keepdim=True)).T.numpy()]
        mean = rows.mean(dim=0) - rows.mean()
        averages = ctx.evidence(f"effect-{table.name(j)}", "curve", title=f"effect of {table.name(j)}", y_label=f"change of {table.unit}", **about)  # fmt: skip
        low, high = _ends(effect.curves)
        k = len(x)
        averages.append(_ids(0, k), x=x, y=effect.effect, low=low, high=high, series=["accumulated local effect"] * k)
        ends = [(a, b) if b - a < float("inf") else (m, m) for (a, b), m in zip(bands, mean.tolist(), strict=True)]
        averages.append(
            _ids(k, k),
            x=x,
            y=mean,
            low=[a for a, _ in ends],
            high=[b for _, b in ends],
            series=["partial dependence"] * k,
        )
        if not self.curves:
            return (averages.ref,), rows
        single = ctx.evidence(f"rows-{table.name(j)}", "curve", title=f"single rows along {table.name(j)}", y_label=table.unit, **about)  # fmt: skip
        for number, row in enumerate(rows[: self.curves]):
            single.append(_ids(number * k, k), x=x, y=row, series=[f"row {table.batch.ids[number]}"] * k)
        return (averages.ref, single.ref), rows

    def _interactions(
        self, table: _Table, strongest: Sequence[int], pairs: Sequence[tuple[int, int]], ctx: Context
    ) -> Iterator[Measurement]:
        from audit.global_explanations.accumulated_effects import resampling_weights
        from audit.global_explanations.interactions import exchanged, pair_interaction, total_interaction

        others = (pair for pair in itertools.combinations(strongest, 2) if pair[::-1] not in pairs)
        asked = list(dict.fromkeys([*pairs, *others]))
        single = list(dict.fromkeys([*strongest, *itertools.chain(*pairs)]))
        if not single:
            return
        part = sample(table.batch, self.interaction_rows, ctx)
        x = table.model.tensor(part)
        weights = resampling_weights(len(part), self.replicates, ctx.number("resamples of interactions"))
        alone: dict[int, Tensor] = {}
        found: dict[tuple[int, ...], Interaction] = {}
        for j in single:
            alone[j] = exchanged(table.score, x, (j,))
            found[(j,)] = total_interaction(alone[j], weights)
            ctx.progress(len(found), len(single) + len(asked), "interactions")
        for j, k in asked:
            found[j, k] = pair_interaction(exchanged(table.score, x, (j, k)), alone[j], alone[k], weights)
            ctx.progress(len(found), len(single) + len(asked), "interactions")
        spread = float(alone[single[0]].diagonal().std())
        evidence = _interaction_table(ctx, table, found, spread)
        for columns, interaction in found.items():
            key = "features" if len(columns) > 1 else "feature"
            small = interaction.size < _NEGLIGIBLE * spread
            yield Measurement(
                metric="interaction",
                estimate=_resampled(interaction.h_squared, len(part)),
                dims={key: "*".join(table.name(j) for j in columns)},
                evidence=(evidence,),
                unresolved=(
                    f"what they do together moves the score by {interaction.size:.3g}, less than 1 % of its spread of {spread:.3g}: "
                    "a share of that decides nothing"
                    if small
                    else few_rows(len(part))
                ),
            )


@dataclass(frozen=True)
class _Table:
    """The rows followed, and how their columns are told."""

    model: AuditedModel
    batch: Batch
    x: Tensor
    score: Score
    unit: str

    @property
    def n(self) -> int:
        return len(self.batch)

    def name(self, j: int) -> str:
        return self.model.spec.fields[j].name

    def missing(self, j: int) -> tuple[str, ...]:
        count = int(self.x[:, j].isnan().sum())
        return (f"{count} of {self.n} rows lack {self.name(j)}: its effect is that of the others",) if count else ()

    def axis(self, j: int, grid: Tensor) -> tuple[Tensor, str]:
        """Places on the axis of a chart, and its label; categories stand in their order."""
        import torch

        field = self.model.spec.fields[j]
        if field.kind != "category":
            return grid.cpu(), f"{field.name} ({field.units})" if field.units else field.name
        named = [field.categories[int(code)] for code in grid.tolist()]
        return torch.arange(len(grid)).double(), f"{field.name}: " + ", ".join(
            f"{i} {name}" for i, name in enumerate(named)
        )


def _monotone(
    sign: int,
    effect: AccumulatedEffect,
    rows: Tensor,
    dims: Mapping[str, str],
    curve: tuple[EvidenceRef, ...],
    table: _Table,
) -> Iterator[Measurement]:
    from audit.global_explanations.partial_dependence import keeps_direction

    shares = _resampled(effect.along(sign), table.n)
    # A share that no resample moves (1 of a model that is monotone by its making) is known, not undecided.
    still = len({shares.value, *shares.replicates}) == 1
    yield Measurement(
        metric="monotone", estimate=Exact(value=shares.value, n=shares.n) if still else shares, dims=dict(dims),
        evidence=curve, unresolved=few_rows(table.n),
    )  # fmt: skip
    kept = keeps_direction(rows, sign)
    yield Measurement(
        metric="monotone_rows", estimate=Proportion(k=int(kept.sum()), n=len(kept)), dims=dict(dims), evidence=curve
    )


def _resampled(values: Tensor, n: int) -> Resampled:
    """The first is the value, the rest its replicates."""
    value, *replicates = values.tolist()
    return Resampled(value=value, replicates=tuple(replicates), n=n)


def _ends(curves: Tensor) -> tuple[list[float], list[float]]:
    """95 % bootstrap band of a curve ``(1 + B, K)``."""
    from audit.stats import resampled_interval

    ends = [resampled_interval(float(at[0]), at[1:].numpy()) for at in curves.T]
    return [low for low, _ in ends], [high for _, high in ends]


def _ids(first: int, count: int) -> list[str]:
    return [str(first + i) for i in range(count)]


def _summary(
    ctx: Context, table: _Table, effects: Mapping[int, AccumulatedEffect], ranked: Sequence[int]
) -> EvidenceRef:
    """Every column that was followed, the strongest first."""
    low, high = zip(*(_resampled(effects[j].ranges, table.n).interval() for j in ranked), strict=True)
    writer = ctx.evidence("effects", "table", title=f"effects on the {table.unit}")
    writer.append(
        [table.name(j) for j in ranked],
        effect_range=[float(effects[j].ranges[0]) for j in ranked],
        low=low,
        high=high,
        share_upward=[float(effects[j].along(1)[0]) for j in ranked],
        values=[len(effects[j].grid) for j in ranked],
    )
    return writer.ref


def _interaction_table(
    ctx: Context, table: _Table, found: Mapping[tuple[int, ...], Interaction], spread: float
) -> EvidenceRef:
    ranked = sorted(found, key=lambda columns: (-len(columns), -float(found[columns].h_squared[0])))
    names = [" * ".join(map(table.name, columns)) if len(columns) > 1 else f"{table.name(columns[0])} with all others" for columns in ranked]  # fmt: skip
    low, high = zip(*(_resampled(found[c].h_squared, table.n).interval() for c in ranked), strict=True)
    writer = ctx.evidence("interactions", "table", title=f"interactions; the {table.unit} varies by {spread:.3g}")
    writer.append(
        names,
        h_squared=[float(found[c].h_squared[0]) for c in ranked],
        low=low,
        high=high,
        joint_effect=[found[c].size for c in ranked],
    )
    return writer.ref
