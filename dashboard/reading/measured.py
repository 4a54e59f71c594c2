"""What the checks of a family measured, as the charts want it: value, interval, adversary, and what judging made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from audit.finding import Finding, Status, ThreatModel
from audit.numbers import show, show_interval
from audit.report._view import RunView
from audit.report._words import by_weight

Key = tuple[str, str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Number:
    """One measured number.

    Args:
        cell: of the scenario's matrix.
        dims: which part of the metric; empty of the undivided number.
        low, high: 95 % interval; None of an open side.
        unresolved: why so few rows decide nothing; empty where they do.
        finding: the finding that says most about it; None where nothing was judged.
        evidence: paths of what is stored behind it.
    """

    step: str
    check: str
    cell: Mapping[str, str]
    metric: str
    dims: Mapping[str, str]
    value: float
    low: float | None
    high: float | None
    n: int | None
    threat: ThreatModel | None
    cautions: tuple[str, ...]
    unresolved: str
    finding: Finding | None
    evidence: tuple[str, ...]

    @property
    def entry(self) -> str:
        """The scenario's entry that it belongs to, without the cell."""
        return self.step.split("[")[0]

    @property
    def named(self) -> str:
        """Its step without the family of the check."""
        return self.step.removeprefix(f"{self.check.split('.')[0]}.")

    @property
    def status(self) -> Status:
        """What judging made of it; ``info`` where there was no gate."""
        return self.finding.status if self.finding else Status.INFO

    @property
    def interval(self) -> str:
        """The interval in words; empty of a number without sampling error."""
        return "" if self.low == self.high else show_interval(self.low, self.high)

    @property
    def told(self) -> str:
        """Interval and n in words."""
        n = f"n = {self.n:,}" if self.n is not None else ""
        return ", ".join(part for part in (self.interval, n) if part) or show(self.value)


@lru_cache(maxsize=8)
def numbers(view: RunView, model: str, family: str) -> tuple[Number, ...]:
    """Every number that the checks of a family measured on a model, in order, judged or not."""
    judged: dict[Key, Finding] = {}
    for finding in sorted(view.findings, key=by_weight, reverse=True):  # what says most comes last and stays
        own = {key: value for key, value in finding.dims.items() if key not in finding.cell}
        judged[_key(finding.step, finding.metric or "", own)] = finding
    found = []
    for record in view.recorded:
        if (measured := record.measurement) is None or record.model != model or not record.check.startswith(family):
            continue
        low, high = (None if math.isinf(end) else end for end in measured.estimate.interval())
        found.append(
            Number(
                step=record.step,
                check=record.check,
                cell={key: value for key, value in record.cell.items() if key != "model"},
                metric=measured.metric,
                dims=measured.dims,
                value=measured.estimate.value,
                low=low,
                high=high,
                n=getattr(measured.estimate, "n", None),
                threat=measured.threat_model,
                cautions=measured.cautions,
                unresolved=measured.unresolved or "",
                finding=judged.get(_key(record.step, measured.metric, measured.dims)),
                evidence=tuple(ref.path for ref in measured.evidence),
            )
        )
    return tuple(found)


def _key(step: str, metric: str, dims: Mapping[str, str]) -> Key:
    return step, metric, tuple(sorted(dims.items()))
