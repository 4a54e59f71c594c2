"""Judging: a pure function from stored measurements and gates to findings. An audit never passes silently.

A gate passes only when the whole interval meets it. Everything else has a status that says why not.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from audit.contradictions import Contradiction
from audit.finding import (
    LEVEL,
    Finding,
    Measurement,
    Metric,
    Outcome,
    Status,
    fingerprint,
    part_name,
)
from audit.gate import Gate
from audit.judge.decision import Decision, decide, describe_estimate
from audit.numbers import show, show_interval
from audit.pairing import PairedDifference
from audit.plan import Plan, Step, same_value
from audit.run_folder import Recorded
from audit.scenario import parse_part

Compare = Callable[[Recorded], "PairedDifference | str"]
"""Pairs a measurement with the baseline run; a text says why it cannot be paired."""


@dataclass(frozen=True)
class _Draft:
    finding: Finding
    p_value: float | None = None


def judge(
    plan: Plan,
    recorded: Sequence[Recorded],
    *,
    today: datetime.date,
    compare: Compare | None = None,
    contradictions: Sequence[Contradiction] = (),
) -> list[Finding]:
    """Turn everything that was measured into findings.

    Args:
        plan: the scenario whose gates apply; steps are matched to records by name and model.
        recorded: lines of a run's ``measurements.jsonl``; a step without an outcome counts as unfinished.
        today: for waivers that expire.
        compare: pairs a measurement with the baseline run, for gates that name it.
        contradictions: numbers that the run itself refutes; they are void.
    """
    by_step: dict[str, list[Recorded]] = {}
    for record in recorded:
        by_step.setdefault(record.step, []).append(record)
    voids = [*_voids(recorded), *contradictions]
    drafts = [
        draft
        for step in plan.steps
        for draft in _Judged(plan, step, by_step.get(step.name, []), voids, compare).drafts()
    ]
    findings = _correct(drafts) if plan.scenario.correction == "holm" else [draft.finding for draft in drafts]
    return [_waive(finding, plan, today) for finding in findings]


def _voids(recorded: Iterable[Recorded]) -> list[tuple[Recorded, str, str]]:
    """(who says so, ``check:metric`` or ``metric``, why)."""
    return [
        (record, target, why)
        for record in recorded
        if record.measurement is not None
        for target, why in record.measurement.voids.items()
    ]


def _same_adversary(record: Recorded, measurement: Measurement) -> bool:
    """Whether what voids a number of another check speaks of its kind of adversary; a number without a threat model is any."""
    theirs, mine = record.measurement and record.measurement.threat_model, measurement.threat_model
    return not (theirs and mine) or (theirs.access == mine.access and theirs.norm in (None, mine.norm))


class _Judged:
    """The findings of one step."""

    def __init__(
        self,
        plan: Plan,
        step: Step,
        records: Sequence[Recorded],
        voids: Sequence[tuple[Recorded, str, str]],
        compare: Compare | None,
    ) -> None:
        self.plan, self.step, self.compare = plan, step, compare
        self.records = [record for record in records if record.measurement is not None]
        outcomes = [record.outcome for record in records if record.outcome is not None]
        self.outcome = (
            outcomes[-1]
            if outcomes
            else Outcome(status="error", message="the run was interrupted before this check ended")
        )
        self.voids = voids

    def drafts(self) -> list[_Draft]:
        out: list[_Draft] = []
        gated: set[int] = set()
        for key, texts in self.step.entry.require.items():
            metric, dims = parse_part(key)
            if not self._applies(dims):
                continue
            matches = self._matching(metric, dims)
            gated |= {id(record) for record in matches}
            for position, text in enumerate(texts):
                gate = Gate.parse(text)
                judged = [self._gate(record, gate) for record in matches] or [self._unmeasured(metric, dims, gate)]
                out += [_written_as(draft, key, position) for draft in judged]
        out += [self._ungated(record) for record in self.records if id(record) not in gated]
        if self.outcome.status == "error":
            out.append(_Draft(self._finding(Status.ERROR, self.outcome.message, None, None, None)))
        elif self.outcome.status == "not_applicable" and not any(draft.finding.gated for draft in out):
            out.append(_Draft(self._finding(Status.NOT_APPLICABLE, self.outcome.message, None, None, None)))
        return out

    def _applies(self, dims: Mapping[str, str] | str) -> bool:
        """Whether a gate that names values of the matrix speaks of this cell."""
        cell = self.step.cell
        return isinstance(dims, str) or all(same_value(cell[k], v) for k, v in dims.items() if k in cell)

    def _matching(self, metric: str, dims: Mapping[str, str] | str) -> list[Recorded]:
        rest = {} if isinstance(dims, str) else {k: v for k, v in dims.items() if k not in self.step.cell}
        return [
            record
            for record in self.records
            if _is_part(record.measurement, metric, "*" if isinstance(dims, str) else rest)
        ]

    def _gate(self, record: Recorded, gate: Gate) -> _Draft:
        measurement = _measured(record)
        if why := self._void(measurement):
            return _Draft(self._finding(Status.VOID, f"the number means nothing: {why}", measurement, None, gate))
        if gate.baseline:
            return self._paired(record, measurement, gate)
        decision = decide(measurement.estimate, gate)
        if measurement.unresolved and decision.status in (Status.PASS, Status.FAIL):
            decision = Decision(
                Status.INCONCLUSIVE, f"{describe_estimate(measurement.estimate)}: {measurement.unresolved}"
            )
        return _Draft(self._finding(decision.status, decision.message, measurement, None, gate), decision.p_value)

    def _paired(self, record: Recorded, measurement: Measurement, gate: Gate) -> _Draft:
        difference = self.compare(record) if self.compare else "no baseline run was given"
        if isinstance(difference, str):
            return _Draft(
                self._finding(
                    Status.ERROR, f"cannot be compared with the baseline: {difference}", measurement, None, gate
                )
            )
        said = (
            f"{describe_estimate(measurement.estimate)}: {show(difference.value)} against the baseline "
            f"(95 % interval {show_interval(difference.low, difference.high)}, {difference.n:,} pairs, {difference.differing:,} differ)"
        )
        if gate.holds_for(difference.low, difference.high):
            status, verb = Status.PASS, "meets"
        elif gate.misses(difference.low, difference.high):
            status, verb = Status.FAIL, "misses"
        else:
            status, verb = Status.INCONCLUSIVE, "straddles"
        return _Draft(self._finding(status, f"{said} {verb} {gate}", measurement, difference, gate))

    def _ungated(self, record: Recorded) -> _Draft:
        measurement = _measured(record)
        if why := self._void(measurement):
            return _Draft(self._finding(Status.VOID, f"the number means nothing: {why}", measurement, None, None))
        said = describe_estimate(measurement.estimate)
        message = f"{said}; it decides nothing: {measurement.unresolved}" if measurement.unresolved else said
        return _Draft(self._finding(Status.INFO, message, measurement, None, None))

    def _unmeasured(self, metric: str, dims: Mapping[str, str] | str, gate: Gate) -> _Draft:
        part = part_name(metric, {"*": ""} if isinstance(dims, str) else dims).replace("*=", "*")
        if self.outcome.status == "not_applicable":
            status, message = Status.NOT_APPLICABLE, self.outcome.message
        elif self.outcome.status == "error":
            status, message = Status.ERROR, f"{part} was not measured: {self.outcome.message}"
        else:
            have = sorted({part_name(r.measurement.metric, r.measurement.dims) for r in self.records if r.measurement})
            near = [name for name in have if name.split("[")[0] == metric][:6] or have[:6]
            status = Status.ERROR
            message = f"the gate on {part} matches nothing that was measured; measured: {', '.join(near) or 'nothing'}"
        known = self.step.metrics.get(metric)
        named = {} if isinstance(dims, str) else {k: v for k, v in dims.items() if k not in self.step.cell}
        return _Draft(self._finding(status, message, None, None, gate, known, named, part))

    def _void(self, measurement: Measurement) -> str | None:
        for record, target, why in self.voids:
            check, colon, metric = target.rpartition(":")
            if not colon:
                applies = record.step == self.step.name and target in (measurement.metric, "*")
            else:
                applies = (
                    check == self.step.entry.check
                    and record.model == self.step.model
                    and metric in (measurement.metric, "*")
                    and _same_adversary(record, measurement)
                )
            scope = record.measurement.dims if record.measurement and not colon else {}
            if applies and all(measurement.dims.get(k, v) == v for k, v in scope.items() if k in measurement.dims):
                source = "" if record.step == self.step.name else f" (shown by {record.step})"
                return f"{why}{source}"
        return None

    def _finding(
        self,
        status: Status,
        message: str,
        measurement: Measurement | None,
        difference: PairedDifference | None,
        gate: Gate | None,
        metric: Metric | None = None,
        dims: Mapping[str, str] | None = None,
        part: str | None = None,
    ) -> Finding:
        entry, step = self.step.entry, self.step
        if measurement is not None:
            metric, dims = step.metrics.get(measurement.metric), measurement.dims
        name = metric.name if metric else None
        own = dict(dims or {})
        interval: tuple[float, float] | None = None
        if difference is not None:
            interval = (difference.low, difference.high)
        elif measurement is not None:
            interval = measurement.estimate.interval(LEVEL)
        params: dict[str, Any] = step.check.model_dump(mode="json")
        tail = part if part else part_name(name, own) if name else ""
        return Finding(
            id=step.name
            + (f"/{tail}" if tail else "")
            + (f" {gate}" if gate and len(self._gates_on(tail)) > 1 else ""),
            step=step.name,
            check=entry.check,
            params=params,
            model=step.model,
            status=status,
            severity=entry.severity,
            message=message,
            metric=name,
            title=metric.title if metric else entry.check,
            unit=metric.unit if metric else "",
            better=metric.better if metric else "neither",
            dims={**step.cell, **own},
            cell=dict(step.cell),
            estimate=measurement.estimate if measurement else None,
            interval=None if interval is None else (_finite(interval[0]), _finite(interval[1])),
            required=str(gate) if gate else None,
            optional=entry.optional,
            threat_model=measurement.threat_model if measurement else None,
            seed=self.plan.scenario.seed,
            evidence=measurement.evidence if measurement else (),
            cautions=measurement.cautions if measurement else (),
            remedy=step.check.remedy if status in (Status.FAIL, Status.INCONCLUSIVE, Status.VOID) else "",
            fingerprint=fingerprint(
                entry.check,
                entry.id,
                tail,
                {k: v for k, v in step.cell.items() if k != "model"},
                gate.comparison if gate else "",
                step.model.split("@")[0],
            ),
        )

    def _gates_on(self, tail: str) -> tuple[str, ...]:
        return self.step.entry.require.get(tail, ())


def _written_as(draft: _Draft, key: str, position: int) -> _Draft:
    """With the gate's key in the scenario, and a fingerprint of its own where several gates stand on one part."""
    mark = draft.finding.fingerprint
    known = fingerprint(mark, position) if position else mark
    return replace(draft, finding=draft.finding.model_copy(update={"gate": key, "fingerprint": known}))


