"""What could have been different for another answer, and is that within reach?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationError, model_validator

from audit.attacks._relations import parse_relation
from audit.attacks.tabular import Tabular
from audit.checks import Check
from audit.checks._sample import sample
from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._tables import class_index, known_rows
from audit.finding import EvidenceRef, Mean, Measurement, Metric, Proportion, ThreatModel
from audit.gate import Gate
from audit.model import Capability
from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.global_explanations.counterfactuals import Counterfactuals as Found
    from audit.global_explanations.counterfactuals import Distance
    from audit.model import AuditedModel, InputSpec

_DECIDED_HERE = ("classes", "search")
_SEARCH = {"beam": 2, "values": 10}
"""Of the search, unless said otherwise: it is asked several times over, and for ways back rather than for the worst case."""
_ONLY_TEST_ROWS = "no members or population are known: ranges, scales and plausibility are those of the test rows"


class Counterfactuals(Check):
    """Counterfactuals: for test rows with an unfavourable answer, the nearest admissible changes that would turn it.

    Validity is the share of these rows for which a change was found; each is asked about again and checked against the rules before
    it counts. Of the nearest of each row: proximity, its distance in median absolute deviations, summed over the columns (another
    category counts 1); sparsity, the columns it changes; gain, how much nearer it is than the nearest known row that has the desired
    answer; plausibility, the share that the local outlier factor finds usual among known rows with the desired answer; neighbour
    distance, how far their nearest of those are, where 1 is usual. Of all changes: how far those of one row are from each other, and
    whether every column that may not change is as it was. The search prefers few columns, then a short way; of an input that is no
    table every number counts as a column (up to 1,024). Low validity says that people who get this answer can do nothing about it;
    low plausibility, that what they are told to become does not exist; different validity or proximity by group, that the way back
    is longer for some.

    Source: Wachter et al. 2017, arXiv:1711.00399; several and diverse: Mothilal et al. 2020, arXiv:1905.07697 (DiCE); plausibility:
    Breunig et al. 2000, doi 10.1145/342009.335388; by group: Gupta et al. 2019, arXiv:1909.03166; the search: see the attack ``tabular``.
    Blind spots: a search, no proof: a nearer change, or one for a row without, may exist; changes the input, not the world: whether
    earning more is possible, and what else would change with it, is as true as the declared rules and relations.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="validity", title="rows with a counterfactual", better="higher", kinds=("proportion",)),
        Metric(name="proximity", title="distance of the counterfactual", better="lower", kinds=("mean",), unit="MAD"),
        Metric(name="sparsity", title="columns changed", better="lower", kinds=("mean",), unit="columns"),
        Metric(name="proximity_gain", title="nearer than the nearest known row", better="higher", kinds=("mean",), unit="MAD"),
        Metric(name="plausibility", title="counterfactuals that are usual", better="higher", kinds=("proportion",)),
        Metric(name="neighbour_distance", title="distance to known rows, 1 is usual", better="lower", kinds=("mean",)),
        Metric(name="diversity", title="distance between a row's counterfactuals", better="higher", kinds=("mean",), unit="MAD"),
        Metric(name="immutable_kept", title="counterfactuals that keep what may not change", better="higher", kinds=("proportion",)),
    )  # fmt: skip
    needs: ClassVar[frozenset[Capability]] = frozenset()
    remedy: ClassVar[str] = (
        "Where no way back exists, look at which fixed columns hold the answer; where counterfactuals are odd, narrow ranges and "
        "relations until they are possible; where groups differ, look at the columns that they spend most on."
    )

    desired: str | None = None
    """The favourable answer: a class (None: the second of two), or of a regression what the value must meet: ``">= 150"``."""
    changes: dict[str, Any] = {}
    """What may change, with the parameters of the attack ``tabular``: mutable, immutable, increase_only, decrease_only, integer, category,
    one_hot, ranges, tail, relations, max_changed, max_cost, scales, and those of its search (here beam 2 and values 10 unless given)."""
    count: int = Field(3, ge=1)
    """Counterfactuals of each row, as far as there are different ones."""
    samples: int | None = Field(50, ge=1)
    """Most test rows with an unfavourable answer; None: all."""
    neighbours: int = Field(20, ge=1)
    """Known rows with the desired answer that plausibility compares with."""
    keep: int = Field(32, ge=0)
    """Rows whose counterfactuals are stored."""

    @model_validator(mode="after")
    def _changes_fit(self) -> Counterfactuals:
        self._rules(())
        return self

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            NotApplicable: the input is neither a table nor small, or no test row has an unfavourable answer.
            UserError: no such class or column, a comparison that cannot be aimed at, or no known row has the desired answer.
        """
        from audit.global_explanations.counterfactuals import Distance, find_counterfactuals, flattened

        aim = _Aim.of(model, self.desired)
        view = aim.view(model)
        batch = self._unfavourable(model, data, aim, ctx)
        known, cautions = known_rows(data), tuple[str, ...]()
        if known is None:
            known, data = data.test, dataclasses.replace(data, train=data.test)
            cautions = (_ONLY_TEST_ROWS,)
        columns = data if model.spec.tabular else flattened(data, view.spec)
        rows, x = model.tensor(known).flatten(1), model.tensor(batch).flatten(1)
        usual = rows[aim.met(model.predict(model.tensor(known)))]
        if not len(usual):
            raise UserError(f"no known row has the desired answer ({aim.words}): there is nothing to aim at")
        distance = Distance.fit(rows, view.spec)

        def fit(fixed: tuple[str, ...]) -> Tabular | None:
            rules = self._rules(fixed)
            return rules.fit(view, columns, ctx) if self._free(view.spec, rules) else None

        ctx.progress(0, 1, f"searching for {len(batch)} rows")
        streams = ctx.rng(batch.ids, "counterfactuals")
        threat = ThreatModel(access="black_box_scores")
        found = find_counterfactuals(view, x, fit, self.count, distance, threat, streams)
        found, refused = self._confirmed(model, fit(()), aim, x, found)
        if refused:
            cautions = (*cautions, f"{refused} proposed changes did not turn the answer, or broke a rule: not counted")
        yield from self._measured(_Searched(model, view.spec, batch, x, usual, distance), found, cautions, ctx)

    def _rules(self, fixed: tuple[str, ...]) -> Tabular:
        """What may change, with some more columns fixed; an empty `mutable` where none is left."""
        if wrong := [name for name in _DECIDED_HERE if name in self.changes]:
            raise UserError(f"changes: '{wrong[0]}' is decided here by 'desired' and the model: leave it out")
        given = {**_SEARCH, **self.changes}
        if fixed:
            given["immutable"] = (*given.get("immutable", ()), *fixed)
            if given.get("mutable") is not None:
                given["mutable"] = [name for name in given["mutable"] if name not in fixed]
        try:
            return Tabular(**given)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"changes{f', {where}' if where else ''}: {first['msg']}") from error

    def _free(self, spec: InputSpec, rules: Tabular) -> set[str]:
        """Columns that may change, by themselves or because they follow from others, from the declaration alone."""
        derived = {str(name) for name in (parse_relation(text).derives for text in rules.relations) if name}
        named = {field.name for field in spec.fields} if rules.mutable is None else set(rules.mutable)
        return (named | derived) - set(rules.immutable) if named - derived - set(rules.immutable) else set()

    def _unfavourable(self, model: AuditedModel, data: AuditData, aim: _Aim, ctx: Context) -> Batch:
        """Test rows that do not have the desired answer."""
        answers = model.outputs(data.test)
        predicted = answers.reshape(len(data.test)) if model.task == "regression" else model.labels_of(answers)
        wrong = data.test.take((~aim.met(predicted)).cpu().numpy())
        if not len(wrong):
            raise NotApplicable(f"every test row has the desired answer already ({aim.words})")
        return sample(wrong, self.samples, ctx)

    def _confirmed(
        self, model: AuditedModel, rules: Tabular | None, aim: _Aim, x: Tensor, found: Found
    ) -> tuple[Found, int]:
        """Those that the model answers as desired when asked again, and that keep the rules; and how many do not."""
        from audit.global_explanations.counterfactuals import Counterfactuals as Found
        from audit.global_explanations.counterfactuals import as_input

        if not len(found.row) or rules is None:
            return found, 0
        good = aim.met(model.predict(as_input(model, found.x))) & rules.permits(model, x[found.row], found.x)
        return Found(found.row[good], found.x[good]), int((~good).sum())

    def _measured(self, of: _Searched, found: Found, cautions: tuple[str, ...], ctx: Context) -> Iterator[Measurement]:
        import torch

        from audit.global_explanations.counterfactuals import nearest_distance, plausibility

        batch, x, usual, distance = of.batch, of.x, of.usual, of.distance
        valid = torch.zeros(len(batch), dtype=torch.bool)
        valid[found.row.cpu()] = True
        outcomes = ctx.evidence("outcomes", "outcomes", title="a counterfactual was found")
        outcomes.append(batch.ids, value=valid.double())
        evidence: tuple[EvidenceRef, ...] = (outcomes.ref, *self._store(of, found, ctx))
        shared: dict[str, Any] = {"evidence": evidence, "cautions": cautions}
        yield Measurement(metric="validity", estimate=_share(valid), **shared)
        yield from _by_group("validity", batch, range(len(batch)), valid)
        if not len(found.row):
            return
        first = found.first
        here, changed = x[found.row[first]], found.x[first]
        far = distance(here, changed)
        per_row = {
            "proximity": far,
            "sparsity": _differs(here, changed).sum(dim=1).double(),
            "proximity_gain": nearest_distance(here, usual, distance) - far,
        }
        for metric, values in per_row.items():
            yield Measurement(metric=metric, estimate=_mean(values), **shared)
        yield from _by_group("proximity", batch, found.row[first].tolist(), far)
        if len(usual) >= 3:
            odd = plausibility(changed, usual, of.spec, self.neighbours)
            yield Measurement(metric="plausibility", estimate=_share(odd.inlier), **shared)
            yield Measurement(metric="neighbour_distance", estimate=_mean(odd.neighbour_distance), **shared)
        if len(apart := found.apart(distance)):
            yield Measurement(metric="diversity", estimate=_mean(apart), **shared)
        free = self._free(of.spec, self._rules(()))
        fixed = [j for j, field in enumerate(of.spec.fields) if field.name not in free]
        kept = ~_differs(x[found.row], found.x)[:, fixed].any(dim=1)
        yield Measurement(metric="immutable_kept", estimate=_share(kept), **shared)

    def _store(self, of: _Searched, found: Found, ctx: Context) -> tuple[EvidenceRef, ...]:
        """Rows before and after, the nearest change of each row first."""
        from audit.global_explanations.counterfactuals import as_input

        keep = found.row < self.keep
        if not bool(keep.any()):
            return ()
        model, row, changed = of.model, found.row[keep], found.x[keep]
        number = [int((row[:i] == row[i]).sum()) + 1 for i in range(len(row))]
        spec = model.spec
        writer = ctx.evidence(
            "counterfactuals", "adversarial", attack="counterfactuals", by="counterfactual", input_kind=spec.kind, units="MAD",
            classes=list(model.classes), feature_names=[field.name for field in spec.fields] if spec.tabular else [],
            bounds=list(spec.bounds or ()),
        )  # fmt: skip
        before, after = (as_input(model, part) for part in (of.x[row], changed))
        answer = model.predict(before)
        writer.append(
            [f"{of.batch.ids[int(r)]}#{n}" for r, n in zip(row, number, strict=True)],
            x=before,
            adversarial=after,
            prediction=answer,
            adversarial_prediction=model.predict(after),
            size=of.distance(of.x[row], changed),
        )
        return (writer.ref,)


@dataclass(frozen=True)
class _Searched:
    """What the counterfactuals belong to.

    Args:
        spec: the input as columns.
        batch, x: the rows with an unfavourable answer, ``(N, F)``.
        usual: ``(M, F)`` known rows with the desired one.
    """

    model: AuditedModel
    spec: InputSpec
    batch: Batch
    x: Tensor
    usual: Tensor
    distance: Distance


@dataclass(frozen=True)
class _Aim:
    """The desired answer: a class, or what a value must meet."""

    answer: int | Gate
    words: str

    @staticmethod
    def of(model: AuditedModel, desired: str | None) -> _Aim:
        if model.task == "classification":
            target = class_index(model, desired, "desired")
            return _Aim(target, model.classes[target])
        if desired is None:
            raise UserError(
                f"model '{model.name}' gives values: say with desired which are favourable, such as '>= 150'"
            )
        gate = Gate.parse(desired)
        if gate.baseline or gate.direction == "equal":
            raise UserError(f"'{desired}' cannot be aimed at: write >=, >, <= or < and a number")
        return _Aim(gate, str(gate))

    def met(self, predicted: Tensor) -> Tensor:
        """Which answers are desired, ``(N,)`` bool."""
        if isinstance(self.answer, int):
            return predicted == self.answer
        at = self.answer.threshold
        met: Tensor = {">=": predicted >= at, ">": predicted > at, "<=": predicted <= at, "<": predicted < at}[
            self.answer.comparison
        ]
        return met

    def view(self, model: AuditedModel) -> AuditedModel:
        """See `towards`."""
        from audit.global_explanations.counterfactuals import towards

        return towards(model, self.answer)


def _differs(x: Tensor, others: Tensor) -> Tensor:
    return (x != others) & ~(x.isnan() & others.isnan())


def _share(flags: Tensor) -> Proportion:
    return Proportion(k=int(flags.sum()), n=len(flags))


def _mean(values: Tensor) -> Mean:
    from audit.stats import mean_and_se

    value, se, n = mean_and_se(values.cpu().numpy())
    return Mean(value=value, se=se, n=n)


def _by_group(metric: str, batch: Batch, rows: Any, values: Tensor) -> Iterator[Measurement]:
    """The same number for each value of each protected attribute; values belong to the rows at `rows`."""
    import numpy as np

    for attribute, column in sorted(batch.groups.items()):
        mine = column[np.asarray(rows)]
        for value in np.unique(mine):
            inside = values.cpu()[mine == value]
            yield Measurement(
                metric=metric,
                estimate=_share(inside)
                if inside.dtype == values.dtype and not values.is_floating_point()
                else _mean(inside),
                dims={"group": f"{attribute}:{value}"},
            )
