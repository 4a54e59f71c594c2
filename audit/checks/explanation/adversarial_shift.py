"""What becomes of the map when an attack changes the answer, and does the attack act where the map says that the model looks?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from audit.checks import Check
from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._explaining import (
    AttributionEvidence,
    Subject,
    build_explainer,
    choose,
    explain,
    explain_changed,
)
from audit.checks.explanation._per_row import row_mean
from audit.checks.robustness._attack_list import AttackSpec, built, capabilities, require_norm
from audit.finding import EvidenceRef, Measurement, Metric, Proportion, ThreatModel
from audit.model import Capability, Task
from audit.parameters import NotApplicable, Real, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.attacks import Attack
    from audit.checks.robustness._victim import Victim
    from audit.context import Context
    from audit.data import AuditData
    from audit.explainers import Attribution, Explainer
    from audit.explainers._features import Features
    from audit.model import AuditedModel

SAME_CLASS = ("rank_correlation", "top_k_intersection")
UNDER_NOISE = ("correlation_under_noise", "top_k_under_noise")


class AdversarialShift(Check):
    """The map of a row beside the maps of its adversarial example: for the class that it had, and for the one that it is taken for.

    An attack changes the answer of rows that the model gets right; each example is asked about again before it counts. Every number
    is a mean over the rows that the attack broke: read ``attack_success`` beside it, and where none broke there is no number.

    The class that the row had, explained before and after: ``rank_correlation`` is Spearman's, over all features by size,
    ``top_k_intersection`` the share of the first `top` features that still are (by chance: `top`). The same under random noise of each
    perturbation's own size that keeps the answer tells how much of it needs an attack.
    ``own_answer_correlation``: Spearman's with signs, between what speaks for the old answer before and for the new one after. Near 1
    the reader sees one map under two answers; where two classes share all evidence, as in a linear model of two, it is −1.
    ``damage_by_top``: the perturbation laid on the map's first features alone, as a share of what the whole of it takes from the lead
    of the old answer over the new; ``damage_by_top_gain``: above the same number of features drawn at random. Above 0 the attack acts
    where the map says that the model looks; below, the map leads away from it. Unlike the size of the perturbation there, this
    also means something in linf, where an attack moves everything by eps.

    For every explainer, on images, series and tables; sampled ones are given the same random numbers before and after.

    Source: Ghorbani et al. 2019, arXiv:1710.10547 (rank correlation, top-k intersection; there of answers that stay); Yang et al. 2020,
    arXiv:1906.03499 (maps of adversarial examples differ from those of originals enough to tell them apart); Xu et al. 2019,
    arXiv:1904.02057 (perturbations and the regions that a class activation map names); Etmann et al. 2019, arXiv:1905.04172 (robustness
    and maps: strict in linear models, weakened by what is not linear in a network).
    Blind spots: rows that withstand the attack are not in it, and a stronger attack brings in others; an attacker who aims at both can
    turn the answer and leave the map (Zhang et al. 2020, arXiv:1812.00891); a true map has to move where the model bends sharply;
    features that only do harm together are in nobody's share.
    """

    controls: ClassVar = (*TRANSPARENCY, "NIST AI RMF MEASURE 2.7", "MITRE ATLAS AML.T0043")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="attack_success", title="attack success", better="lower", kinds=("proportion",)),
        Metric(name="rank_correlation", title="rank correlation of the class's map", better="higher", kinds=("mean",)),
        Metric(name="top_k_intersection", title="first features of the class kept", better="higher", kinds=("mean",)),
        Metric(name="correlation_under_noise", title="rank correlation under noise", better="higher", kinds=("mean",)),
        Metric(name="top_k_under_noise", title="first features kept under noise", better="higher", kinds=("mean",)),
        Metric(
            name="own_answer_correlation", title="correlation of the two answers' maps", better="neither",
            kinds=("mean",),
        ),
        Metric(
            name="damage_by_top", title="damage through the map's first features", better="higher", kinds=("mean",)
        ),
        Metric(
            name="damage_by_top_gain", title="damage through the map's first features above random ones'",
            better="higher", kinds=("mean",),
        ),
    )  # fmt: skip
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})
    remedy: ClassVar[str] = (
        "Where the attack acts elsewhere than the map says, do not judge attacks by this map: take the explainer whose first features "
        "carry the damage. Where the class's map moves further than under noise, train on adversarial examples before offering maps as reasons."
    )

    explainer: str | dict[str, Any] = "integrated_gradients"
    """The explainer: a name, or ``{name: {parameter: value}}``."""
    attack: AttackSpec = "pgd"
    """The attack: a name, or ``{name: {parameter: value}}``."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """How a perturbation is measured."""
    eps: Real | None = Field(None, gt=0)
    """Largest perturbation, in the norm and in the units that the user feeds; none for an attack bound by its own constraints."""
    samples: int = Field(default=64, ge=1)
    """Test rows taken, of which those answered right are attacked; every check takes the same."""
    top: Real = Field(default=0.1, gt=0, lt=1)
    """Share of the features that count as first, at least one."""
    noise_draws: int = Field(default=3, ge=1)
    """Random perturbations of each row that the attack is compared with."""
    random_sets: int = Field(default=10, ge=1)
    """Random choices of as many features that the map's first ones are compared with."""
    background: int = Field(default=100, ge=1)
    """Background rows: of the population, else the members, else the test rows."""
    keep: int = Field(default=16, ge=0)
    """Broken rows stored as evidence, each with its three maps."""

    @field_validator("explainer")
    @classmethod
    def _explainer_known(cls, explainer: str | dict[str, Any]) -> str | dict[str, Any]:
        build_explainer(explainer)
        return explainer

    @field_validator("attack")
    @classmethod
    def _attack_known(cls, attack: AttackSpec) -> AttackSpec:
        built([attack])
        return attack

    @model_validator(mode="after")
    def _bound_fits(self) -> AdversarialShift:
        ((name, attack),) = built([self.attack]).items()
        if not attack.norms:
            if self.eps is not None:
                raise UserError(f"attack '{name}' is bound by its own constraints: leave eps out")
            return self
        if self.eps is None:
            raise UserError("'eps' is missing: the largest perturbation, in the units of the input")
        require_norm({name: attack}, self.norm)
        return self

    def requirements(self) -> frozenset[Capability]:
        """What the attack and the explainer need, too."""
        return self.needs | capabilities(built([self.attack])) | build_explainer(self.explainer)[1].needs

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            NotApplicable: the input is a text, or the attack broke no row.
            UserError: the bounds are not declared, rows lie outside, or none is answered right.
        """
        if model.spec.kind in ("text", "tokens", "id"):
            raise NotApplicable(
                f"maps before and after are compared place by place, and the places of {model.spec.a_kind} move under attack"
            )
        name, explainer = build_explainer(self.explainer)
        subject = choose(model, data, ctx, samples=self.samples, background=self.background, target="prediction")
        broken, share, threat = self._attacked(model, data, subject, ctx)
        yield Measurement(metric="attack_success", estimate=share, threat_model=threat)
        if not len(broken):
            raise NotApplicable(
                f"the attack changed the answer of none of {share.n} rows: there is no shift of maps to measure; "
                f"{'name a stronger attack' if self.eps is None else 'raise eps or name a stronger attack'}"
            )
        subjects = broken.before, broken.after, broken.same_class
        shown = tuple(
            AttributionEvidence(ctx, model, one, name, explainer, self.keep, file)
            for one, file in zip(subjects, ("before", "after", "after-same-class"), strict=True)
        )
        parts: list[dict[str, Tensor]] = []
        for together in zip(*(explain(explainer, model, one, ctx) for one in subjects), strict=True):
            rows, maps = together[0][0], tuple(found for _, found in together)
            compared = _Compared(self, explainer, model, broken.take(rows), maps, ctx)
            parts.append(compared.numbers())
            for evidence, found, names in zip(shown, maps, self._beside(), strict=True):
                evidence.add(rows, found, None, **{metric: parts[-1][metric] for metric in names})
            ctx.progress(rows.stop, len(broken), "adversarial examples explained")
        refs = tuple(ref for evidence in shown for ref in evidence.refs)
        yield from _measurements(ctx, broken.before, _joined(parts), threat, refs)

    def _beside(self) -> tuple[tuple[str, ...], ...]:
        """Numbers shown beside each map: the original's, the example's for its own class, and for the class that it had."""
        of_noise = () if self.eps is None else UNDER_NOISE
        return ("damage_by_top", "damage_by_top_gain"), ("own_answer_correlation",), (*SAME_CLASS, *of_noise)

    def _attacked(
        self, model: AuditedModel, data: AuditData, subject: Subject, ctx: Context
    ) -> tuple[_Broken, Proportion, ThreatModel]:
        """The rows that the attack broke, how many of those attacked that is, and what the adversary was allowed."""
        from audit.checks.robustness._attacked import run_attack
        from audit.checks.robustness._victim import Victim, share

        victim = Victim.of(model, data, self.samples, ctx)
        if not len(victim.right):
            raise UserError(f"model '{model.name}' gets none of {len(victim.x)} rows right: there is nothing to attack")
        given = built([self.attack])
        threat = self._threat(next(iter(given.values())), victim, data)
        ((name, attack),) = victim.fitted(given, data, ctx).items()
        rows = victim.rows(threat, ctx).take(victim.right).within(access=attack.access)
        candidates = rows.x.clone()

        def proposed(at: Tensor, x: Tensor) -> None:
            candidates[at] = x

        outcome = run_attack(
            rows, name, attack, 0, lambda done: ctx.progress(done, len(rows), f"rows attacked by {name}"), proposed
        )
        fooled = outcome.success.nonzero().flatten()
        threat = rows.threat.model_copy(update={"realised": outcome.realised})
        places = victim.right[fooled].cpu()
        broken = _Broken.of(model, subject, places, candidates[fooled], outcome.size[fooled])
        return broken, share(outcome.success), threat

    def _threat(self, attack: Attack, victim: Victim, data: AuditData) -> ThreatModel:
        from audit.checks.robustness._inputs import declared_bounds

        model, said = victim.model, attack.constraints()
        if not attack.norms:
            return ThreatModel(access=attack.access, bounds=model.spec.bounds, units=attack.counted, constraints=said)
        bounds = declared_bounds(model)
        victim.require_inside(bounds, data)
        return ThreatModel(
            access=attack.access, norm=self.norm, eps=self.eps, bounds=bounds, units=model.spec.units, constraints=said
        )


@dataclass(frozen=True)
class _Broken:
    """Rows whose answer an attack changed.

    Args:
        before: the rows, explained for their class.
        after: their adversarial examples, explained for the class that they are taken for.
        same_class: the examples, explained for the class that the rows had.
        size: ``(N,)`` float64 of each perturbation.
    """

    before: Subject
    after: Subject
    same_class: Subject
    size: Tensor

    @classmethod
    def of(cls, model: AuditedModel, subject: Subject, rows: Tensor, x: Tensor, size: Tensor) -> _Broken:
        """The subject's rows at integer positions, and what an attack made of them."""
        before = _taken(subject, rows)
        scores = model.scores(x)
        taken_for = model.labels_of(scores) if len(x) else before.prediction
        sure = model.confidence_of(scores) if len(x) else None
        same_class = replace(before, x=x, prediction=taken_for, confidence=sure)
        return cls(before, replace(same_class, target=taken_for), same_class, size)

    def __len__(self) -> int:
        return len(self.before.batch)

    def take(self, rows: slice) -> _Broken:
        """Some of them."""
        import torch

        index = torch.arange(len(self))[rows]
        before, after, same_class = (_taken(one, index) for one in (self.before, self.after, self.same_class))
        return _Broken(before, after, same_class, self.size[rows])