def _measured(record: Recorded) -> Measurement:
    if record.measurement is None:
        raise ValueError(f"record of {record.step} holds no measurement")
    return record.measurement


def _is_part(measurement: Measurement | None, metric: str, dims: Mapping[str, str] | str) -> bool:
    if measurement is None or measurement.metric != metric:
        return False
    if isinstance(dims, str):
        return bool(measurement.dims)
    return measurement.dims.keys() == dims.keys() and all(same_value(measurement.dims[k], v) for k, v in dims.items())


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def _correct(drafts: Sequence[_Draft]) -> list[Finding]:
    """Holm's step-down correction over every gate with a p-value; a directional decision stays only where it survives.

    Source: Holm 1979; directional decisions: Shaffer 1980.
    """
    from audit.stats import holm

    testable = [i for i, draft in enumerate(drafts) if draft.p_value is not None and draft.finding.gated]
    adjusted = dict(zip(testable, holm([drafts[i].p_value or 0.0 for i in testable]), strict=True))
    out = []
    for i, draft in enumerate(drafts):
        finding = draft.finding
        if i in adjusted and finding.status in (Status.PASS, Status.FAIL) and adjusted[i] > 1 - LEVEL:
            finding = finding.model_copy(
                update={
                    "status": Status.INCONCLUSIVE,
                    "message": f"{finding.message}, but not after Holm's correction over {len(testable)} gates (adjusted p = {show(adjusted[i])})",
                }
            )
        out.append(finding)
    return out


def _waive(finding: Finding, plan: Plan, today: datetime.date) -> Finding:
    for waiver in plan.scenario.waivers:
        if waiver.finding not in (finding.id, finding.id.split(" ")[0]) or finding.status is not Status.FAIL:
            continue
        facts = {"owner": waiver.owner, "reason": waiver.reason, "expires": waiver.expires.isoformat()}
        if waiver.expires < today:
            note = f"{finding.message}; the waiver of {waiver.owner} lapsed on {facts['expires']}"
            return finding.model_copy(update={"message": note})
        return finding.model_copy(update={"status": Status.WAIVED, "waiver": facts})
    return finding
