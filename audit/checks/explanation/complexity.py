"""How many features must a reader look at?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._explaining import AttributionEvidence, ExplanationCheck, build_explainer, explain
from audit.checks.explanation._per_row import kept_rows, row_mean
from audit.finding import Measurement, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel


class Complexity(ExplanationCheck):
    """How an attribution is spread over the features: a few that carry it, or all of them a little.

    Entropy of the shares ``|value| / sum |value|``; its exponential, the effective number of features (as many equally strong ones
    have the same entropy: 1 where one feature carries all, F where all weigh the same); that number as a share of the row's F
    features, to compare inputs of different length; and the Gini index of the sizes, from 0 (all the same) to 1 − 1/F (one alone).
    Features are pixels across channels, words, columns, single values, or what the explainer gave one value to.

    For every explainer. A reader of a complex map sees noise, and cannot hold in mind what it says; a simple map need not be true:
    gate it beside faithfulness, never alone.

    Source: Bhatt et al. 2020, arXiv:2005.00631 (entropy); Chalasani et al. 2020, arXiv:1810.06583, after Hurley & Rickard 2009,
    arXiv:0811.4706 (Gini index).
    Blind spots: knows nothing of the model: a map that points to one wrong feature is the simplest of all. Neighbouring pixels
    that a reader sees as one thing count one by one.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="entropy", title="entropy of the attribution", better="lower", kinds=("mean",), unit="nats"),
        Metric(
            name="effective_features", title="effective number of features", better="lower", kinds=("mean",),
            unit="features",
        ),
        Metric(name="effective_share", title="effective share of the features", better="lower", kinds=("mean",)),
        Metric(name="gini", title="Gini index of the attribution", better="higher", kinds=("mean",)),
    )  # fmt: skip
    remedy: ClassVar[str] = (
        "Show fewer, larger features (superpixels, words, groups of columns), or an explainer that averages noise away; say beside "
        "the map how much of it the features shown carry."
    )

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`."""
        import torch

        from audit.checks.explanation._maps import common_features

        name, explainer = build_explainer(self.explainer)
        subject = self.subject(model, data, ctx)
        evidence = AttributionEvidence(ctx, model, subject, name, explainer, self.keep)
        parts: list[dict[str, Tensor]] = []
        for rows, found in explain(explainer, model, subject, ctx):
            features = common_features(subject.x[rows], model.spec, found)
            parts.append(spread_of(features.total(found.values).abs(), features.count.to(found.values.device)))
            evidence.add(rows, found, effective_features=parts[-1]["effective_features"])
            ctx.progress(rows.stop, len(subject.batch), "rows explained")
        numbers = {metric: torch.cat([part[metric] for part in parts]).cpu() for metric in parts[0]}
        places, ids, left_out = kept_rows(~numbers["entropy"].isnan(), subject.batch.ids, "have a map of zeros")
        for metric, values in numbers.items():
            yield row_mean(
                ctx, metric, values[places], ids, cautions=(*subject.cautions, *left_out), shown=evidence.refs
            )


def spread_of(sizes: Tensor, count: Tensor) -> dict[str, Tensor]:
    """Each metric's number of each row, ``(N,)`` float64; NaN where all sizes are 0.

    Args:
        sizes: ``(N, F)`` float64, 0 or more; 0 beyond a row's count.
        count: ``(N,)`` features of each row.
    """
    import torch

    share = sizes / sizes.sum(dim=1, keepdim=True)
    entropy = -torch.special.xlogy(share, share).sum(dim=1)
    effective = entropy.exp()
    ascending = share.sort(dim=1).values  # the zeros beyond a row's count come first, and weigh nothing
    place = torch.arange(1, share.shape[1] + 1, device=share.device) - (share.shape[1] - count[:, None])
    gini = 1 - 2 * (ascending * (count[:, None] - place + 0.5)).sum(dim=1) / count
    return {"entropy": entropy, "effective_features": effective, "effective_share": effective / count, "gini": gini}
