"""Robust accuracy: how many inputs stay right under attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from audit.attacks import Attack
from audit.checks import Check
from audit.checks._standards import ADVERSARIAL_INPUTS
from audit.checks.robustness._attack_list import AttackSpec, built, capabilities, require_norm, strongest_access
from audit.checks.robustness._attacked import Outcome, Rows, run_attack
from audit.checks.robustness._controls import Controls
from audit.checks.robustness._inputs import declared_bounds, eps_for_snr
from audit.checks.robustness._victim import CLEAN_ACCURACY, QUERIES, Victim, require_one_answer, share
from audit.finding import EvidenceRef, Mean, Measurement, Metric, ThreatModel
from audit.model import Capability, Task
from audit.parameters import Real, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel


class Evasion(Check):
    """Robust accuracy: the share of test rows that stay correctly classified under the worst of several attacks.

    Every attack runs by itself on every row that the model gets right, and every example it proposes is asked about again before it
    counts: inside the bounds, within eps, within the attack's own constraints and the cap on queries, misclassified. The undivided
    numbers take the worst case per row over all attacks and controls; ``attack=NAME`` is one attack alone (the second of one name is
    ``NAME#2``). With `sequential`, and inside an ensemble such as ``autoattack``, an attack sees only what those before it left: its
    figure is ``after=NAME``, the cumulative one. Rows that the model gets wrong anyway are not attacked; they count against robust
    accuracy, not towards attack success.

    Void where a control shows that attacks could not see: the model answers differently when asked again (unless `eot` averages it);
    probabilities declared as logits; zero gradients on more than 10 % of the rows; random noise, a single step or a black-box attack
    beats what must be stronger; attacks fail when eps spans the whole input range. White-box controls apply where a white-box attack
    is listed. Attacks on words or table columns are bound by their own constraints instead of a norm; leave `eps` out for them.

    Source: Madry et al. 2018, arXiv:1706.06083; controls: Carlini et al. 2019, arXiv:1902.06705, and Croce & Hein 2020, arXiv:2003.01690.

    Blind spots: an upper bound on true robustness, as good as the attacks listed; nothing is said of other norms, of a larger eps, of
    changes that are no small perturbation (rotation, patches), or of attackers who adapt to a defence (give an attack or a loss of your
    own for that, by entry point).
    """

    controls: ClassVar = ADVERSARIAL_INPUTS
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="robust_accuracy", title="robust accuracy", better="higher", kinds=("proportion",)),
        CLEAN_ACCURACY,
        Metric(name="attack_success", title="attack success", better="lower", kinds=("proportion",)),
        QUERIES,
    )
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Train on adversarial examples of this norm and eps, and look at the stored examples and the classes that break first. "
        "Where the number is void, remove what hides the gradient instead."
    )

    attacks: tuple[AttackSpec, ...] = Field(("pgd",), min_length=1)
    """Attacks by name, each with its parameters where they differ from the defaults: ``[pgd, {pgd: {loss: margin}}, art.square_attack]``."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """How a perturbation is measured."""
    eps: Real | None = Field(None, gt=0)
    """Largest perturbation, in the norm and in the units that the user feeds."""
    snr_db: Real | None = None
    """For a series, instead of eps: smallest signal-to-noise ratio in dB, each row by its own loudness, to a tenth of a dB."""
    queries: int | None = Field(None, ge=1)
    """Cap on the adversary's queries per row: rows through the model, forward. An attack that needs more has not succeeded."""
    eot: int = Field(1, ge=1)
    """Answers of a randomised model that are averaged whenever it is asked, by the attacks and by the judging alike."""
    sequential: bool = False
    """Run each attack on what those before it left: the same worst case in less time, and cumulative figures per attack."""
    samples: int | None = Field(None, ge=1)
    """Attack at most this many test rows; which ones depends on the seed and the rows alone, and more samples contain the fewer. None: all."""
    keep: int = Field(64, ge=0)
    """Adversarial examples stored as evidence, with their labels, per attack."""

    @field_validator("attacks")
    @classmethod
    def _known(cls, attacks: tuple[AttackSpec, ...]) -> tuple[AttackSpec, ...]:
        built(attacks)
        return attacks

    @model_validator(mode="after")
    def _bound_fits(self) -> Evasion:
        attacks = built(self.attacks)
        require_one_answer(self.queries, self.eot)
        if not any(attack.norms for attack in attacks.values()):
            if self.eps is not None or self.snr_db is not None:
                raise UserError(
                    f"attack '{next(iter(attacks))}' is bound by its own constraints: leave eps and snr_db out"
                )
            return self
        if self.eps is None and self.snr_db is None:
            raise UserError("'eps' is missing: the largest perturbation, in the units of the input")
        if self.eps is not None and self.snr_db is not None:
            raise UserError("eps and snr_db bound the same thing: give one of them")
        if self.snr_db is not None and self.norm == "l1":
            raise UserError("snr_db bounds the perturbation's energy: use norm l2 or linf")
        require_norm(attacks, self.norm)
        return self

    def requirements(self) -> frozenset[Capability]:
        """What the attacks need, too."""
        return self.needs | capabilities(built(self.attacks))

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        import torch

        victim = Victim.of(model, data, self.samples, ctx, eot=self.eot)
        attacks = built(self.attacks)
        threat = self._threat(attacks, victim, data)
        x, right, correct, ids = victim.x, victim.right, victim.correct, victim.batch.ids
        yield victim.measured(ctx)

        attacks = victim.fitted(attacks, data, ctx)
        eps = eps_for_snr(x, self.snr_db, self.norm) if self.snr_db is not None else None
        # What an attack sees may hang on the model that it was fitted to.
        threat = threat.model_copy(update={"access": strongest_access(attacks)})
        rows = victim.rows(threat, ctx, eps).take(right)
        outcomes: dict[str, Outcome] = {}
        fooled = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
        for number, (name, attack) in enumerate(attacks.items()):
            mine = rows.within(access=attack.access, constraints=_joined(threat.constraints, attack.constraints()))
            mine = mine if attack.norms else mine.within(units=attack.counted)
            left = (~fooled).nonzero().flatten() if self.sequential else torch.arange(len(rows), device=x.device)
            progress = _progress(ctx, number, len(attacks), len(rows), name)
            outcome = run_attack(mine.take(left), name, attack, self.keep, progress).spread(left, len(rows))
            outcomes[name] = outcome
            fooled |= outcome.success
            key, counted = ("after", fooled) if self.sequential else ("attack", outcome.success)
            writer = ctx.evidence(f"outcomes-{name}", "outcomes")
            writer.append(ids, value=_robust(correct, right, counted).double())
            yield from _one_attack(mine, {key: name}, outcome, counted, correct, right, writer.ref)
            yield from _stages(mine, name, attack, outcome, correct, right)

        controls = Controls(rows, victim.scores[right], varied=victim.varied)
        fooled = controls.judge(outcomes, attacks)
        writer = ctx.evidence("outcomes", "outcomes")
        writer.append(ids, value=_robust(correct, right, fooled).double())
        bound = _joined(threat.constraints, *dict.fromkeys(attack.constraints() for attack in attacks.values()))
        yield from _worst_case(rows.within(constraints=bound), outcomes, controls, fooled, correct, right, writer.ref)

    def _threat(self, attacks: Mapping[str, Attack], victim: Victim, data: AuditData) -> ThreatModel:
        """What the adversary may do, after what must hold of the inputs for that to mean anything."""
        model = victim.model
        access = strongest_access(attacks)
        if self.eps is None and self.snr_db is None:
            counted = {attack.counted for attack in attacks.values()}
            units = counted.pop() if len(counted) == 1 else "elements or characters"
            return ThreatModel(access=access, bounds=model.spec.bounds, units=units, queries=self.queries)
        bounds = declared_bounds(model)
        victim.require_inside(bounds, data)
        eps, said = self.eps, ""
        if self.snr_db is not None:
            if model.spec.kind != "series":
                raise UserError(f"snr_db is for a series; model '{model.name}' takes {model.spec.a_kind}: give eps")
            eps = float(eps_for_snr(victim.x, self.snr_db, self.norm).max())
            said = f"signal-to-noise ratio of every row at least {self.snr_db:g} dB (eps is that of the loudest)"
        return ThreatModel(
            access=access,
            norm=self.norm,
            eps=eps,
            bounds=bounds,
            units=model.spec.units,
            queries=self.queries,
            constraints=said,
        )


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)


