"""Do several explanations of the same answers say the same?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from audit.checks import Check
from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._correlation import Over
from audit.checks.explanation._explaining import AttributionEvidence, Target, build_explainer, choose, explain
from audit.checks.explanation._per_row import kept_rows, row_mean
from audit.finding import EvidenceRef, Measurement, Metric
from audit.parameters import UserError, parse_real

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData
    from audit.explainers import Attribution, Explainer
    from audit.explainers._features import Features
    from audit.model import AuditedModel, Capability

ExplainerSpec = str | dict[str, Any]


class Agreement(Check):
    """How alike the maps of several explainers, of one explainer from several baselines, or under several seeds are.

    Every two explainers of the list are a pair; with `draws` above 1, so are every two seeds of each explainer. Per row and pair:
    Spearman's correlation of the sizes of the values, of the values with their signs, and the overlap of the `top` features by
    size. Random maps overlap by k / F on average: the gain is what is above that. The undivided number is the mean over the pairs
    of each row; the gate ``metric[*]`` asks it of every pair. Maps are compared pixel by pixel (across channels), word by word,
    column by column; where all have the same features of their own (superpixels), by those. Two maps with equal ranks correlate
    by 1, constant ones too; a constant map and another by 0.

    For every explainer. Two explainers that disagree answer different questions, or one of them is wrong; a reader who sees only
    one map cannot know. Two seeds that disagree mean that the map shown is partly chance.

    Source: Krishna et al. 2022, arXiv:2202.01602 (disagreement, feature and rank agreement); Spearman 1904,
    doi 10.2307/1412159.
    Blind spots: explainers that share a mistake agree; contributions and slopes (integrated gradients and a gradient) differ
    rightly where inputs differ in size. Ranks weigh the many unimportant features like the few important ones: read the overlap
    beside them.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="rank_correlation", title="rank correlation of sizes", better="higher", kinds=("mean",)),
        Metric(name="signed_rank_correlation", title="rank correlation of values", better="higher", kinds=("mean",)),
        Metric(name="top_overlap", title="overlap of the top features", better="higher", kinds=("mean",)),
        Metric(
            name="top_overlap_gain", title="overlap of the top features above random maps'", better="higher",
            kinds=("mean",),
        ),
    )  # fmt: skip
    remedy: ClassVar[str] = (
        "Choose one explainer by explanation.faithfulness and explanation.randomisation and name it beside the map; raise its "
        "samples where seeds disagree, and say from which baseline it speaks where baselines do."
    )

    explainers: tuple[ExplainerSpec, ...] = Field(default=("integrated_gradients", "input_x_gradient"), min_length=1)
    """Explainers, each a name or ``{name: {parameter: value}}``; the same one from several baselines is several."""
    draws: int = Field(default=1, ge=1)
    """Seeds of each explainer that are compared with each other; one explainer alone needs two or more."""
    top: Annotated[float, BeforeValidator(parse_real)] = Field(default=0.1, gt=0)
    """The features that count as the top ones: a share of them below 1 (at least one feature), a number from 1."""
    over: Over = "nonzero"
    """Features that are correlated: those that are not 0 in both maps, or all; what has 0 in both shares a rank, and makes any two
    maps alike."""
    samples: int = Field(default=256, ge=1)
    """Test rows explained; every check of explanations takes the same."""
    target: Target = "prediction"
    """The class explained: the predicted one, or the row's label."""
    background: int = Field(default=100, ge=1)
    """Background rows: of the population, else the members, else the test rows."""
    keep: int = Field(default=16, ge=0)
    """Attributions of each explainer stored as evidence."""

    @model_validator(mode="after")
    def _something_to_compare(self) -> Agreement:
        labels = _labels(self.explainers)
        if len(labels) == 1 and self.draws == 1:
            raise UserError(f"explainer '{labels[0]}' alone agrees with nothing: name a second one, or set draws to 2")
        if twice := [label for label in set(labels) if labels.count(label) > 1]:
            raise UserError(f"explainer '{twice[0]}' is listed twice: to compare seeds, set draws")
        if self.top >= 1 and self.top != int(self.top):
            raise UserError(f"top is a share below 1 or a whole number of features, got {self.top:g}")
        return self

    def requirements(self) -> frozenset[Capability]:
        """What its explainers need."""
        return self.needs.union(*(build_explainer(spec)[1].needs for spec in self.explainers))

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            UserError: `top` leaves no feature out.
        """
        import torch

        from audit.checks.explanation._maps import common_features

        subject = choose(model, data, ctx, samples=self.samples, background=self.background, target=self.target)
        members, pairs = self._members(), self._pairs()
        shown = [
            AttributionEvidence(ctx, model, subject, m.name, m.explainer, self.keep, file=f"attributions-{m.label}")
            for m in members
            if m.draw == 0
        ]
        parts: list[dict[str, Tensor]] = []
        still = 0
        chunks = zip(*(explain(m.explainer, model, subject, ctx, draw=m.draw) for m in members), strict=True)
        for together in chunks:
            rows, maps = together[0][0], [found for _, found in together]
            features = common_features(subject.x[rows], model.spec, *maps)
            if self.top >= features.most and model.spec.kind != "text":  # texts have as many words as they have
                raise UserError(
                    f"the top {self.top:g} of {features.most} features are all: choose fewer, or a share below 1"
                )
            parts.append(self._compared(features, maps, pairs))
            still += int(_still(features, maps).sum())
            for evidence, found in zip(
                shown, (f for m, f in zip(members, maps, strict=True) if m.draw == 0), strict=True
            ):
                evidence.add(rows, found, rank_correlation=parts[-1]["rank_correlation"].mean(dim=1))
            ctx.progress(rows.stop, len(subject.batch), "rows explained")
        numbers = {metric: torch.cat([part[metric] for part in parts]).cpu() for metric in parts[0]}
        places, ids, left_out = kept_rows(
            ~numbers["top_overlap"].isnan().any(dim=1), subject.batch.ids, "have fewer than two features"
        )
        refs = tuple(ref for evidence in shown for ref in evidence.refs)
        yield from self._measured(
            ctx,
            {metric: values[places] for metric, values in numbers.items()},
            ids,
            (*subject.cautions, *left_out, *_empty_agreement(still, len(subject.batch))),
            refs,
        )

    def _measured(
        self,
        ctx: Context,
        numbers: dict[str, Tensor],
        ids: tuple[str, ...],
        cautions: tuple[str, ...],
        refs: tuple[EvidenceRef, ...],
    ) -> Iterator[Measurement]:
        """Each number ``(N, P)`` undivided, then by the names of its pairs."""
        names = [name for name, _, _ in self._pairs()]
        for metric, values in numbers.items():
            yield row_mean(ctx, metric, values.mean(dim=1), ids, cautions=cautions, shown=refs)
            for name in dict.fromkeys(names):
                columns = [place for place, other in enumerate(names) if other == name]
                yield row_mean(ctx, metric, values[:, columns].mean(dim=1), ids, dims={"pair": name}, cautions=cautions)

    def _members(self) -> list[_Member]:
        labels = _labels(self.explainers)
        built = [build_explainer(spec) for spec in self.explainers]
        return [
            _Member(label, name, explainer, draw)
            for label, (name, explainer) in zip(labels, built, strict=True)
            for draw in range(self.draws)
        ]

    def _pairs(self) -> list[tuple[str, int, int]]:
        """Name and the members' places: two explainers under their first seed, or two seeds of one explainer."""
        members = list(enumerate(self._members()))
        return [
            (f"{a.label} and {b.label}" if a.label != b.label else f"{a.label} between seeds", i, j)
            for (i, a), (j, b) in itertools.combinations(members, 2)
            if a.label == b.label or (a.draw == 0 and b.draw == 0)
        ]

    def _compared(
        self, features: Features, maps: list[Attribution], pairs: list[tuple[str, int, int]]
    ) -> dict[str, Tensor]:
        """Each metric's number of each row and pair, ``(N, P)``; NaN of rows with fewer than two features."""
        import torch

        from audit.checks.explanation._correlation import compared, rank_correlation, top_overlap

        known, count = features.known(), features.count
        values = [features.total(found.values) for found in maps]
        k = (self.top * count).round() if self.top < 1 else torch.full_like(count, int(self.top))
        k = torch.minimum(k.long().clamp_min(1), count)
        chance = k / count
        found: dict[str, list[Tensor]] = {metric.name: [] for metric in self.metrics}
        for _, i, j in pairs:
            a, b = values[i], values[j]
            overlap = top_overlap(a.abs(), b.abs(), known, k)
            places = compared(a, b, known, self.over)
            found["rank_correlation"].append(rank_correlation(a.abs(), b.abs(), places))
            found["signed_rank_correlation"].append(rank_correlation(a, b, places))
            found["top_overlap"].append(overlap)
            found["top_overlap_gain"].append(overlap - chance)
        fewer = (count < 2)[:, None]
        return {metric: torch.stack(each, dim=1).masked_fill(fewer, torch.nan) for metric, each in found.items()}


