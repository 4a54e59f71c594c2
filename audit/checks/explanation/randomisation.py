"""Does an explanation depend on what the model has learnt?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._correlation import Over
from audit.checks.explanation._explaining import AttributionEvidence, ExplanationCheck, build_explainer, explain
from audit.checks.explanation._per_row import kept_rows, outcomes, row_mean
from audit.finding import Measurement, Metric
from audit.model import Capability
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.checks.explanation._explaining import Subject
    from audit.context import Context
    from audit.data import AuditData
    from audit.explainers import Attribution
    from audit.explainers._features import Features
    from audit.finding import EvidenceRef
    from audit.model import AuditedModel


class Randomisation(ExplanationCheck):
    """Sanity checks for maps: the rank correlation between the map of the model and that of a model that has learnt nothing.

    `parameters`: layers are initialised anew from the output down to the input, one after the other; the undivided number is the
    correlation once all of them are, and `layer` names how far down each stage went. `data`: the model is trained again on
    permuted labels of its training rows, and learns them by heart. The explained class stays the same. A map that depends on the
    model changes; one that does not change (correlation 1; a constant map, too) shows the input, not the model: a correlation
    above 0.5 should fail (a policy). Sizes are compared, and values with their signs.

    What the input alone gives is measured too: `between_random` is the same correlation between two models that have both learnt
    nothing. Values that are multiplied by the input's distance to a baseline (integrated gradients, Shapley values) are large where
    that is large, whatever the model: of a small CNN on digits, integrated gradients correlate with those of a random model by 0.90
    in size over all pixels (two random models do, too), by 0.37 over those that are not 0 in both maps, and by 0 with their signs.
    For such explainers gate `signed_rank_correlation`, which an edge detector and a constant map miss all the same.

    `parameters` suits explainers of torch modules, `data` also scikit-learn's estimators and boosters. A reader of a map that
    fails sees edges and strokes, and takes them for reasons.

    Source: Adebayo et al. 2018, arXiv:1810.03292; signs and products with the input: Sundararajan & Taly 2018, arXiv:1806.04205;
    Kokhlikyan et al. 2021, arXiv:2106.07475.
    Blind spots: passing says that a map depends on the model, not that it is right: noise passes. Rank correlation ranks noisy
    maps above calm ones, and with the top layers alone anew the lower ones still show the input (Binder et al. 2023,
    arXiv:2211.12486). Of permuted labels only one training is looked at.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="rank_correlation", title="rank correlation of sizes after randomising the parameters", better="lower",
            kinds=("mean",),
        ),
        Metric(
            name="signed_rank_correlation", title="rank correlation of values after randomising the parameters",
            better="lower", kinds=("mean",),
        ),
        Metric(
            name="between_random", title="rank correlation of sizes between two random models", better="neither",
            kinds=("mean",),
        ),
        Metric(
            name="data_rank_correlation", title="rank correlation of sizes after training on permuted labels",
            better="lower", kinds=("mean",),
        ),
        Metric(
            name="data_signed_rank_correlation", title="rank correlation of values after training on permuted labels",
            better="lower", kinds=("mean",),
        ),
    )  # fmt: skip
    remedy: ClassVar[str] = (
        "Do not use this explainer to debug or justify the model: it would show the same for one that has learnt nothing. Show "
        "signed values, divide by the input where the map is multiplied by it, or take another explainer."
    )

    randomise: Literal["parameters", "data", "both"] = "parameters"
    """What is made random: the model's parameters, or the labels it is trained on."""
    draws: int = Field(default=5, ge=1)
    """Random initialisations of the whole model; the stages before use the first. The interval is over rows and initialisations: two
    or three of these leave it wide."""
    stages: int = Field(default=4, ge=1)
    """Stages from the top down, of about as many layers each; at most one per layer."""
    over: Over = "nonzero"
    """Features that are correlated: those that are not 0 in both maps, or all, as in the paper; what has 0 in both shares a rank,
    and makes any two maps alike."""
    members: int | None = Field(default=None, ge=2)
    """Training rows used for training on permuted labels; by default all."""
    epochs: int = Field(default=200, ge=1)
    """Of a torch module on permuted labels: epochs at most."""

    def requirements(self) -> frozenset[Capability]:
        """What the explainer needs, and layers or training rows."""
        parameters = frozenset({Capability.LAYERS}) if self.randomise != "data" else frozenset()
        data = frozenset({Capability.TRAIN_DATA}) if self.randomise != "parameters" else frozenset()
        return super().requirements() | parameters | data

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            UserError: the model's answers do not come from its module.
        """
        subject = self.subject(model, data, ctx)
        if self.randomise != "data":
            yield from self._by_parameters(model, subject, ctx)
        if self.randomise != "parameters":
            yield from self._by_data(model, data, subject, ctx)

    def _by_parameters(self, model: AuditedModel, subject: Subject, ctx: Context) -> Iterator[Measurement]:
        import torch

        from audit.checks.explanation._randomised import layers_from_top, randomised

        layers = layers_from_top(model, subject.x)
        cuts = sorted({-(-len(layers) * (stage + 1) // self.stages) for stage in range(self.stages)})
        seeds = [ctx.number(f"new weights {draw}") for draw in range(self.draws)]
        stages = []
        for cut in cuts:
            last = cut == len(layers)
            others = [
                randomised(model, layers[:cut], subject.background, seed) for seed in seeds[: None if last else 1]
            ]
            if last and torch.equal(others[0].scores(subject.x), model.scores(subject.x)):
                raise UserError(
                    f"model '{model.name}': new weights in all {len(layers)} layers leave its answers as they were, which do not "
                    "come from its module: set randomise to data"
                )
            found = self._compared(model, others, subject, ctx, "attributions" if last else "")
            stages.append((cut, found))
            yield from _measured(ctx, found, {"layer": layers[cut - 1].name}, "", ())
        yield from _measured(ctx, found, {}, "", (_curve(ctx, stages), *found.maps))
        if found.between is not None:
            yield row_mean(ctx, "between_random", found.between, found.ids, cautions=found.cautions)

    def _by_data(self, model: AuditedModel, data: AuditData, subject: Subject, ctx: Context) -> Iterator[Measurement]:
        from audit.checks._sample import sample
        from audit.checks.explanation._retrained import LEARNT, retrained

        assert data.train is not None  # TRAIN_DATA is among the requirements
        other, learnt = retrained(model, sample(data.train, self.members, ctx), ctx, self.epochs)
        found = self._compared(model, [other], subject, ctx, "attributions-permuted-labels")
        caution = (
            f"trained on permuted labels the model learnt {learnt:.0%} of them, not {LEARNT:.0%}: it may show what is left of "
            "its beginnings"
        )
        yield from _measured(ctx, found, {}, "data_", found.maps, () if learnt > LEARNT else (caution,))

    def _compared(
        self, model: AuditedModel, others: list[AuditedModel], subject: Subject, ctx: Context, file: str
    ) -> _Compared:
        """Correlations of the model's maps with those of other models; its own are stored under `file`, and the first other's."""
        import torch

        from audit.checks.explanation._maps import common_features

        name, explainer = build_explainer(self.explainer)
        keep = self.keep if file else 0
        own = AttributionEvidence(ctx, model, subject, name, explainer, keep, file)
        anew = AttributionEvidence(
            ctx, model, subject, f"{name} of a random model", explainer, keep, f"{file}-randomised"
        )
        parts = []
        for together in zip(*(explain(explainer, each, subject, ctx) for each in (model, *others)), strict=True):
            rows, maps = together[0][0], [found for _, found in together]
            features = common_features(subject.x[rows], model.spec, *maps)
            parts.append(self._correlations(features, maps))
            own.add(rows, maps[0], rank_correlation=parts[-1]["sizes"].mean(dim=1))
            anew.add(rows, maps[1], rank_correlation=parts[-1]["sizes"][:, 0])
            ctx.progress(rows.stop, len(subject.batch), f"rows explained with {len(others)} random models")
        numbers = {key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]}
        places, ids, left_out = kept_rows(numbers["count"] > 1, subject.batch.ids, "have fewer than two features")
        numbers = {key: values[places] for key, values in numbers.items()}
        flat, empty, of = int(numbers["flat"].sum()), int(numbers["empty"].sum()), numbers["flat"].numel()
        cautions = [*subject.cautions, *left_out]
        if flat:
            cautions.append(f"{flat} of {of} maps of random models are constant, and count as changed")
        if empty:
            cautions.append(f"{empty} of {of} maps were constant before, and count as changed")
        return _Compared(
            ids, numbers["sizes"], numbers["values"], numbers.get("between"), tuple(cautions), (*own.refs, *anew.refs),
            "one of the two maps is constant in every pair: there are no ranks to compare" if flat + empty == of else None,
        )  # fmt: skip

    def _correlations(self, features: Features, maps: list[Attribution]) -> dict[str, Tensor]:
        """``(N, M)`` correlations of the first map with the M others, by sizes and values; ``(N,)`` those among the others."""
        import torch

        from audit.checks.explanation._correlation import compared, constant, rank_correlation

        known = features.known()
        first, *others = [features.total(found.values) for found in maps]

        def correlations(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            places = compared(a, b, known, self.over)
            return rank_correlation(a.abs(), b.abs(), places), rank_correlation(a, b, places)

        sizes, values = zip(*(correlations(first, other) for other in others), strict=True)
        still, *stills = [constant(values, known) for values in (first, *others)]
        flat, empty = [other & ~still for other in stills], [still & ~other for other in stills]
        found = {
            "sizes": torch.stack(sizes, dim=1),
            "values": torch.stack(values, dim=1),
            "flat": torch.stack(flat, dim=1),
            "empty": torch.stack(empty, dim=1),
            "count": features.count,
        }
        if len(others) > 1:
            pairs = [correlations(a, b)[0] for a, b in itertools.combinations(others, 2)]
            found["between"] = torch.stack(pairs, dim=1).mean(dim=1)
        return found


@dataclass(frozen=True)
class _Compared:
    """Correlations of N rows' maps with those of M random models.

    Args:
        sizes, values: ``(N, M)`` by size, and by value with its sign.
        between: ``(N,)`` mean over pairs of random models, by size; None of a single one.
        unresolved: why they decide nothing.
    """

    ids: tuple[str, ...]
    sizes: Tensor
    values: Tensor
    between: Tensor | None
    cautions: tuple[str, ...]
    maps: tuple[EvidenceRef, ...]
    unresolved: str | None


def _measured(
    ctx: Context,
    found: _Compared,
    dims: dict[str, str],
    prefix: str,
    shown: tuple[EvidenceRef, ...],
    cautions: tuple[str, ...] = (),
) -> Iterator[Measurement]:
    from audit.checks.explanation._crossed import crossed_mean, draws_decide

    if found.sizes.shape[1] == 1:
        cautions = (*cautions, "of one random model: the interval is over rows alone")
    for metric, each in (("rank_correlation", found.sizes), ("signed_rank_correlation", found.values)):
        values = each.numpy()
        wide = ("random models differ more than rows do: more draws narrow the interval, more rows hardly",)
        yield Measurement(
            metric=f"{prefix}{metric}",
            estimate=crossed_mean(values),
            dims=dims,
            evidence=(outcomes(ctx, f"{prefix}{metric}", each.mean(dim=1), found.ids, dims), *shown),
            cautions=(*found.cautions, *cautions, *(wide if draws_decide(values) else ())),
            unresolved=found.unresolved,
        )


def _curve(ctx: Context, stages: list[tuple[int, _Compared]]) -> EvidenceRef:
    """Mean correlations with their 95 % intervals as more layers are anew; without any it is 1."""
    import numpy as np

    from audit.checks.explanation._crossed import crossed_mean

    writer = ctx.evidence(
        "curve", "curve", title="parameter randomisation", x_label="layers initialised anew, from the top",
        y_label="rank correlation with the model's own map", x_scale="linear", y_scale="linear",
    )  # fmt: skip
    x = np.array([0, *(cut for cut, _ in stages)], dtype=np.float64)
    for number, (title, of) in enumerate((("sizes", "sizes"), ("values with their signs", "values"))):
        means = [crossed_mean(getattr(found, of).numpy()) for _, found in stages]
        y = np.array([1.0, *(mean.value for mean in means)])
        ends = np.array([(1.0, 1.0), *(mean.interval() for mean in means)])
        low, high = np.where(np.isfinite(ends), ends, y[:, None]).clip(-1, 1).T
        ids = [str(number * len(x) + i) for i in range(len(x))]
        writer.append(ids, x=x, y=y, low=low, high=high, series=[title] * len(x))
    return writer.ref
