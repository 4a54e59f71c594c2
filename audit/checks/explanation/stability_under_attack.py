"""How far can a small perturbation that keeps the answer move the map?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._explaining import AttributionEvidence, ExplanationCheck, build_explainer, explain
from audit.explainers import Attribution
from audit.finding import EvidenceRef, Mean, Measurement, Metric, Proportion, ThreatModel
from audit.model import Capability
from audit.parameters import NotApplicable, Real
from audit.rng import ExampleRng

if TYPE_CHECKING:
    from torch import Tensor

    from audit.attacks._ball import Ball
    from audit.checks.explanation._explaining import Subject
    from audit.checks.explanation._map_attack import Answers, MapKind
    from audit.context import Context
    from audit.data import AuditData
    from audit.explainers import Explainer
    from audit.model import AuditedModel, OutputSpace


class StabilityUnderAttack(ExplanationCheck):
    """The map of a row beside the map of a neighbour that is answered alike and looks alike.

    For each row a perturbation within eps is sought that leaves the predicted class (the value of a regression, within `tolerance`)
    and takes the map's weight off the features that came first. A differentiable model is attacked by the gradient of its map, with
    softplus in place of ReLU, which has no second derivative; every candidate is then judged on the model as it is, by the explainer
    itself. Any other is searched at random.

    ``top_k_intersection``: share of the first `top` features that are still among them, in the worst case found;
    ``rank_correlation``: Spearman's, over all features by size; ``top_changed``: rows whose first feature is another. The same under
    random noise of length eps tells how much of it needs an attacker: noise draws that change the answer do not count.

    Suits every explainer on images, series and numbers with bounds; sampled ones are given the same random numbers before and after.
    A low value means that a map is a statement about one point: two inputs that a reader cannot tell apart have different "reasons",
    and whoever supplies the input can choose among them.

    Source: Ghorbani et al. 2019, arXiv:1710.10547 (top-k attack); Dombrowski et al. 2019, arXiv:1906.07983 (softplus).
    Blind spots: an attack gives an upper bound on stability, a better one may find more; a map that never changes is stable and
    worthless (see explanation.randomisation); where the model itself is nearly discontinuous, a true map has to change.
    """

    controls: ClassVar = (*TRANSPARENCY, "NIST AI RMF MEASURE 2.7", "OWASP ML09:2023")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="top_k_intersection",
            title="first features kept under attack",
            better="higher",
            kinds=("mean",),
        ),
        Metric(name="rank_correlation", title="rank correlation under attack", better="higher", kinds=("mean",)),
        Metric(name="top_changed", title="rows whose first feature changes", better="lower", kinds=("proportion",)),
        Metric(name="top_k_under_noise", title="first features kept under noise", better="higher", kinds=("mean",)),
        Metric(name="correlation_under_noise", title="rank correlation under noise", better="higher", kinds=("mean",)),
    )
    remedy: ClassVar[str] = (
        "Do not offer single maps as reasons to someone who supplies the input. Average the map over a neighbourhood (smoothgrad), or "
        "train with smooth activations, weight decay or a penalty on the Hessian."
    )

    eps: Real = Field(gt=0)
    """Largest perturbation, in the units that the user feeds."""
    norm: Literal["linf", "l2"] = "linf"
    """What it is measured in."""
    samples: int = Field(default=64, ge=2)
    """Test rows attacked; every check of explanations takes the same."""
    top: Real = Field(default=0.1, gt=0, le=1)
    """Share of the features that count as first, at least one."""
    method: Literal["auto", "gradient", "search"] = "auto"
    """auto: by gradient where the model has one, and by search where that moves nothing."""
    steps: int = Field(default=30, ge=1)
    """Steps by gradient."""
    restarts: int = Field(default=2, ge=1)
    """Starting points by gradient: the row itself, then random ones."""
    rounds: int = Field(default=40, ge=1)
    """Maps computed for each row by search."""
    noise_draws: int = Field(default=5, ge=1)
    """Random perturbations of each row that the attack is compared with."""
    tolerance: Real = Field(default=0.05, ge=0)
    """Of a regression: how far the value may move, in standard deviations of the predictions."""

    def requirements(self) -> frozenset[Capability]:
        """What the explainer needs; gradients where the attack must take them."""
        return super().requirements() | ({Capability.GRADIENTS} if self.method == "gradient" else frozenset())

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            NotApplicable: the input is not made of numbers.
            UserError: the bounds are not declared, or rows lie outside.
        """
        from audit.checks.explanation._map_attack import Answers
        from audit.checks.robustness._inputs import declared_bounds, require_inside

        if model.spec.kind in ("text", "tokens", "id"):
            raise NotApplicable(
                f"a perturbation within eps needs numbers, the input of model '{model.name}' is {model.spec.a_kind}"
            )
        name, explainer = build_explainer(self.explainer)
        subject = self.subject(model, data, ctx)
        bounds = declared_bounds(model)
        require_inside(subject.x, bounds, model, data)
        spread = float(subject.prediction.double().std(correction=0)) if model.task == "regression" else 0.0
        answers = Answers(model, subject.prediction, self.tolerance * spread)
        scene = _Scene(self, explainer, model, subject, answers, bounds, ctx)
        before = AttributionEvidence(ctx, model, subject, name, explainer, self.keep, "before")
        parts: list[tuple[slice, _Worst]] = []
        for rows, found in explain(explainer, model, subject, ctx):
            worst = scene.attack(rows, found)
            before.add(rows, found, None, **worst.quality())
            parts.append((rows, worst))
            ctx.progress(rows.stop, len(subject.batch), "maps attacked")
        whole = _Worst.joined([worst for _, worst in parts])
        sure = model.confidence_of(model.scores(whole.x[: self.keep])) if self.keep else None
        moved = replace(subject, x=whole.x, confidence=sure)
        after = AttributionEvidence(ctx, model, moved, name, explainer, self.keep, "after")
        for rows, worst in parts:
            found = Attribution(worst.values, subject.target[rows], worst.space, method="under attack")
            after.add(rows, found, None, **worst.quality())
        threat = ThreatModel(
            access="white_box" if scene.by_gradient else "black_box_scores",
            norm=self.norm,
            eps=self.eps,
            bounds=bounds,
            units=model.spec.units,
            realised=float(whole.size.max()),
            constraints="the answer stays",
        )
        yield from _measurements(ctx, subject, whole, threat, (*before.refs, *after.refs))