def _progress(ctx: Context, number: int, attacks: int, rows: int, name: str) -> Callable[[int], None]:
    return lambda done: ctx.progress(number * rows + done, attacks * rows, name)


def _one_attack(
    rows: Rows,
    dims: dict[str, str],
    outcome: Outcome,
    fooled: Tensor,
    correct: Tensor,
    right: Tensor,
    stored: EvidenceRef,
) -> Iterator[Measurement]:
    """The numbers of one attack: `fooled` by it alone, or by all up to it."""
    from audit.stats import mean_and_se

    (name,) = dims.values()
    shared: dict[str, Any] = {
        "dims": dims,
        "threat_model": rows.threat.model_copy(update={"realised": outcome.realised}),
        "cautions": _refusals({name: outcome}),
    }
    yield Measurement(
        metric="robust_accuracy",
        estimate=share(_robust(correct, right, fooled)),
        evidence=(stored, *outcome.examples),
        **shared,
    )
    if len(rows):
        yield Measurement(metric="attack_success", estimate=share(fooled), evidence=outcome.examples, **shared)
    if bool(outcome.attacked.any()):
        value, se, n = mean_and_se(outcome.queries[outcome.attacked].cpu().numpy())
        yield Measurement(metric="queries", estimate=Mean(value=value, se=se, n=n), **shared)


