"""Stored runs: found by name, judged again without a model, compared with one another in pairs."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.contradictions import contradictions
from audit.finding import EvidenceRef, Finding, Severity, part_name
from audit.judge import Compare, judge
from audit.judge.verdicts import Verdict, verdict
from audit.pairing import PairedDifference, paired_difference
from audit.parameters import UserError
from audit.plan import bind
from audit.run_folder import Recorded, Run, list_runs, rewrite_findings
from audit.scenario import parse, read


@dataclass(frozen=True)
class Report:
    """What a run gave.

    Args:
        path: the run folder.
        findings: one per gate, ungated number and step that could not be judged.
        verdict: what it comes to.
    """

    path: Path
    findings: tuple[Finding, ...]
    verdict: Verdict

    @property
    def exit_code(self) -> int:
        """The exit code of ``audit run``."""
        return self.verdict.exit_code

    @property
    def stored(self) -> Run:
        """The run folder, for reading."""
        return Run(self.path)


def audit_home(home: Path | str | None = None) -> Path:
    """Where models, trust and runs live: the argument, ``AUDIT_HOME``, or ``.audit`` here."""
    return Path(home or os.environ.get("AUDIT_HOME") or ".audit")


def find_run(name: str | Path, home: Path | str | None = None) -> Run:
    """A stored run by its folder's path, its name below ``home/runs``, the name's beginning, or ``latest``.

    Raises:
        UserError: there is none, or several begin like that.
    """
    path = Path(name)
    if path.is_dir() and (path / "manifest.json").exists():
        return Run(path)
    root = audit_home(home) / "runs"
    names = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if str(name) == "latest" and names:
        return Run(root / names[-1])
    if str(name) in names:
        return Run(root / str(name))
    matches = [n for n in names if n.startswith(str(name))]
    if len(matches) == 1:
        return Run(root / matches[0])
    if matches:
        raise UserError(f"several runs begin with '{name}': {', '.join(matches[:5])}")
    raise UserError(
        f"there is no run '{name}' in {root}" + (f"; the newest is {names[-1]}" if names else ": it is empty")
    )


def stored_runs(home: Path | str | None = None) -> Iterator[Run | UserError]:
    """Every run below ``home/runs``, newest first."""
    return list_runs(audit_home(home) / "runs")


def outcomes(run: Run, evidence: Sequence[EvidenceRef]) -> dict[str, float] | None:
    """The stored outcome of every example by row id, of the first such series among `evidence`; None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    ref = next((ref for ref in evidence if ref.kind == "outcomes"), None)
    if ref is None:
        return None
    found = run.evidence(ref)
    return dict(zip(found.ids, found.column("value").astype(float).tolist(), strict=True))


def _evidence(record: Recorded) -> Sequence[EvidenceRef]:
    return record.measurement.evidence if record.measurement else ()


def comparison(ours: Run, baseline: Run) -> Compare:
    """Pairs measurements of two runs by check id, metric, dims and row id."""

    def compare(record: Recorded) -> PairedDifference | str:
        measurement = record.measurement
        if measurement is None:
            return "nothing was measured"
        twins = [
            other
            for other in baseline.recorded
            if other.measurement is not None
            and (other.id, other.measurement.metric, other.measurement.dims)
            == (record.id, measurement.metric, measurement.dims)
            and {k: v for k, v in other.cell.items() if k != "model"}
            == {k: v for k, v in record.cell.items() if k != "model"}
        ]
        if not twins:
            return f"run {baseline.name} holds no {part_name(measurement.metric, measurement.dims)} of '{record.id}'"
        mine, theirs = outcomes(ours, measurement.evidence), outcomes(baseline, _evidence(twins[0]))
        if mine is None or theirs is None:
            return f"{measurement.metric} is not stored per example"
        return paired_difference(mine, theirs) or f"run {baseline.name} shares no example with this one"

    return compare


def rejudge(
    stored: Run,
    gates: Path | str | None = None,
    *,
    home: Path | str | None = None,
    fail_on: Severity = Severity.LOW,
    write: bool = False,
) -> Report:
    """Judge a stored run again, under its own gates or another scenario's, without a model.

    Raises:
        UserError: the run or the scenario cannot be read, or the other scenario has no check of this run.
    """
    file = read(gates) if gates is not None else parse(stored.scenario_text, str(stored.path / "scenario.yaml"))
    if gates is not None and not file.scenario.model:
        refs = list(dict.fromkeys(record.model for record in stored.recorded))
        file = parse(file.text, file.origin, file.base, [f"model=[{', '.join(refs)}]"])
    plan = bind(file)
    measured = {record.step for record in stored.recorded}
    if gates is not None and not any(step.name in measured for step in plan.steps):
        raise UserError(
            f"{file.origin}: none of its checks was measured in run {stored.name}; measured: {', '.join(sorted(measured)) or 'nothing'}"
        )
    named = plan.scenario.baseline
    compare = comparison(stored, find_run(named, home)) if named else None
    findings = judge(plan, stored.recorded, today=today(), compare=compare, contradictions=contradictions(stored))
    result = verdict(findings, fail_on)
    if write and stored.state != "running":
        rewrite_findings(stored.path, findings, conclusion(result, fail_on))
    return Report(stored.path, tuple(findings), result)


def conclusion(result: Verdict, fail_on: Severity) -> dict[str, Any]:
    """What the manifest says of the findings; a reader holds the two against each other."""
    return {
        "verdict": {
            "word": result.word,
            "sentence": result.sentence,
            "exit_code": result.exit_code,
            "counts": dict(result.counts),
        },
        "fail_on": str(fail_on),
    }


def today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