@dataclass(frozen=True)
class _Worst:
    """The most different map found of each row.

    Args:
        x: ``(N, *shape)`` where it was found; the row itself where nothing was.
        values: ``(N, *shape)`` the map there.
        intersection, correlation: ``(N,)`` float64 with the clean map.
        changed: ``(N,)`` bool: another feature comes first.
        size: ``(N,)`` float64 of the perturbation.
        noise_intersection, noise_correlation: ``(N,)`` means over noise draws that keep the answer; NaN where none does.
    """

    x: Tensor
    values: Tensor
    space: OutputSpace
    intersection: Tensor
    correlation: Tensor
    changed: Tensor
    size: Tensor
    noise_intersection: Tensor
    noise_correlation: Tensor

    def quality(self) -> dict[str, Tensor]:
        """What is shown beside a map."""
        return {"top_k_intersection": self.intersection, "rank_correlation": self.correlation}

    @classmethod
    def joined(cls, parts: list[_Worst]) -> _Worst:
        """Chunks one after the other."""
        import torch

        tensors = {
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name != "space"
        }
        return cls(space=parts[0].space, **tensors)


class _Scene:
    """What an attack on some rows needs to know; remembers whether gradients moved anything."""

    def __init__(
        self,
        check: StabilityUnderAttack,
        explainer: Explainer,
        model: AuditedModel,
        subject: Subject,
        answers: Answers,
        bounds: tuple[float, float],
        ctx: Context,
    ) -> None:
        self.check, self.explainer, self.model, self.subject = check, explainer, model, subject
        self.answers, self.bounds, self.ctx = answers, bounds, ctx
        self.by_gradient = False
        self._pixels = model.spec.kind == "image" and len(model.spec.shape) == 3

    def attack(self, rows: slice, found: Attribution) -> _Worst:
        """The worst of all candidates for some rows, and what noise of the same length does."""
        import torch

        from audit.attacks._ball import Ball
        from audit.checks.explanation._map_attack import corners, first_features

        check, x, ids = self.check, self.subject.x[rows], self.subject.batch.ids[rows]
        clean = found.values.detach().to(x.device, torch.float64)
        ball = Ball.around(x, check.norm, check.eps, self.bounds)
        first = first_features(self._sizes(clean), check.top)
        worst = self._judged(x, rows, clean)
        for candidates in self._candidates(rows, ball, first):
            worst = _worse(worst, self._judged(candidates, rows, clean))
        draws = []
        for draw in range(check.noise_draws):
            noisy = self._judged(corners(ball, self.ctx.rng(ids, f"noise {draw}")), rows, clean)
            moved = noisy.size > 0  # it has not been taken back for changing the answer
            draws.append([part.masked_fill(~moved, torch.nan) for part in (noisy.intersection, noisy.correlation)])
        intersection, correlation = (torch.stack(part).nanmean(dim=0) for part in zip(*draws, strict=True))
        return replace(worst, space=found.space, noise_intersection=intersection, noise_correlation=correlation)

    def _candidates(self, rows: slice, ball: Ball, first: Tensor) -> Iterator[Tensor]:
        from audit.checks.explanation._map_attack import by_gradient, by_search
        from audit.explainers._baselines import baseline_rows, default_baseline

        check, model, subject = self.check, self.model, self.subject
        answers, ids = self.answers.take(rows), subject.batch.ids[rows]
        if check.method != "search" and Capability.GRADIENTS in model.capabilities:
            kind, moved = _kind(self.explainer), False
            baseline = (
                baseline_rows(default_baseline(model.spec), ball.center, subject.background, model.spec)
                if kind == "path"
                else ball.center
            )
            for restart in range(check.restarts):
                start = ball.start(self.ctx.rng(ids, f"restart {restart}")) if restart else ball.center
                found = by_gradient(answers, ball, start, subject.target[rows], first, kind, baseline, check.steps)
                moved |= bool((found != ball.center).any())
                yield found
            self.by_gradient |= moved
            if moved or check.method == "gradient":
                return
        yield by_search(
            answers,
            ball,
            first,
            lambda x: self._sizes(self._values(x, rows)),
            check.rounds,
            self.ctx.rng(ids, "search"),
        )

    def _values(self, x: Tensor, rows: slice) -> Tensor:
        """The explainer's own map at other points, with the random numbers it had for the clean rows."""
        import torch

        streams = ExampleRng(self.ctx.seed, "", self.subject.batch.ids[rows], "explainer 0")
        found = self.explainer.run(self.model, x, self.subject.target[rows], self.subject.background, streams)
        if not bool(torch.isfinite(found.values).all()):
            raise ArithmeticError(f"{type(self.explainer).__name__} gave NaN or infinite values under attack")
        return found.values.detach().to(x.device, torch.float64)

    def _sizes(self, values: Tensor) -> Tensor:
        from audit.checks.explanation._map_attack import sizes

        return sizes(values, self._pixels)

    def _judged(self, x: Tensor, rows: slice, clean: Tensor) -> _Worst:
        """Points as the model and the explainer see them; one that breaks a rule counts as the row itself."""
        import torch

        from audit.attacks import perturbation_size
        from audit.checks.explanation._correlation import rank_correlation
        from audit.checks.explanation._map_attack import count_of
        from audit.checks.explanation._ranks import top_intersection

        center, (low, high) = self.subject.x[rows], self.bounds
        size = perturbation_size(x.double() - center.double(), self.check.norm)
        rounding = torch.finfo(x.dtype).eps * max(abs(low), abs(high)) * center[0].numel() ** 0.5
        kept = (size <= self.check.eps + rounding) & ((x >= low) & (x <= high)).flatten(1).all(dim=1)
        kept &= self.answers.take(rows).same(x)
        x = torch.where(kept.reshape(-1, *[1] * (x.dim() - 1)), x, center)
        moved = (x != center).flatten(1).any(dim=1)
        values = clean.clone()
        if bool(moved.any()):
            values[moved] = self._values(x, rows)[moved]
        before, after = self._sizes(clean), self._sizes(values)
        nan = torch.full((len(x),), torch.nan, dtype=torch.float64)
        return _Worst(
            x=x,
            values=values,
            space=self.model.output,
            intersection=top_intersection(before, after, count_of(before.shape[1], self.check.top)).cpu(),
            correlation=rank_correlation(before, after, torch.ones_like(before, dtype=torch.bool)).cpu(),
            changed=(before.argmax(dim=1) != after.argmax(dim=1)).cpu(),
            size=size.masked_fill(~kept, 0.0).cpu(),
            noise_intersection=nan,
            noise_correlation=nan,
        )


