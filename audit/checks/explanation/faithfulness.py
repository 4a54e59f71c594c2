"""Do the features that an explanation names matter to the model?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._explaining import (
    AttributionEvidence,
    ExplanationCheck,
    build_explainer,
    explain,
)
from audit.explainers._baselines import Baseline
from audit.explainers._features import Unit
from audit.finding import EvidenceRef, Mean, Measurement, Metric
from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.checks.explanation._explaining import Subject
    from audit.context import Context
    from audit.data import AuditData
    from audit.explainers import Attribution
    from audit.explainers._features import Features
    from audit.model import AuditedModel, InputSpec

Replacement = Literal["rows"] | Baseline

_DEFAULTS: dict[str, tuple[Replacement, ...]] = {"image": ("mean", "blur"), "text": ("blank", "unknown")}


class Faithfulness(ExplanationCheck):
    """Deletion and insertion against random order.

    Features are taken away in the order of their attributions, and the probability of the explained class (the value of a
    regression) is followed: the area under that curve is compared, row by row, with the area under orders of the same features
    that know nothing. Deletion gain = random − explained, when the most important go first; insertion gain = explained −
    random, when only the most important are there. Images lose pixels in all channels at once, tables columns, series single
    values, texts words; or what `unit` says.

    Orders that know nothing are random ones; where features differ in size (words, segments), the map's own values dealt anew to
    its features: a large one has a large total under any map. So 0 is what a map without any relation to the model gets, and a
    random or a constant one misses a gate such as ``deletion_gain: "> 0.02"``.

    A removed feature leaves an input that the model may never have seen, and what it answers there depends on the replacement:
    so there are at least two, and the undivided gain is their mean. Single pixels leave a picture like no other; patches and
    segments are nearer to what a model has seen.

    Suits every explainer whose values say which features raise the explained score; one that gives sizes without signs
    (saliency as it comes, attention rollout) loses where features speak against the class. A gain near 0 tells the reader of a map
    that what it marks moves the answer no more than any other part; below 0, less.

    Source: Petsiuk et al. 2018, arXiv:1806.07421; Samek et al. 2017, arXiv:1509.06321; several replacements: Sturmfels et al.
    2020, doi 10.23915/distill.00022.
    Blind spots: says that the named features matter, not that the explanation tells why, nor that the model is right; features
    that matter only together share one rank; gains of different models, units or sizes are not on one scale.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="deletion_gain", title="deletion gain over random order", better="higher", kinds=("mean",)),
        Metric(name="insertion_gain", title="insertion gain over random order", better="higher", kinds=("mean",)),
    )
    remedy: ClassVar[str] = (
        "Do not show these explanations to users as reasons. Try another explainer, more steps or permutations, or a baseline "
        "that suits the input; then look at the rows with the lowest gains."
    )

    steps: int = Field(default=16, ge=2)
    """Even parts in which the features are removed."""
    random_orders: int = Field(default=10, ge=2, multiple_of=2)
    """Random orders per row, drawn in pairs: an order and its reverse."""
    unit: Unit = "auto"
    """What leaves in one piece: element, pixel, patch, segment (a superpixel), window, word; auto: pixels of an image, words of
    a text, else elements."""
    size: int | None = Field(default=None, ge=1)
    """Side of a patch in pixels, length of a window in steps, most segments of an image."""
    baselines: tuple[Replacement, ...] = ()
    """What replaces a removed feature, two or more of: mean (of background rows; the most frequent category), rows (the value of
    a random background row), blur (images), black (the lower bound), zero, a number; of texts: blank (spaces), unknown (U+FFFD
    for every character). By default mean and blur for images, blank and unknown for texts, mean and rows for anything else."""

    @model_validator(mode="after")
    def _baselines_differ(self) -> Faithfulness:
        if self.baselines and len(set(self.baselines)) < max(2, len(self.baselines)):
            raise UserError(f"baselines must be two or more different ones, got {', '.join(map(str, self.baselines))}")
        return self

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`."""
        import torch

        from audit.checks.explanation._removal import removal_counts
        from audit.explainers._features import features_of

        name, explainer = build_explainer(self.explainer)
        subject = self.subject(model, data, ctx)
        baselines = self.baselines or _DEFAULTS.get(model.spec.kind, ("mean", "rows"))
        features = features_of(subject.x, model.spec, self.unit, self.size)
        if features.most < 2:
            raise NotApplicable(
                f"explanation.faithfulness: every row is a single {features.unit}, which leaves no order: choose a smaller size or another unit"
            )
        counts = removal_counts(features, self.steps)
        share = (counts / features.count[:, None].clamp_min(1)).double().cpu()
        evidence = AttributionEvidence(ctx, model, subject, name, explainer, self.keep)
        curves: list[Tensor] = []
        incomplete = 0
        for rows, found in explain(explainer, model, subject, ctx):
            part = self._curves(model, subject, rows, found, features[rows], counts[rows], baselines, ctx)
            curves.append(part)
            incomplete += _incomplete(found) if explainer.complete else 0
            gains = _gains(part, share[rows])
            own = _own_curves(part.mean(dim=1), share[rows])
            evidence.add(rows, found, own, **{name: gain.mean(dim=1) for name, gain in gains.items()})
            ctx.progress(rows.stop, len(subject.batch), "rows explained")
        scores = torch.cat(curves)
        gains = _gains(scores, share)
        cautions = (*subject.cautions, *self._cautions(model, features, incomplete))
        shown = (*evidence.refs, self._curve_evidence(ctx, scores, share, features.unit, model))
        for metric, gain in gains.items():
            yield _measured(ctx, metric, gain.mean(dim=1), subject.batch.ids, {}, cautions, shown)
            for column, baseline in enumerate(baselines):
                dims = {"baseline": _text(baseline)}
                yield _measured(ctx, metric, gain[:, column], subject.batch.ids, dims, cautions, ())

    def _curves(
        self,
        model: AuditedModel,
        subject: Subject,
        rows: slice,
        found: Attribution,
        features: Features,
        counts: Tensor,
        baselines: tuple[Replacement, ...],
        ctx: Context,
    ) -> Tensor:
        """``(N, B, 4, K)`` scores as features leave by B replacements: most important first, least important first, and what either
        is compared with, the mean over orders that know nothing."""
        import torch

        from audit.checks.explanation._removal import alike, dealt_ranks, random_ranks, ranks_by, remove, reverse

        x, ids = subject.x[rows], subject.batch.ids[rows]
        first = ranks_by(found.values.to(x.device), features, ctx.rng(ids, "ties"))[:, None]
        either_way, streams = alike(found, features), ctx.rng(ids, "random orders")
        orders = (
            random_ranks(features, self.random_orders, streams)
            if either_way
            else dealt_ranks(found, features, self.random_orders, streams)
        ).to(x.device)
        ranks = torch.cat([first, reverse(first, features), orders], dim=1)
        by_baseline = []
        for baseline in baselines:
            replaced = _replacement(baseline, x, subject.background, model.spec, ctx, ids)
            scores = remove(model, x, replaced, subject.target[rows], features, ranks, counts).scores
            halves = scores[:, 2:].reshape(len(x), 2, -1, counts.shape[1]).mean(dim=2)
            controls = halves.mean(dim=1, keepdim=True).expand_as(halves) if either_way else halves
            by_baseline.append(torch.cat([scores[:, :2], controls], dim=1))
        return torch.stack(by_baseline, dim=1)

    def _cautions(self, model: AuditedModel, features: Features, incomplete: int) -> Iterator[str]:
        n = len(features.count)
        if incomplete:
            yield f"{incomplete} of {n} attributions do not add up to the score within 1 %"
        if model.output == "label":
            yield "the model gives labels only: its score is 1 while the label stays, else 0"
        if bare := int((features.count == 0).sum()):
            yield f"{bare} of {n} rows hold no {features.unit} that could leave: their gains are 0"

    def _curve_evidence(
        self, ctx: Context, scores: Tensor, share: Tensor, unit: str, model: AuditedModel
    ) -> EvidenceRef:
        """Mean curves over rows and replacements with their 95 % intervals."""
        import numpy as np

        from audit.stats import mean_and_se, t_interval

        what = "value" if model.task == "regression" else "probability of the explained class"
        writer = ctx.evidence(
            "curve", "curve", title="deletion and insertion", x_label=f"share of {unit}s removed or kept", y_label=what,
            x_scale="linear", y_scale="linear",
        )  # fmt: skip
        grid, means = _on_one_grid(scores.mean(dim=1), share, self.steps)
        number = 0
        for title, curve in zip(_CURVES, _drawn(means).numpy().transpose(1, 0, 2), strict=True):
            mean = curve.mean(axis=0)
            ends = np.array([t_interval(*mean_and_se(column)) for column in curve.T])
            ends = np.where(np.isfinite(ends), ends, mean[:, None])
            low, high = ends.T if model.task == "regression" else ends.clip(0, 1).T
            ids = [str(number + k) for k in range(len(grid))]
            writer.append(ids, x=grid, y=mean, low=low, high=high, series=[title] * len(grid))
            number += len(grid)
        return writer.ref


_CURVES = ("deletion, explained", "deletion, random", "insertion, explained", "insertion, random")


def _drawn(scores: Tensor) -> Tensor:
    """The four curves of `_CURVES` from scores ``(N, 4, K)``: insertion by an order is deletion by its reverse, read backwards."""
    import torch

    explained, least_first, random, random_least_first = scores.unbind(dim=1)
    return torch.stack([explained, random, least_first.flip(1), random_least_first.flip(1)], dim=1)


def _own_curves(scores: Tensor, share: Tensor) -> dict[str, Tensor]:
    """A row's own curves, means over replacements, from scores ``(N, 4, K)``: the share ``(N, K)`` removed at each point, the share kept
    at each point of insertion, and the scores there."""
    lines = {name.replace(", ", "_"): line for name, line in zip(_CURVES, _drawn(scores).unbind(dim=1), strict=True)}
    return {"removed": share, "kept": 1 - share.flip(1), **lines}


def _gains(scores: Tensor, share: Tensor) -> dict[str, Tensor]:
    """Gains ``(N, B)`` from scores ``(N, B, 4, K)`` at the shares ``(N, K)``.

    Insertion by an order is deletion by its reverse, read backwards: the area is the same. A gain within rounding of its areas is 0:
    where no order matters, a gate of "> 0" must not be met by the last bit.
    """
    import torch

    areas = torch.trapezoid(scores, share[:, None, None], dim=3)
    explained, least_first, random, random_least_first = areas.unbind(dim=2)
    rounding = 1e-12 * areas.abs().amax(dim=2)
    gains = {"deletion_gain": random - explained, "insertion_gain": least_first - random_least_first}
    return {metric: torch.where(gain.abs() > rounding, gain, 0.0) for metric, gain in gains.items()}


def _on_one_grid(curves: Tensor, share: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Curves ``(N, O, K)`` at the shares ``(N, K)`` of each row, as curves over the same shares for all.

    Rows with as many features share their points already; others are read off at `steps` even parts, straight between points.
    """
    import torch

    if len(share) and bool((share == share[:1]).all()):
        return share[0], curves
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    right = torch.searchsorted(share, grid.expand(len(share), -1).contiguous()).clamp(1, share.shape[1] - 1)
    before, after = share.gather(1, right - 1), share.gather(1, right)
    part = ((grid - before) / (after - before).clamp_min(1e-12)).clamp(0, 1)[:, None]
    left = (right - 1)[:, None].expand(-1, curves.shape[1], -1)
    return grid, curves.gather(2, left).lerp(curves.gather(2, left + 1), part)


def _replacement(
    baseline: Replacement, x: Tensor, background: Tensor, spec: InputSpec, ctx: Context, ids: tuple[str, ...]
) -> Tensor:
    from audit.explainers._baselines import baseline_rows

    if baseline == "rows":
        if spec.kind == "text":
            raise UserError(
                "baseline 'rows' does not suit a text, whose words stand elsewhere in every row: choose blank or unknown"
            )
        return background[ctx.rng(ids, "replacement rows").integers(len(background)).to(background.device)].to(x)
    return baseline_rows(baseline, x, background, spec)


def _incomplete(found: Attribution) -> int:
    from audit.explainers._completeness import TOLERANCE, completeness_gap, relative_gap

    if found.score is None or found.base_value is None:
        return 0
    gap = completeness_gap(found.values, found.score, found.base_value)
    return int((relative_gap(gap, found.score, found.base_value) > TOLERANCE).sum())


def _text(baseline: Replacement) -> str:
    return baseline if isinstance(baseline, str) else f"{baseline:g}"


def _measured(
    ctx: Context,
    metric: str,
    gain: Tensor,
    ids: tuple[str, ...],
    dims: dict[str, str],
    cautions: tuple[str, ...],
    shown: tuple[EvidenceRef, ...],
) -> Measurement:
    from audit.stats import mean_and_se

    value, se, n = mean_and_se(gain.numpy())
    outcomes = ctx.evidence("-".join([metric, *dims.values()]), "outcomes", title=metric)
    outcomes.append(ids, value=gain.numpy())
    return Measurement(
        metric=metric,
        estimate=Mean(value=value, se=se, n=n),
        dims=dims,
        evidence=(outcomes.ref, *shown),
        cautions=cautions,
    )