def _taken(subject: Subject, rows: Tensor) -> Subject:
    at = rows.to(subject.x.device)
    return replace(
        subject,
        batch=subject.batch.take(rows.numpy()),
        x=subject.x[at],
        prediction=subject.prediction[at],
        target=subject.target[at],
        confidence=None if subject.confidence is None else subject.confidence[at],
    )


class _Compared:
    """The numbers of some broken rows.

    Args:
        broken: the rows.
        maps: the original's, the example's for its own class, and for the class that it had.
    """

    def __init__(
        self,
        check: AdversarialShift,
        explainer: Explainer,
        model: AuditedModel,
        broken: _Broken,
        maps: tuple[Attribution, ...],
        ctx: Context,
    ) -> None:
        from audit.checks.explanation._maps import common_features

        self.check, self.explainer, self.model, self.broken, self.ctx = check, explainer, model, broken, ctx
        self.features: Features = common_features(broken.before.x, model.spec, *maps)
        if self.features.most < 2:
            raise NotApplicable(f"model '{model.name}' takes one feature alone: there is nothing to rank")
        self.before, self.after, self.same = (self.features.total(found.values) for found in maps)
        self.known, count = self.features.known(), self.features.count
        self.k = (check.top * count).round().long().clamp_min(1).minimum((count - 1).clamp_min(1))

    def numbers(self) -> dict[str, Tensor]:
        """``(N,)`` float64 of every metric; those under noise are NaN where it changes the answer in every draw."""
        from audit.checks.explanation._correlation import rank_correlation

        everything = slice(None)
        found = dict(zip(SAME_CLASS, self._alike(self.same, everything), strict=True))
        found |= dict(zip(UNDER_NOISE, self._under_noise(), strict=True))
        found["own_answer_correlation"] = rank_correlation(self.before, self.after, self.known)
        damage, by_chance = self._damage()
        return found | {"damage_by_top": damage, "damage_by_top_gain": damage - by_chance}

    def _alike(self, values: Tensor, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Rank correlation and top-k intersection of maps with those of the originals at some rows, by size."""
        from audit.checks.explanation._correlation import rank_correlation, top_overlap

        first, second, known = self.before[rows].abs(), values.abs(), self.known[rows]
        return rank_correlation(first, second, known), top_overlap(first, second, known, self.k[rows])

    def _under_noise(self) -> tuple[Tensor, Tensor]:
        """The same with the maps of rows that noise of the perturbation's size leaves answered alike, means over draws."""
        import torch

        from audit.attacks._ball import Ball
        from audit.checks.explanation._map_attack import corners

        before, check = self.broken.before, self.check
        drawn = self.before.new_full((check.noise_draws, 2, len(before.x)), torch.nan)
        if check.eps is not None:
            ball = Ball.around(before.x, check.norm, check.eps, self.model.spec.bounds)
            ball = replace(ball, eps=self.broken.size.to(before.x).reshape(ball.eps.shape))
            for draw in range(check.noise_draws):
                x = corners(ball, self.ctx.rng(before.batch.ids, f"noise {draw}"))
                same = (self.model.predict(x) == before.prediction).nonzero().flatten()
                if len(same):
                    found = explain_changed(self.explainer, self.model, before, same, x[same], self.ctx)
                    alike = self._alike(self.features[same].total(found.values), same)
                    drawn[draw][:, same] = torch.stack(alike)
        correlation, kept = drawn.nanmean(dim=0)
        return correlation, kept

    def _damage(self) -> tuple[Tensor, Tensor]:
        """What the perturbation does on the map's first features alone, and on as many random ones."""
        import torch

        from audit.checks.explanation._attack_damage import at_random, damage_share, first_of

        before, after = self.broken.before, self.broken.after
        answers = before.prediction, after.prediction

        def share(chosen: Tensor) -> Tensor:
            return damage_share(self.model, before.x, after.x, self.features, chosen, answers)

        rng = self.ctx.rng(before.batch.ids, "random features")
        by_chance = [share(chosen) for chosen in at_random(self.known, self.k, self.check.random_sets, rng)]
        return share(first_of(self.before.abs(), self.known, self.k)), torch.stack(by_chance).mean(dim=0)


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Chunks one after the other."""
    import torch

    return {metric: torch.cat([part[metric].cpu() for part in parts]) for metric in parts[0]}


def _measurements(
    ctx: Context, subject: Subject, found: dict[str, Tensor], threat: ThreatModel, refs: tuple[EvidenceRef, ...]
) -> Iterator[Measurement]:
    known = ~found[UNDER_NOISE[0]].isnan()
    cautions = (*subject.cautions, *_of_noise(found, known, threat))
    for metric, values in found.items():
        rows = known if metric in UNDER_NOISE else known.new_ones(len(known))
        if bool(rows.any()):
            ids = [row for row, kept in zip(subject.batch.ids, rows.tolist(), strict=True) if kept]
            measured = row_mean(ctx, metric, values[rows], ids, cautions=cautions, shown=refs)
            yield measured.model_copy(update={"threat_model": threat})


def _of_noise(found: dict[str, Tensor], known: Tensor, threat: ThreatModel) -> Iterator[str]:
    """What noise of the same size says about the numbers."""
    if threat.norm is not None and not bool(known.all()):
        yield f"noise of the attack's size changes the answer of {int((~known).sum())} of {len(known)} rows in every draw"
    if bool(known.any()) and found["rank_correlation"][known].mean() >= found[UNDER_NOISE[0]][known].mean():
        yield "random noise of the same size moves the class's map as far as the attack does"
