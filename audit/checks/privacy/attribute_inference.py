"""Does the model give away what else was in a record?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from audit.checks import Check
from audit.checks._few_rows import few_rows
from audit.checks._sample import drawn, sample
from audit.checks.privacy._blind import BLIND_AUC, blind_control
from audit.finding import Measurement, Metric, Proportion, Resampled, ThreatModel
from audit.model import Capability
from audit.names import unknown
from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.finding import EvidenceRef
    from audit.model import AuditedModel
    from audit.privacy.attribute_inference import Attacked, Gain, Guesses

SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the members, the surest first."""


class AttributeInference(Check):
    """How much better an adversary who asks the model guesses one sensitive column of a record than one who does not.

    The adversary knows the record but for the column, and its label; tries every value of a category, or points of every bin of a
    number; and weighs the model's probability of the label with a prior: what the other columns and the label say (``imputation``), the
    value's share of the test rows (``marginal``), or nothing (``none``, the confidence attack). ``leak`` is the accuracy of that minus the
    accuracy of imputation alone, on the same rows; the undivided number is of members and of the prior ``imputation``, with which a model
    that does not heed the column leaks exactly nothing.
    A model that serves its purpose may leak what holds for everybody: ``memorised``, the leak on members minus that on rows it never
    saw, is what training on these records gave away; it is told for each value, too. Of a number ``leak_r2`` says the same in R².

    The blind control comes with it: where inputs alone tell members from test rows, the numbers mean nothing.

    Source: Jayaraman & Evans 2022, arXiv:2209.01292 (imputation as the baseline); Fredrikson et al. 2014, USENIX Security 23:17-32;
    Yeom et al. 2018, arXiv:1709.01604; trying every value against the label: Mehnaz et al. 2022, arXiv:2201.09370.
    Blind spots: a lower bound: an adversary with reference models or the weights may do better. Imputation learns from the test rows and
    the population: an adversary who knows more rows imputes better, and less of this is the model's doing; one who knows fewer owes the
    model more. Columns that repeat the sensitive one (its own indicator columns) impute it and hide the leak.
    """

    controls: ClassVar = ("MITRE ATLAS AML.T0024", "OWASP ML03:2023", "NIST AI RMF MEASURE 2.10")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="leak", title="accuracy gained by asking the model", better="lower", kinds=("resampled",)),
        Metric(name="memorised", title="leak on members minus leak on others", better="lower", kinds=("resampled",)),
        Metric(name="leak_r2", title="R² gained by asking the model", better="lower", kinds=("resampled",)),
        Metric(name="attack_accuracy", title="guessed right with the model", better="lower", kinds=("proportion",)),
        Metric(
            name="imputation_accuracy", title="guessed right without the model", better="neither", kinds=("proportion",)
        ),
        BLIND_AUC,
    )
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.TRAIN_DATA})
    remedy: ClassVar[str] = (
        "Leave the column out if the task does not need it; where the leak is memorised, regularise, stop earlier, or train with DP-SGD; "
        "answer with labels instead of scores; then audit again on the same split."
    )

    column: str
    """The sensitive column; the model must be fed it."""
    bins: Annotated[int, Field(ge=2)] = 4
    """Of a number: bins of about equally many test rows; the bin is guessed."""
    points: Annotated[int, Field(ge=1)] = 3
    """Of a number: values tried of each bin."""
    samples: Annotated[int, Field(ge=20)] | None = 1000
    """Members, and as many test rows, to attack; None: all."""
    reference_rows: Annotated[int, Field(ge=30)] = 10_000
    """Rows at most of the test rows, and of the population, that imputation learns from."""

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """Yield the control, then what is gained on members, on test rows, by every prior and for every value.

        Raises:
            NotApplicable: the input is no table.
            UserError: no such column, it has one value only, or too few rows have it.
        """
        import numpy as np

        from audit.privacy.attribute_inference import attack, guesses

        column = self._column(model)
        ctx.progress(0, 2, "blind control")
        assert data.train is not None  # TRAIN_DATA is among the requirements
        yield blind_control(model, data.train, data.test, ctx, ("leak", "memorised", "leak_r2"))
        members, cautions = self._present(data.train, column, ctx, self.samples)
        reference, _ = self._present(data.test, column, ctx, self.reference_rows)
        further = data.population
        population = None if further is None else self._present(further, column, ctx, self.reference_rows)[0]
        found = guesses(model.spec.fields[column], reference.x[:, column], self.bins, self.points)
        ctx.progress(1, 2, "imputing, and asking the model")
        inside, outside, learner = attack(
            model, column, found, members=members, reference=reference, population=population,
            attacked=np.arange(len(reference)) if self.samples is None else drawn(reference.ids, self.samples, ctx.seed),
            rng=ctx.generator("attack"),
        )  # fmt: skip
        learned = len(reference) + (len(population) if population is not None else 0)
        threat = ThreatModel(
            access="black_box_labels" if model.output == "label" else "black_box_scores", goal="reconstruction",
            queries=found.tried.size,
            constraints=f"knows the record but for '{self.column}', and its label; imputes by {learner} from {learned:,} rows",
        )  # fmt: skip
        for measurement in self._measured(column, found, inside, outside, ctx):
            yield measurement.model_copy(update={"threat_model": threat, "cautions": cautions})

    def _column(self, model: AuditedModel) -> int:
        """Where the sensitive column stands."""
        if not model.spec.tabular:
            raise NotApplicable(
                f"privacy.attribute_inference speaks of a column of a table; the input of model '{model.name}' is {model.spec.a_kind}"
            )
        names = [field.name for field in model.spec.fields]
        if self.column not in names:
            raise unknown("column", self.column, names)
        return names.index(self.column)

    def _present(self, rows: Batch, column: int, ctx: Context, most: int | None) -> tuple[Batch, tuple[str, ...]]:
        """So many of the rows that have the column, and how many lack it."""
        import numpy as np

        lacking = np.isnan(rows.x[:, column])
        if lacking.all():
            raise UserError(f"column '{self.column}' is missing in every one of {len(rows)} rows")
        said = (f"{int(lacking.sum()):,} rows that lack the column are left out",) if lacking.any() else ()
        return sample(rows.take(~lacking), most, ctx), said

    def _measured(
        self, column: int, found: Guesses, members: Attacked, others: Attacked, ctx: Context
    ) -> Iterator[Measurement]:
        """Every number, the undivided ones first."""
        from audit.privacy.attribute_inference import PRIORS, accuracy_gain, r2_gain

        rng = ctx.generator("replicates")
        mine = {prior: accuracy_gain(members.right(prior), members.right_without, rng) for prior in PRIORS}
        theirs = {prior: accuracy_gain(others.right(prior), others.right_without, rng) for prior in PRIORS}
        evidence = (_outcomes(members, ctx), _surest(members, ctx))
        yield _gain("leak", mine["imputation"], evidence=evidence)
        yield _gain("memorised", mine["imputation"].over(theirs["imputation"]))
        if found.centres is not None:
            for rows, dims in ((members, {}), (others, {"rows": "non_members"})):
                by_model, without = rows.beliefs["imputation"] @ found.centres, rows.without @ found.centres
                gain = r2_gain(rows.records.x[:, column], by_model, without, ctx.number("resamples"))
                yield _gain("leak_r2", gain, dims)
        for rows, dims in ((members, {}), (others, {"rows": "non_members"})):
            yield _share("attack_accuracy", rows.right("imputation"), dims)
            yield _share("imputation_accuracy", rows.right_without, dims)
        yield _gain("leak", theirs["imputation"], {"rows": "non_members"})
        for prior in PRIORS:
            yield _gain("leak", mine[prior], {"prior": prior})
            yield _gain("memorised", mine[prior].over(theirs[prior]), {"prior": prior})
        for guess, name in enumerate(found.names):
            gains = [
                accuracy_gain(rows.right("imputation")[of], rows.right_without[of], rng)
                for rows in (members, others)
                if (of := rows.truth == guess).any()
            ]
            if len(gains) == 2:
                yield _gain("memorised", gains[0].over(gains[1]), {"value": name})