def _stages(
    rows: Rows, name: str, attack: Attack, outcome: Outcome, correct: Tensor, right: Tensor
) -> Iterator[Measurement]:
    """Robust accuracy after each stage of an ensemble."""
    if outcome.stage is None:
        return
    for number, stage in enumerate(attack.stages(len(rows.model.classes))):
        fooled = outcome.success & (outcome.stage >= 0) & (outcome.stage <= number)
        yield Measurement(
            metric="robust_accuracy",
            estimate=share(_robust(correct, right, fooled)),
            dims={"attack": name, "after": stage},
            threat_model=rows.threat,
        )


def _worst_case(
    rows: Rows,
    outcomes: Mapping[str, Outcome],
    controls: Controls,
    fooled: Tensor,
    correct: Tensor,
    right: Tensor,
    stored: EvidenceRef,
) -> Iterator[Measurement]:
    """The undivided numbers and those by class, with what the controls say of them all."""
    sizes = [outcome.realised for outcome in outcomes.values() if outcome.realised is not None]
    threat = rows.threat.model_copy(update={"realised": max(sizes, default=None)})
    examples = tuple(ref for outcome in outcomes.values() for ref in outcome.examples)
    cautions = (*_refusals(outcomes), *controls.cautions)
    if not len(rows):
        cautions = (*cautions, "no row is classified correctly: there was nothing to attack")
    why = "; ".join(controls.voids)
    yield Measurement(
        metric="robust_accuracy",
        estimate=share(_robust(correct, right, fooled)),
        threat_model=threat,
        evidence=(stored, *examples),
        voids={"robust_accuracy": why, "attack_success": why} if why else {},
        cautions=cautions,
    )
    if len(rows):
        yield Measurement(
            metric="attack_success",
            estimate=share(fooled),
            threat_model=threat,
            evidence=examples,
            cautions=cautions,
        )
    for index, name in enumerate(rows.model.classes):
        inside = rows.y == index
        if bool(inside.any()):
            yield Measurement(
                metric="attack_success",
                estimate=share(fooled[inside]),
                dims={"class": name},
                threat_model=threat,
                evidence=(stored, *examples),
            )


def _robust(correct: Tensor, right: Tensor, fooled: Tensor) -> Tensor:
    """Which of all rows stay right, ``(N,)`` bool; `fooled` speaks of the rows at `right`."""
    robust = correct.clone()
    robust[right[fooled]] = False
    return robust


def _refusals(outcomes: Mapping[str, Outcome]) -> tuple[str, ...]:
    said = []
    for name, outcome in outcomes.items():
        if k := int(outcome.refused.sum()):
            said.append(
                f"{name} proposed {k} misclassified inputs outside the bounds, beyond eps or against its constraints; they do not count"
            )
        if k := int(outcome.overran.sum()):
            said.append(
                f"{name} spent more queries than the threat model allows on {k} misclassified inputs; they do not count"
            )
    return tuple(said)
