"""Could a model hide from this explainer, and does this one?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from audit.checks.explanation._explaining import AttributionEvidence, ExplanationCheck, build_explainer
from audit.finding import EvidenceRef, Mean, Measurement, Metric, RankAuc
from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.checks.explanation._explaining import Subject
    from audit.checks.explanation._recording import Asked
    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel

_LEARNED = 0.8
"""Share of answers below which a surrogate has learned too little to speak for the model (policy)."""
_STRETCHED = 2.0
"""Matches further away than this many times a row's nearest neighbour are no counterfactuals that could be rows (policy)."""


class Fairwashing(ExplanationCheck):
    """Whether an explanation that asks about perturbed rows can be gamed, and whether this model games it.

    An explainer that takes features away asks the model about rows that do not occur. A model that recognises them can answer by an
    innocent rule there, be biased on real rows, and get a clean explanation. Three numbers, each by itself:

    ``perturbation_auc``: how well a random forest tells what the explainer asks from real rows, on held-out rows, by columns and by
    how they go together. Near 1, a model could hide; 0.5, it could not. A property of explainer and data, high for most, and no
    accusation.

    ``behaviour_change``: does this model answer what is asked by another rule than real rows? A forest learns its answers from what
    is asked, all that the explainer can know of the model. How much less often it is right on real rows than on what is asked of
    other rows, at equal shares of the classes: about 0, or less, for a model with one rule, up to 1.

    ``hidden_effect`` (with `protected`): what protected columns do on real rows, less what the explanation tells of them, in the units
    of the score. Each row takes the protected values of its most similar rows with others, so that it stays a row that could be;
    the mean change, times the share of background rows with another value, is what additive attributions from that background
    would tell. Near 0 for an innocent model and for one whose bias is told. ``real_effect`` and ``told_effect`` are its two terms.

    Suits explainers that ask about changed inputs (Shapley values, occlusion; gradients along a path ask, too). A bad
    ``hidden_effect`` or ``behaviour_change`` means that maps of this model say nothing about its decisions.

    Source: Slack et al. 2020, arXiv:1911.02508; fairwashing: Aïvodji et al. 2019, arXiv:1901.09749; matched counterfactuals:
    Rubin 1973, doi 10.2307/2529684.
    Blind spots: a scaffold that calls the matched rows perturbed as well escapes ``hidden_effect``, one whose innocent rule agrees
    with the biased one on most rows escapes ``behaviour_change``; a forest that cannot learn the model sees little; where
    protected columns follow from the others no match is near (said in a caution); strong interactions make attributions
    differ from matched effects without any intent.
    """

    controls: ClassVar = ("NIST AI RMF MEASURE 2.8", "NIST AI RMF MEASURE 2.9", "EU AI Act Art. 13(1)")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="perturbation_auc",
            title="AUC of telling what the explainer asks from real rows",
            better="lower",
            kinds=("rank_auc",),
        ),
        Metric(name="behaviour_change", title="another rule on what is asked", better="lower", kinds=("mean",)),
        Metric(name="hidden_effect", title="effect that the explanation hides", better="lower", kinds=("mean",)),
        Metric(name="real_effect", title="effect on real rows", better="neither", kinds=("mean",)),
        Metric(name="told_effect", title="effect that the explanation tells", better="neither", kinds=("mean",)),
    )
    remedy: ClassVar[str] = (
        "Do not rest a claim of fairness on this explanation. Measure the groups' outcomes directly, exchange the protected value on "
        "real rows, and ask for the model itself rather than access to its answers."
    )

    explainer: str | dict[str, Any] = "permutation_shap"
    """The explainer: a name, or ``{name: {parameter: value}}``; one that asks about changed inputs."""
    samples: int = Field(default=96, ge=8)
    """Test rows explained; every check of explanations takes the same."""
    queries: int = Field(default=48, ge=1)
    """Inputs kept of those that are asked to explain a row."""
    pool: int = Field(default=1000, ge=20)
    """Real rows compared with, beside those explained: test rows, then members."""
    protected: tuple[str, ...] = ()
    """Columns of a table whose effect must not be hidden, exchanged together."""
    neighbours: int = Field(default=5, ge=1)
    """Matched rows that a row takes protected values from."""

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            NotApplicable: the explainer asks the model nothing but the rows themselves.
            UserError: a protected column is unknown, or there are fewer than 8 test rows.
        """
        from audit.checks.explanation._columns import column_names, column_places
        from audit.checks.explanation._real_or_perturbed import FOLDS
        from audit.checks.explanation._recording import recorded

        name, explainer = build_explainer(self.explainer)
        columns = column_places(self.protected, column_names(model, "protected"), model) if self.protected else []
        subject = self.subject(model, data, ctx)
        if len(subject.batch) < 8:
            raise UserError(f"fairwashing needs 8 rows or more to hold some out, the data has {len(subject.batch)}")
        real = self._real(model, data, subject, ctx)
        fold = ctx.generator("folds").permutation(len(real)) % FOLDS
        parts = [subject.background[number::FOLDS] for number in range(FOLDS)]
        backgrounds = [
            parts[number] if len(parts[number]) else subject.background for number in fold[: len(subject.batch)]
        ]
        asked = _unreal(recorded(explainer, model, subject, backgrounds, ctx, keep=self.queries), real)
        if not len(asked.x):
            raise NotApplicable(
                f"explainer '{name}' asks model '{model.name}' about real rows alone: there is nothing a model could recognise"
            )
        evidence = AttributionEvidence(ctx, model, subject, name, explainer, self.keep)
        if columns:
            if asked.found[0].space != model.output:
                raise UserError(
                    f"'{name}' explains model '{model.name}' as a {asked.found[0].space}, and the model answers a {model.output}: "
                    "their effects cannot be compared"
                )
            yield from self._hidden(
                model, subject, real, asked, backgrounds, columns, explainer.complete, evidence, ctx
            )
        else:
            for i, found in enumerate(asked.found):
                evidence.add(slice(i, i + 1), found)
        yield from self._gameable(model, subject, real, asked, fold, evidence.refs, ctx)

    def _real(self, model: AuditedModel, data: AuditData, subject: Subject, ctx: Context) -> Tensor:
        """Real rows: first those explained, then further test rows and members that are no background."""
        import torch

        from audit.checks._sample import sample

        explained = set(subject.batch.ids)
        others = [
            model.tensor(batch.take([i for i, row in enumerate(batch.ids) if row not in explained]))
            for batch in (sample(part, self.pool, ctx) for part in (data.test, data.train) if part is not None)
        ]
        background = {row.tobytes() for row in subject.background.cpu().numpy()}
        further = torch.cat(others)
        kept = torch.tensor([row.tobytes() not in background for row in further.cpu().numpy()], dtype=torch.bool)
        return torch.cat([subject.x, further[kept.to(further.device)][: self.pool]])

    def _gameable(
        self,
        model: AuditedModel,
        subject: Subject,
        real: Tensor,
        asked: Asked,
        fold: NDArray[np.int64],
        shown: tuple[EvidenceRef, ...],
        ctx: Context,
    ) -> Iterator[Measurement]:
        import numpy as np

        from audit.checks.explanation._real_or_perturbed import (
            Samples,
            change_of_rule,
            learnable,
            rule_learned,
            told_apart,
            with_edges,
        )
        from audit.stats import auc

        seed, row = ctx.number("forests"), asked.row.numpy()
        inputs = real.cpu().numpy(), asked.x.cpu().numpy()
        plain = learnable(*inputs, model, seed)
        edged = [with_edges(flat, part, model) for flat, part in zip(plain, inputs, strict=True)]
        real_scores, asked_scores = told_apart(Samples(edged[0], edged[1], fold, fold[row]), seed)
        rows_asked = len(np.unique(row))
        ctx.progress(1, 2, "forests grown")
        yield Measurement(
            metric="perturbation_auc",
            # What is asked of one row hangs together: rows count, not queries.
            estimate=RankAuc(value=auc(asked_scores, real_scores), n_pos=rows_asked, n_neg=len(real)),
            evidence=(_roc(ctx, asked_scores, real_scores), *shown),
            cautions=subject.cautions,
        )
        right, right_asked, answer, answer_asked = rule_learned(
            Samples(*plain, fold, fold[row]), _answers(model, asked.x), _answers(model, real), seed
        )
        explained = slice(0, len(subject.batch))
        change = change_of_rule(right[explained], answer[explained], right_asked, answer_asked, row)
        outcomes = ctx.evidence("behaviour_change", "outcomes", title="another rule on what is asked")
        outcomes.append(subject.batch.ids, value=change)
        held = float(right_asked.mean())
        little = f"a forest learns the model's answer to {held:.0%} of what is asked: it sees only so much of a change"
        yield Measurement(
            metric="behaviour_change",
            estimate=_mean(change),
            evidence=(outcomes.ref,),
            cautions=(*subject.cautions, *((little,) if held < _LEARNED else ())),
        )
        ctx.progress(2, 2, "forests grown")

    def _hidden(
        self,
        model: AuditedModel,
        subject: Subject,
        real: Tensor,
        asked: Asked,
        backgrounds: list[Tensor],
        columns: list[int],
        complete: bool,
        evidence: AttributionEvidence,
        ctx: Context,
    ) -> Iterator[Measurement]:
        import torch

        from audit.checks.explanation._matched import differing, effect, match

        matched = match(model, subject.x, real, columns, self.neighbours)
        moved = effect(model, subject.x, subject.target, real, matched, columns).abs()
        others = [
            differing(x[None], background, columns).double().mean()
            for x, background in zip(subject.x, backgrounds, strict=True)
        ]
        expected = moved * torch.stack(others).cpu()
        told = torch.cat([found.values[:, columns].double().sum(dim=1).abs().cpu() for found in asked.found])
        known = matched.known.any(dim=1).cpu()
        if not bool(known.any()):
            raise UserError(
                f"every row has the same {' and '.join(self.protected)}: there is no other value to exchange it for"
            )
        for i, found in enumerate(asked.found):
            part = slice(i, i + 1)
            evidence.add(part, found, real_effect=expected[part], told_effect=told[part])
        cautions = list(subject.cautions)
        if matched.stretch > _STRETCHED:
            cautions.append(
                f"the nearest row with another value is {matched.stretch:.1f} times as far as the nearest row: the other columns "
                "nearly tell the protected ones, and exchanged rows may not be real"
            )
        if not complete:
            cautions.append(
                "the explainer's values are not parts of the score: told and real effect may be on two scales"
            )
        ids = [name for name, is_known in zip(subject.batch.ids, known.tolist(), strict=True) if is_known]
        table = ctx.evidence("effects", "table", title="effect of the protected columns")
        table.append(ids, real_effect=expected[known], told_effect=told[known], hidden=(expected - told)[known])
        for metric, values in (("hidden_effect", expected - told), ("real_effect", expected), ("told_effect", told)):
            yield Measurement(
                metric=metric,
                estimate=_mean(values[known].numpy()),
                evidence=(table.ref, *evidence.refs),
                cautions=tuple(cautions),
            )


def _unreal(asked: Asked, real: Tensor) -> Asked:
    """Without what is a real row: the explained row itself, background rows as they are."""
    import torch

    from audit.checks.explanation._recording import Asked as Found

    known = {row.tobytes() for row in real.cpu().numpy()}
    kept = torch.tensor([row.tobytes() not in known for row in asked.x.cpu().numpy()], dtype=torch.bool)
    return Found(asked.x[kept.to(asked.x.device)], asked.row[kept], asked.found)


def _answers(model: AuditedModel, x: Tensor) -> NDArray[np.generic]:
    found: NDArray[np.generic] = model.predict(x).cpu().numpy()
    return found


def _mean(values: NDArray[np.float64]) -> Mean:
    from audit.stats import mean_and_se

    value, se, n = mean_and_se(values)
    return Mean(value=value, se=se, n=n)


def _roc(ctx: Context, asked: NDArray[np.float64], real: NDArray[np.float64]) -> EvidenceRef:
    from audit.stats import roc_curve_points

    fpr, tpr, _ = roc_curve_points(asked, real)
    writer = ctx.evidence("roc", "roc", title="what the explainer asks against real rows")
    writer.append([str(i) for i in range(len(fpr))], fpr=fpr, tpr=tpr)
    return writer.ref