@dataclass(frozen=True)
class _Member:
    """One map of each row: an explainer under one seed."""

    label: str
    name: str
    explainer: Explainer
    draw: int


def _still(features: Features, maps: list[Attribution]) -> Tensor:
    """``(N,)`` bool: rows whose maps are all constant."""
    import torch

    from audit.checks.explanation._correlation import constant

    each = [constant(features.total(found.values), features.known()) for found in maps]
    return torch.stack(each).all(dim=0) & (features.count > 1)


def _empty_agreement(still: int, n: int) -> Iterator[str]:
    if still:
        yield f"{still} of {n} rows have constant maps only, which agree and say nothing"


def _labels(specs: tuple[ExplainerSpec, ...]) -> list[str]:
    """Each explainer's name; where several share it, with the parameters that are not the default."""
    built = [build_explainer(spec) for spec in specs]
    names = [name for name, _ in built]
    return [f"{name}{_parameters(explainer)}" if names.count(name) > 1 else name for name, explainer in built]


def _parameters(explainer: Explainer) -> str:
    """`` baseline zero steps 20``: in a gate's key, where brackets, commas and equality signs have a meaning."""
    given = explainer.model_dump(mode="json", exclude_defaults=True)
    text = "".join(f" {key} {value}" for key, value in given.items())
    return "".join(c for c in text if c not in "[]=,")
