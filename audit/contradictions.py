"""Where two numbers of one run cannot both be true: a row proven safe, and an adversarial example for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from audit.finding import Measurement, Metric, ThreatModel
from audit.names import resolve
from audit.parameters import UserError
from audit.run_folder import Recorded, Run

_WIDER = {"l1": 0, "l2": 1, "linf": 2}
"""A ball of a norm lies within the ball of the same eps of every later one."""


class Contradiction(NamedTuple):
    """A recorded number that another one refutes."""

    record: Recorded
    metric: str
    why: str


def contradictions(run: Run) -> list[Contradiction]:
    """Every number that falls below its floor (`Metric.floor_of`) on some row, and the floor: neither means anything then.

    Compared are undivided numbers of one model by row id, where the perturbations of the one lie within those of the other.
    """
    undivided = [record for record in run.recorded if record.measurement is not None and not record.measurement.dims]
    return [
        found
        for floor in undivided
        if (bounded := _floor_of(floor))
        for other in undivided
        if _of(other).metric == bounded
        and other.model == floor.model
        and _inside(_of(other).threat_model, _of(floor).threat_model)
        for found in _compared(floor, other, run)
    ]


def _floor_of(record: Recorded) -> str:
    """The metric that a recorded number is a floor of; empty where it is none, or its check is not installed here."""
    try:
        declared: tuple[Metric, ...] = resolve("checks", record.check).metrics
    except UserError:
        return ""
    return next((metric.floor_of for metric in declared if metric.name == _of(record).metric), "")


def _compared(floor: Recorded, other: Recorded, run: Run) -> Iterator[Contradiction]:
    safe, held = _outcomes(floor, run), _outcomes(other, run)
    broken = [row for row, value in safe.items() if value == 1 and held.get(row) == 0]
    if not broken:
        return
    fact = f"{len(broken)} of {len(safe):,} rows count in {_of(floor).metric} of {floor.step} and not in {_of(other).metric} of {other.step}, "
    why = f"{fact}which cannot be (first: row {broken[0]}): one of the two is wrong"
    yield Contradiction(floor, _of(floor).metric, why)
    yield Contradiction(other, _of(other).metric, why)


def _inside(attack: ThreatModel | None, proof: ThreatModel | None) -> bool:
    """Whether everything that one adversary may do is among what the other may."""
    if attack is None or proof is None or attack.constraints or proof.constraints:
        return False
    if attack.eps is None or proof.eps is None or attack.norm is None or proof.norm is None:
        return False
    same_box = attack.bounds == proof.bounds or proof.bounds is None
    return same_box and attack.eps <= proof.eps and _WIDER[attack.norm] <= _WIDER[proof.norm]


def _outcomes(record: Recorded, run: Run) -> Mapping[str, float]:
    refs = [ref for ref in _of(record).evidence if ref.kind == "outcomes"]
    if not refs:
        return {}
    evidence = run.evidence(refs[0])
    return dict(zip(evidence.ids, map(float, evidence.column("value")), strict=True))


def _of(record: Recorded) -> Measurement:
    if record.measurement is None:
        raise ValueError(f"record of {record.step} holds no measurement")
    return record.measurement
