"""Whether gradients show an attack the way, or hide it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from audit.attacks import Attack, build
from audit.checks import Check
from audit.checks._standards import ADVERSARIAL_INPUTS
from audit.checks.robustness._attack_list import AttackSpec, built, capabilities, require_norm
from audit.checks.robustness._attacked import Rows, run_attack
from audit.checks.robustness._controls import Controls, cheaply, noise, single_step
from audit.checks.robustness._inputs import declared_bounds
from audit.checks.robustness._victim import Victim
from audit.finding import Exact, Measurement, Metric, Proportion, ThreatModel
from audit.model import Capability, Task
from audit.parameters import Real, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel

MOVED = 0.01
"""Share of rows by which ten times the iterations may move robust accuracy (policy)."""


class GradientMasking(Check):
    """Controls on a white-box attack: each compares it, on the same rows, with something that must not do better.

    ``broken_controls`` counts what was found: the model answers differently when asked again; probabilities declared as logits; zero
    gradients; random noise, a single gradient step, a black-box attack (`queries` each row) or a transferred one fools more rows; a smaller eps
    fools more than a larger one; ten times the iterations find more; with eps as wide as the input range rows stay right. A
    comparison is broken where an exact paired McNemar test rejects at 1 %; short of that it is a caution. Where one is broken, the
    white-box robustness numbers of this model and norm in the same run are void. ``success`` is the share of attacked rows that each method fooled.

    Source: Carlini et al. 2019, arXiv:1902.06705; Athalye et al. 2018, arXiv:1802.00420; Croce & Hein 2020, arXiv:2003.01690 (`checks.py`).

    Blind spots: masking that these methods share: a model that neither gradients nor a few hundred queries get past, and an adaptive
    attack would. Passing does not make the number tight.
    """

    controls: ClassVar = ADVERSARIAL_INPUTS
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="broken_controls", title="broken controls", better="lower", kinds=("exact",)),
        Metric(name="controls", title="controls run", better="neither", kinds=("exact",)),
        Metric(name="success", title="rows fooled", better="neither", kinds=("proportion",)),
    )
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.LOGITS})
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Find what hides the gradient (rounding, saturation, noise, a second softmax) and attack around it: another loss, averaged answers "
        "(eot), a differentiable stand-in, black-box attacks. Until then claim no robustness."
    )

    attack: AttackSpec = "pgd"
    """The white-box attack under control."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """How a perturbation is measured."""
    eps: Real = Field(gt=0)
    """Largest perturbation, in the norm and in the units that the user feeds."""
    queries: int = Field(500, ge=1)
    """Queries per row of the black-box attack (Square)."""
    transfer: bool = True
    """Attack a surrogate trained on the model's own answers, too, where there are rows to train it on that are not attacked."""
    samples: int | None = Field(200, ge=1)
    """Attack at most this many test rows. None: all."""

    @field_validator("attack")
    @classmethod
    def _known(cls, attack: AttackSpec) -> AttackSpec:
        for name, found in built([attack]).items():
            if found.access != "white_box":
                raise UserError(f"attack '{name}' takes no gradients: there is nothing to be masked from it")
        return attack

    @model_validator(mode="after")
    def _norm_fits(self) -> GradientMasking:
        require_norm(built([self.attack]), self.norm)
        return self

    def requirements(self) -> frozenset[Capability]:
        """What the attack needs, too."""
        return self.needs | capabilities(built([self.attack]))

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        bounds = declared_bounds(model)
        victim = Victim.of(model, data, self.samples, ctx)
        victim.require_inside(bounds, data)
        threat = ThreatModel(access="white_box", norm=self.norm, eps=self.eps, bounds=bounds, units=model.spec.units)
        rows = victim.rows(threat, ctx).take(victim.right)
        if not len(rows):
            raise UserError(f"model '{model.name}' gets none of {len(victim.x)} rows right: there is nothing to attack")
        ((name, attack),) = victim.fitted(built([self.attack]), data, ctx).items()
        data = replace(data, test=victim.batch)
        trial = _Trial(rows, name, attack, Controls(rows, victim.scores[victim.right], victim.varied))
        steps: list[tuple[str, Any]] = [
            ("flags", trial.flags),
            ("noise", lambda: trial.method("random noise of the same norm", noise)),
            ("single step", lambda: trial.method("a single gradient step", single_step)),
            ("black box", lambda: trial.other({"square": {"queries": self.queries}}, data)),
            ("half the eps", lambda: trial.smaller(0.5)),
            ("a quarter of the eps", lambda: trial.smaller(0.25)),
            ("ten times the iterations", lambda: trial.longer(10)),
            ("full range", trial.full_range),
        ]
        if self.transfer and (data.train is not None or data.population is not None):
            steps.insert(4, ("transfer", lambda: trial.other("transfer", data)))
        yield Measurement(
            metric="success",
            estimate=Proportion(k=int(trial.fooled.sum()), n=len(rows)),
            dims={"method": name},
            threat_model=threat.model_copy(update={"realised": trial.realised}),
        )
        for done, (control, run) in enumerate(steps):
            ctx.progress(done, len(steps), control)
            fooled = run()
            if fooled is not None:
                yield Measurement(
                    metric="success",
                    estimate=Proportion(k=int(fooled.sum()), n=len(rows)),
                    dims={"method": control},
                    threat_model=threat.model_copy(update=trial.changes.get(control, {})),
                )
        controls = trial.controls
        why = "; ".join(controls.voids)
        spoken_of = (
            "robustness.evasion:robust_accuracy",
            "robustness.evasion:attack_success",
            "robustness.security_curve:*",
        )
        yield Measurement(metric="controls", estimate=Exact(value=len(steps), n=len(rows)), threat_model=threat)
        yield Measurement(
            metric="broken_controls",
            estimate=Exact(value=len(controls.voids), n=len(rows)),
            threat_model=threat,
            voids=dict.fromkeys(spoken_of, why) if why else {},
            cautions=(*controls.voids, *controls.cautions),
        )


