"""``pytest --audit scenarios/``: each gate of each scenario is a test item, so an audit runs in a team's own CI.

A gate that passes is a passed test; waived, and optional but not applicable, is skipped; everything else fails with the finding's
own message. A step without gates is an item too: it fails where the check broke or its numbers mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from audit.finding import Finding
    from audit.plan import Plan
    from audit.stored import Report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("audit", "model audits")
    group.addoption("--audit", action="store_true", help="collect scenario files (*.yaml, *.yml): each gate is a test")
    group.addoption(
        "--audit-model",
        action="append",
        default=[],
        metavar="REF",
        help="audit this registered model instead of the scenario's",
    )
    group.addoption(
        "--audit-set", action="append", default=[], metavar="ID.KEY=VALUE", help="override a scenario's parameter"
    )
    group.addoption("--audit-home", metavar="DIR", help="where models and runs live (default: AUDIT_HOME, or .audit)")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Take scenario files, and nothing without ``--audit``."""
    if parent.config.getoption("--audit") and file_path.suffix in (".yaml", ".yml"):
        return ScenarioCollector.from_parent(parent, path=file_path)  # type: ignore[no-any-return]
    return None


class ScenarioCollector(pytest.File):
    """One scenario file; it runs once, when its first gate is asked for."""

    _report: Report | None = None
    _failure: BaseException | None = None

    def collect(self) -> Iterator[pytest.Item]:
        """One item per gate and matrix cell, and one per step without gates."""
        from audit.parameters import UserError

        try:
            plan = self._plan()
        except UserError as error:
            raise self.CollectError(str(error)) from None
        if not plan.gated:
            raise self.CollectError(
                f"{self.path.name}: nothing is gated, so nothing could fail: add 'require:' to a check"
            )
        for step in plan.steps:
            if not step.entry.require:
                yield GateItem.from_parent(self, name=step.name, step=step.name, key=None, gate=None)
            for key, gates in step.entry.require.items():
                for gate in gates:
                    yield GateItem.from_parent(
                        self, name=f"{step.name}/{key} {gate}", step=step.name, key=key, gate=gate
                    )

    def _plan(self) -> Plan:
        from audit.plan import bind
        from audit.scenario import read

        overrides = list(self.config.getoption("--audit-set"))
        if models := self.config.getoption("--audit-model"):
            overrides.append(f"model=[{', '.join(models)}]")
        return bind(read(self.path, overrides))

    def report(self) -> Report:
        """The run's report; the first call runs the scenario."""
        from audit.engine import run

        if self._failure is not None:
            raise self._failure
        if self._report is None:
            try:
                self._report = run(self._plan().file, home=self.config.getoption("--audit-home"))
            except BaseException as error:
                self._failure = error
                raise
        return self._report


class MissedGate(Exception):
    """A gate that did not pass; its text is the finding's."""


class GateItem(pytest.Item):
    """One gate of one step."""

    def __init__(self, *, step: str, key: str | None, gate: str | None, **rest: Any) -> None:
        super().__init__(**rest)
        self._step, self._key, self._gate = step, key, gate

    def runtest(self) -> None:
        """Run the scenario if it has not run yet, and hold its findings against this gate."""
        from audit.finding import Status
        from audit.gate import Gate

        collector = self.parent
        if not isinstance(collector, ScenarioCollector):
            raise TypeError("a gate is collected from a scenario file")
        report = collector.report()
        findings = [f for f in report.findings if f.step == self._step]
        if self._key is None:
            mine = [f for f in findings if f.status in (Status.ERROR, Status.VOID)]
        else:
            required = str(Gate.parse(self._gate or ""))
            mine = [f for f in findings if f.gate == self._key and f.required == required]
            mine += [f for f in findings if f.status is Status.ERROR and not f.gated]
            if not any(f.gated for f in mine) and _speaks_of(self._key, self._step, findings):
                raise MissedGate(f"{self._step}/{self._key}: no finding speaks of this gate")
        self.user_properties.append(("audit_run", str(report.path)))
        bad = [f for f in mine if f.status in (Status.FAIL, Status.INCONCLUSIVE, Status.VOID, Status.ERROR)]
        bad += [f for f in mine if f.status is Status.NOT_APPLICABLE and not f.optional]
        if bad:
            raise MissedGate("\n".join(_describe(f) for f in bad) + f"\nrun folder: {report.path}")
        if skipped := [f for f in mine if f.status in (Status.WAIVED, Status.NOT_APPLICABLE)]:
            pytest.skip(f"{skipped[0].status}: {_reason(skipped[0])}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """The finding instead of a traceback; a traceback only where the plug-in itself broke."""
        from audit.parameters import UserError

        if isinstance(excinfo.value, (MissedGate, UserError)):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the gate is written."""
        return self.path, None, f"{self.path.name}: {self.name}"


def _speaks_of(key: str, step: str, findings: list[Finding]) -> bool:
    """Whether a gate that names a matrix value belongs to this step's cell: only then must a finding answer it."""
    from audit.plan import same_value
    from audit.scenario import parse_part

    _, dims = parse_part(key)
    cell = next((f.cell for f in findings), {})
    return isinstance(dims, str) or all(same_value(cell[k], v) for k, v in dims.items() if k in cell)


def _describe(finding: Finding) -> str:
    lines = [f"{finding.status}: {finding.id}: {finding.message}"]
    lines += [f"  caution: {caution}" for caution in finding.cautions]
    if finding.remedy:
        lines.append(f"  remedy: {finding.remedy}")
    return "\n".join(lines)


def _reason(finding: Finding) -> str:
    waiver = finding.waiver
    return f"{waiver['reason']} ({waiver['owner']}, until {waiver['expires']})" if waiver else finding.message
