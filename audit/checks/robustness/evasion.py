"""Robust accuracy: how many inputs stay right under attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from audit.attacks import Attack, build
from audit.checks import Check
from audit.checks.robustness._attacked import Outcome, Rows, run_attack
from audit.checks.robustness._controls import Controls
from audit.finding import Access, EvidenceRef, Mean, Measurement, Metric, Proportion, ThreatModel
from audit.model import Capability, Task
from audit.parameters import Real, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel

_STRONGEST: tuple[Access, ...] = ("white_box", "black_box_scores", "black_box_labels")


def _build(spec: str | dict[str, Any]) -> tuple[str, Attack]:
    """`audit.attacks.build`, with what is wrong in one line."""
    try:
        return build(spec)
    except ValidationError as error:
        first = error.errors()[0]
        name = spec if isinstance(spec, str) else next(iter(spec))
        if first["type"] == "value_error":
            raise UserError(str(first["ctx"]["error"])) from error
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"attack '{name}': {where}: {first['msg'].lower()}") from error


class Evasion(Check):
    """Robust accuracy: the share of test rows that stay correctly classified within `eps`, against the worst of several attacks.

    Every attack runs by itself on every row that the model gets right, and every example it proposes is asked about again before it
    counts: inside the bounds, within eps, misclassified. The undivided numbers take the worst case per row over all attacks and controls;
    ``attack=NAME`` is one attack alone (the second of one name is ``NAME#2``). Rows that the model gets wrong anyway are not attacked; they count
    against robust accuracy, not towards attack success.

    Void where a control shows that attacks could not see: the model answers differently when asked again; probabilities declared as
    logits; zero gradients on more than 10 % of the rows; random noise, a single step or a black-box attack beats what must be stronger; attacks fail
    when eps spans the whole input range. White-box controls apply where a white-box attack is listed.

    Source: Madry et al. 2018, arXiv:1706.06083; controls: Carlini et al. 2019, arXiv:1902.06705, and Croce & Hein 2020, arXiv:2003.01690.

    Blind spots: an upper bound on true robustness, as good as the attacks listed; nothing is said of other norms, of a larger eps, of
    changes that are no small perturbation (rotation, patches), or of attackers who adapt to a defence.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="robust_accuracy", title="robust accuracy", better="higher", kinds=("proportion",)),
        Metric(name="clean_accuracy", title="accuracy without attack", better="higher", kinds=("proportion",)),
        Metric(name="attack_success", title="attack success", better="lower", kinds=("proportion",)),
        Metric(
            name="queries",
            title="queries per attacked row",
            better="neither",
            kinds=("mean",),
            unit="rows through the model",
        ),
    )
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Train on adversarial examples of this norm and eps, and look at the stored examples and the classes that break first. "
        "Where the number is void, remove what hides the gradient instead."
    )

    attacks: tuple[str | dict[str, dict[str, Any] | None], ...] = Field(("pgd",), min_length=1)
    """Attacks by name, each with its parameters where they differ from the defaults: ``[pgd, {pgd: {loss: margin}}, art.square_attack]``."""
    norm: Literal["linf", "l2"] = "linf"
    """How a perturbation is measured."""
    eps: Real = Field(gt=0)
    """Largest perturbation, in the norm and in the units that the user feeds."""
    samples: int | None = Field(None, ge=1)
    """Attack at most this many test rows; which ones depends on the seed and the rows alone, and more samples contain the fewer. None: all."""
    keep: int = Field(64, ge=0)
    """Adversarial examples stored as evidence, per attack."""

    @field_validator("attacks")
    @classmethod
    def _known(cls, attacks: tuple[str | dict[str, Any], ...]) -> tuple[str | dict[str, Any], ...]:
        for spec in attacks:
            _build(spec)
        return attacks

    @model_validator(mode="after")
    def _norm_fits(self) -> Evasion:
        for name, attack in self.built().items():
            if self.norm not in attack.norms:
                raise UserError(
                    f"attack '{name}' is defined for {' and '.join(sorted(attack.norms))}, not for {self.norm}"
                )
        return self

    def built(self) -> dict[str, Attack]:
        """The attacks, by the names that their numbers carry."""
        found: dict[str, Attack] = {}
        for spec in self.attacks:
            name, attack = _build(spec)
            same = sum(key.split("#")[0] == name for key in found)
            found[f"{name}#{same + 1}" if same else name] = attack
        return found

    def requirements(self) -> frozenset[Capability]:
        """What the attacks need, too."""
        return self.needs.union(*(attack.needs for attack in self.built().values()))

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        import torch

        bounds = _bounds(model)
        batch = self._sample(data.test, ctx)
        x, y = model.tensor(batch), torch.as_tensor(batch.labels).to(model.device)
        _check_inputs(x, bounds, model, data)
        scores = model.outputs(batch)
        predicted = model.labels_of(scores)
        correct = predicted == y
        clean = ctx.evidence("clean", "outcomes")
        clean.append(batch.ids, value=correct.double())
        yield Measurement(metric="clean_accuracy", estimate=_share(correct), evidence=(clean.ref,))

        attacks = self.built()
        access = next(a for a in _STRONGEST if any(attack.access == a for attack in attacks.values()))
        threat = ThreatModel(access=access, norm=self.norm, eps=self.eps, bounds=bounds, units=model.spec.units)
        right = correct.nonzero().flatten()
        rows = Rows(model, x, y, batch.ids, threat, ctx).take(right)
        outcomes: dict[str, Outcome] = {}
        for number, (name, attack) in enumerate(attacks.items()):

            def progress(done: int, before: int = number * len(rows), name: str = name) -> None:
                ctx.progress(before + done, len(attacks) * len(rows), name)

            mine = rows.within(access=attack.access)
            outcomes[name] = run_attack(mine, name, attack, self.keep, progress)
            writer = ctx.evidence(f"outcomes-{name}", "outcomes")
            writer.append(batch.ids, value=_robust(correct, right, outcomes[name].success).double())
            yield from _one_attack(mine, name, outcomes[name], correct, right, writer.ref)

        controls = Controls(rows, scores[right], varied=bool((predicted != predicted[0]).any()))
        fooled = controls.judge(outcomes, attacks)
        writer = ctx.evidence("outcomes", "outcomes")
        writer.append(batch.ids, value=_robust(correct, right, fooled).double())
        yield from _worst_case(rows, outcomes, controls, fooled, correct, right, writer.ref)

    def _sample(self, test: Batch, ctx: Context) -> Batch:
        if self.samples is None or self.samples >= len(test):
            return test
        drawn = ctx.rng(test.ids, "samples").uniform(())
        return test.take(drawn.argsort(stable=True)[: self.samples].sort().values.numpy())