class _Trial:
    """One white-box attack, and the methods it is compared with."""

    def __init__(self, rows: Rows, name: str, attack: Attack, controls: Controls) -> None:
        self.rows, self.name, self.attack, self.controls = rows, name, attack, controls
        outcome = run_attack(rows, name, attack, 0, lambda done: None)
        self.outcome, self.fooled, self.realised = outcome, outcome.success, outcome.realised
        self.rng = rows.rng("controls")
        self.changes: dict[str, dict[str, Any]] = {}

    def flags(self) -> None:
        self.controls.flags({self.name: self.outcome}, self.fooled)

    def method(self, name: str, method: Any) -> Tensor:
        success = cheaply(self.rows, self.rng, method, self.fooled)
        self.controls.not_weaker(name, success, self.fooled, self.name)
        return success

    def other(self, spec: AttackSpec, data: AuditData) -> Tensor | None:
        """An attack that knows less."""
        rows = self.rows
        name, attack = build(spec)
        if rows.threat.norm not in attack.norms:
            self.controls.cautions.append(f"{name} is not defined for {rows.threat.norm}: not compared with")
            return None
        attack = attack.fit(rows.model, data, rows.ctx)
        mine = rows.within(access=attack.access)
        success = run_attack(mine, name, attack, 0, lambda done: None).success
        self.changes["black box" if name == "square" else name] = {"access": attack.access}
        self.controls.not_weaker(name, success, self.fooled, self.name)
        return success

    def smaller(self, share: float) -> Tensor:
        """The same attack within a share of eps: whatever it finds there is within eps, too."""
        name = {0.5: "half the eps", 0.25: "a quarter of the eps"}[share]
        eps = share * (self.rows.threat.eps or 0.0)
        success = run_attack(self.rows.within(eps=eps), self.name, self.attack, 0, lambda done: None).success
        self.changes[name] = {"eps": eps}
        self.controls.not_weaker(f"{self.name} within {name}", success, self.fooled, f"{self.name} within all of it")
        return success

    def longer(self, times: int) -> Tensor | None:
        """The same attack with more iterations, on what it left."""
        import torch

        steps = getattr(self.attack, "steps", None)
        if not isinstance(steps, int):
            self.controls.cautions.append(f"{self.name} has no `steps`: not compared with more of them")
            return None
        success = self.fooled.clone()
        left = (~self.fooled).nonzero().flatten()
        if len(left):
            long = self.attack.model_copy(update={"steps": times * steps})
            success[left] = run_attack(self.rows.take(left), self.name, long, 0, lambda done: None).success
        more = int((success & ~self.fooled).sum())
        if more > MOVED * len(self.rows):
            self.controls.not_weaker(
                f"{self.name} with {times * steps} steps", success, self.fooled, f"{self.name} with {steps}"
            )
        elif more:
            self.controls.cautions.append(
                f"{times * steps} steps instead of {steps} fooled {more} more of {len(self.rows)} rows (under 1 point)"
            )
        return torch.as_tensor(success)

    def full_range(self) -> None:
        self.controls.full_range([self.attack], self.rng)
