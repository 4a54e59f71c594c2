"""Do attributions add up to what they explain?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._explaining import AttributionEvidence, ExplanationCheck, build_explainer, explain
from audit.finding import Exact, Mean, Measurement, Metric, Proportion
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.checks.explanation._explaining import Subject
    from audit.context import Context
    from audit.data import AuditData
    from audit.explainers import Attribution
    from audit.model import AuditedModel


class Completeness(ExplanationCheck):
    """Share of attributions that add up to the score minus the score at the baseline.

    The gap abs(sum of values − (f(x) − f(baseline))) counts as closed up to max(1e-4 · max(1, abs f(x)), 1 % of abs(f(x) −
    f(baseline))) (a policy, not a law). f is the output the attributions are in: a logit, a margin, a probability, a value; where
    that is the model's own output, f(x) is asked of the model again.

    The relative gap is the gap as a share of abs(f(x) − f(baseline)), which counts as at least 1 % of max(1, abs f(x)): an
    attribution is complete where it is at most 1 %.

    Suits explainers whose values are meant to add up: integrated gradients, over embeddings too, and Shapley values. Where it is
    low, read no sizes from a map: a share of the score is missing or made up, and nobody knows at which features.

    Source: Sundararajan et al. 2017, arXiv:1703.01365 (completeness); Lundberg & Lee 2017, arXiv:1705.07874 (local accuracy).
    Blind spots: values may add up and be wrong one by one: see explanation.faithfulness. f(baseline) is the explainer's word.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="complete", title="share of complete attributions", better="higher", kinds=("proportion",)),
        Metric(name="mean_relative_gap", title="mean relative gap in completeness", better="lower", kinds=("mean",)),
        Metric(
            name="max_relative_gap",
            title="largest relative gap in completeness",
            better="lower",
            kinds=("exact",),
            varies="nothing",
        ),
    )
    remedy: ClassVar[str] = (
        "Raise max_steps, or integrate from a baseline nearer to the data; a gap that stays points to a model that is not "
        "differentiable along the way, or to an explainer that does not fit it."
    )

    @model_validator(mode="after")
    def _adds_up(self) -> Completeness:
        name, explainer = build_explainer(self.explainer)
        if not explainer.complete:
            raise UserError(
                f"explainer '{name}' is not meant to add up to the score: choose integrated_gradients (of texts: layer_integrated_gradients) or permutation_shap"
            )
        return self

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`."""
        import torch

        from audit.explainers._completeness import TOLERANCE
        from audit.stats import mean_and_se

        name, explainer = build_explainer(self.explainer)
        subject = self.subject(model, data, ctx)
        evidence = AttributionEvidence(ctx, model, subject, name, explainer, self.keep)
        gaps = []
        for rows, found in explain(explainer, model, subject, ctx):
            gaps.append(_relative_gaps(model, subject, rows, found, name).cpu())
            evidence.add(rows, found, relative_gap=gaps[-1])
            ctx.progress(rows.stop, len(subject.batch), "rows explained")
        gap = torch.cat(gaps).numpy()
        complete = gap <= TOLERANCE
        whole = ctx.evidence("complete", "outcomes", title="complete")
        whole.append(subject.batch.ids, value=complete.astype("float64"))
        relative = ctx.evidence("relative_gap", "outcomes", title="relative gap")
        relative.append(subject.batch.ids, value=gap)
        value, se, n = mean_and_se(gap)
        yield Measurement(
            metric="complete",
            estimate=Proportion(k=int(complete.sum()), n=n),
            evidence=(whole.ref, *evidence.refs),
            cautions=subject.cautions,
        )
        yield Measurement(
            metric="mean_relative_gap",
            estimate=Mean(value=value, se=se, n=n),
            evidence=(relative.ref,),
            cautions=subject.cautions,
        )
        yield Measurement(
            metric="max_relative_gap", estimate=Exact(value=float(gap.max()), n=n), cautions=subject.cautions
        )


def _relative_gaps(model: AuditedModel, subject: Subject, rows: slice, found: Attribution, name: str) -> Tensor:
    import torch

    from audit.explainers._completeness import completeness_gap, relative_gap

    if found.base_value is None or found.score is None:
        raise ValueError(f"explainer '{name}' says that its values add up, but gives no base value and score")
    score = found.score.double()
    if found.space == model.output:
        with torch.no_grad():
            parts = zip(
                torch.split(subject.x[rows], model.micro_batch),
                torch.split(subject.target[rows], model.micro_batch),
                strict=True,
            )
            score = torch.cat([model.target_score(x, target) for x, target in parts]).to(score)
    base = found.base_value.to(score)
    return relative_gap(completeness_gap(found.values.to(score.device), score, base), score, base)