def _kind(explainer: Explainer) -> MapKind:
    """The differentiable map that comes nearest to an explainer's: its gradient is where to push, the explainer itself judges."""
    if explainer.complete:
        return "path"
    return (
        "times_input" if getattr(explainer, "times_input", type(explainer).__name__ == "InputXGradient") else "gradient"
    )


def _worse(one: _Worst, other: _Worst) -> _Worst:
    """Row by row the one with fewer first features kept; of equals the one with the lower correlation."""
    import torch

    tied = (other.intersection == one.intersection) & (other.correlation < one.correlation)
    taken = (other.intersection < one.intersection) | tied

    def chosen(first: Tensor, second: Tensor) -> Tensor:
        return torch.where(taken.to(first.device).reshape(-1, *[1] * (first.dim() - 1)), second, first)

    return replace(
        one,
        x=chosen(one.x, other.x),
        values=chosen(one.values, other.values),
        intersection=chosen(one.intersection, other.intersection),
        correlation=chosen(one.correlation, other.correlation),
        changed=chosen(one.changed, other.changed),
        size=chosen(one.size, other.size),
    )


def _measurements(
    ctx: Context, subject: Subject, worst: _Worst, threat: ThreatModel, shown: tuple[EvidenceRef, ...]
) -> Iterator[Measurement]:
    known = ~worst.noise_intersection.isnan()
    cautions = [*subject.cautions]
    if not bool(known.all()):
        cautions.append(
            f"noise of length eps changes the answer of {int((~known).sum())} of {len(known)} rows in every draw"
        )
    if bool(known.any()) and worst.intersection[known].mean() > worst.noise_intersection[known].mean():
        cautions.append(
            "random noise moves the maps further than the attack does: the attack is too weak to tell how far they can go"
        )
    said = tuple(cautions)
    for metric, values in (("top_k_intersection", worst.intersection), ("rank_correlation", worst.correlation)):
        outcomes = ctx.evidence(metric, "outcomes", title=metric.replace("_", " "))
        outcomes.append(subject.batch.ids, value=values)
        yield Measurement(
            metric=metric,
            estimate=_mean(values),
            threat_model=threat,
            evidence=(outcomes.ref, *shown),
            cautions=said,
        )
    yield Measurement(
        metric="top_changed",
        estimate=Proportion(k=int(worst.changed.sum()), n=len(worst.changed)),
        threat_model=threat,
        evidence=shown,
        cautions=said,
    )
    if bool(known.any()):
        noise = {"top_k_under_noise": worst.noise_intersection, "correlation_under_noise": worst.noise_correlation}
        for metric, values in noise.items():
            yield Measurement(metric=metric, estimate=_mean(values[known]), cautions=said)


def _mean(values: Tensor) -> Mean:
    from audit.stats import mean_and_se

    value, se, n = mean_and_se(values.cpu().numpy())
    return Mean(value=value, se=se, n=n)