def _gain(
    metric: str, gain: Gain, dims: dict[str, str] | None = None, evidence: tuple[EvidenceRef, ...] = ()
) -> Measurement:
    estimate = Resampled(value=gain.value, replicates=tuple(gain.replicates.tolist()), n=gain.n)
    return Measurement(
        metric=metric, estimate=estimate, dims=dims or {}, evidence=evidence, unresolved=few_rows(gain.n)
    )


def _share(metric: str, right: NDArray[np.bool_], dims: dict[str, str]) -> Measurement:
    return Measurement(metric=metric, estimate=Proportion(k=int(right.sum()), n=len(right)), dims=dims)


def _outcomes(members: Attacked, ctx: Context) -> EvidenceRef:
    """Of each member: 1 where only asking the model guesses right, -1 where only imputing does, else 0."""
    writer = ctx.evidence("outcomes", "outcomes", title="guessed right by asking the model only")
    gained = members.right("imputation").astype(float) - members.right_without.astype(float)
    writer.append(members.records.ids, value=gained)
    return writer.ref


def _surest(members: Attacked, ctx: Context) -> EvidenceRef:
    """Accuracy among the members that the adversary is surest of: few records given away wholly do not move the mean."""
    import numpy as np

    writer = ctx.evidence(
        "surest", "curve", title="Members that the adversary is surest of", x_label="share of members", x_scale="log",
        y_label="guessed right",
    )  # fmt: skip
    for series, beliefs in (("with the model", members.beliefs["imputation"]), ("without", members.without)):
        right = beliefs.argmax(axis=1) == members.truth
        order = np.argsort(-beliefs.max(axis=1), kind="stable")
        for share in SHARES:
            top = right[order[: max(1, round(share * len(order)))]]
            found = Proportion(k=int(top.sum()), n=len(top))
            low, high = found.interval()
            numbers = {"x": share, "y": found.value, "low": low, "high": high}
            writer.append(
                [f"{series}, {share:g}"], series=np.array([series]), **{k: np.array([v]) for k, v in numbers.items()}
            )
    return writer.ref