def _one_attack(
    rows: Rows, name: str, outcome: Outcome, correct: Tensor, right: Tensor, stored: EvidenceRef
) -> Iterator[Measurement]:
    """The numbers of one attack alone."""
    from audit.stats import mean_and_se

    shared: dict[str, Any] = {
        "dims": {"attack": name},
        "threat_model": rows.threat.model_copy(update={"realised": outcome.realised}),
        "cautions": _refusals({name: outcome}),
    }
    yield Measurement(
        metric="robust_accuracy",
        estimate=_share(_robust(correct, right, outcome.success)),
        evidence=(stored, *outcome.examples),
        **shared,
    )
    if len(rows):
        yield Measurement(
            metric="attack_success", estimate=_share(outcome.success), evidence=outcome.examples, **shared
        )
        value, se, n = mean_and_se(outcome.queries.cpu().numpy())
        yield Measurement(metric="queries", estimate=Mean(value=value, se=se, n=n), **shared)


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
        estimate=_share(_robust(correct, right, fooled)),
        threat_model=threat,
        evidence=(stored, *examples),
        voids={"robust_accuracy": why, "attack_success": why} if why else {},
        cautions=cautions,
    )
    if len(rows):
        yield Measurement(
            metric="attack_success",
            estimate=_share(fooled),
            threat_model=threat,
            evidence=examples,
            cautions=cautions,
        )
    for index, name in enumerate(rows.model.classes):
        inside = rows.y == index
        if bool(inside.any()):
            yield Measurement(
                metric="attack_success",
                estimate=_share(fooled[inside]),
                dims={"class": name},
                threat_model=threat,
            )


def _share(flags: Tensor) -> Proportion:
    return Proportion(k=int(flags.sum()), n=len(flags))


def _robust(correct: Tensor, right: Tensor, fooled: Tensor) -> Tensor:
    """Which of all rows stay right, ``(N,)`` bool; `fooled` speaks of the rows at `right`."""
    robust = correct.clone()
    robust[right[fooled]] = False
    return robust


def _refusals(outcomes: Mapping[str, Outcome]) -> tuple[str, ...]:
    return tuple(
        f"{name} proposed {int(outcome.refused.sum())} misclassified inputs outside the bounds or beyond eps; they do not count"
        for name, outcome in outcomes.items()
        if bool(outcome.refused.any())
    )


def _bounds(model: AuditedModel) -> tuple[float, float]:
    """The bounds an attack must stay in.

    Raises:
        UserError: they are not declared, differ by column, or the input is not made of numbers.
    """
    fields = model.spec.fields
    if other := [f"{f.name} ({f.kind})" for f in fields if f.kind not in ("image", "number", "series")]:
        raise UserError(
            f"model '{model.name}': a perturbation within eps needs numbers, its input has {', '.join(other[:5])}"
        )
    if model.spec.bounds is not None:
        return model.spec.bounds
    if missing := [f.name for f in fields if f.bounds is None]:
        raise UserError(
            f"model '{model.name}' declares no bounds for {', '.join(missing[:5])}: an attack must know the valid range; "
            "give `bounds: [low, high]` in the model's input spec"
        )
    raise UserError(
        f"model '{model.name}': the columns have different bounds, and one eps would mean another thing in each; "
        "scale the columns to one range inside the data, or audit them apart"
    )


def _check_inputs(x: Tensor, bounds: tuple[float, float], model: AuditedModel, data: AuditData) -> None:
    low, high = bounds
    outside = ~((x >= low) & (x <= high)).flatten(1).all(dim=1)
    if bool(outside.any()):
        raise UserError(
            f"data '{data.source}': {int(outside.sum())} of {len(x)} rows are missing values or lie outside the bounds "
            f"{low:g}..{high:g} that model '{model.name}' declares: correct the bounds or the data"
        )
