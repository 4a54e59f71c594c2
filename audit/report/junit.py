"""The report for CI servers: JUnit XML, one test case per gate, one suite per check.

It holds to both schemas in use, Ant's (Windy Road) and the one of Jenkins' xUnit plug-in.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal

from audit.finding import Finding, Status
from audit.report import Renderer
from audit.report._view import RunView
from audit.report._words import STATUS, clean, interval_of, level_of, n_of, part_of, value_of
from audit.run_folder import Run

Element = Literal["failure", "error", "skipped"]


class Junit(Renderer):
    """A missed or undecided gate is a failure; what broke, is void or could not apply is an error; waived gates are skipped.

    A run that is unfinished or damaged has one more case, an error, so that no reader of the file takes it for green.
    """

    name: ClassVar[str] = "junit"
    suffix: ClassVar[str] = "junit.xml"

    def render(self, run: Run) -> str:
        """The run as JUnit XML."""
        view = RunView(run)
        root = ET.Element("testsuites")
        steps = list(dict.fromkeys([*view.planned, *(f.step for f in view.findings)]))
        if view.verdict.word in ("interrupted", "running", "damaged"):
            self._suite(root, view, "run", [], view.verdict.sentence)
        for step in steps:
            cases = [f for f in view.findings if f.step == step and _counts(f)]
            if cases:
                self._suite(root, view, step, cases)
        ET.indent(root)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"

    def _suite(self, root: ET.Element, view: RunView, step: str, cases: Sequence[Finding], broken: str = "") -> None:
        counts: Counter[str] = Counter(tests=0, failures=0, errors=0, skipped=0)
        seconds = view.seconds(step) or 0.0
        suite = ET.SubElement(root, "testsuite")
        properties = ET.SubElement(suite, "properties")
        facts = {
            "scenario": view.title,
            "run": view.run.name,
            "verdict": view.verdict.word,
            "seed": view.manifest.get("seed", ""),
            "models": ", ".join(view.models),
        }
        for key, value in facts.items():
            ET.SubElement(properties, "property", name=key, value=clean(value))
        if broken:
            case = ET.SubElement(suite, "testcase", name="the run is complete", classname=_name(view.title), time="0")
            told = ET.SubElement(case, "error", type=view.verdict.word, message=clean(broken))
            told.text = clean("\n".join([broken, *view.problems]))
            counts.update(tests=1, errors=1)
        for i, finding in enumerate(cases):
            time = seconds if i == 0 else 0.0
            counts["tests"] += 1
            if element := self._case(suite, view, finding, time):
                counts[{"failure": "failures", "error": "errors", "skipped": "skipped"}[element]] += 1
        ET.SubElement(suite, "system-out").text = clean(f"{view.verdict.headline}: {view.verdict.said}")
        ET.SubElement(suite, "system-err").text = clean("\n".join(view.problems))
        attributes = {
            "name": _name(step),
            "package": _name(view.title),
            "id": str(len(root) - 1),
            "timestamp": _timestamp(view.manifest.get("started")),
            "hostname": "localhost",
            "time": f"{seconds:.3f}",
            **{key: str(n) for key, n in counts.items()},
        }
        for key, value in attributes.items():
            suite.set(key, value)

    def _case(self, suite: ET.Element, view: RunView, finding: Finding, seconds: float) -> Element | None:
        name = finding.id.removeprefix(f"{finding.step}/")
        if finding.required and not name.endswith(finding.required):
            name = f"{name} {finding.required}"
        case = ET.SubElement(
            suite, "testcase", name=_name(name), classname=_name(f"{view.title}.{finding.step}"), time=f"{seconds:.3f}"
        )
        element = _element(finding)
        if element is not None:
            told = ET.SubElement(case, element, type=str(finding.status), message=clean(_message(finding)))
            told.text = clean(_details(finding))
        return element


def _counts(finding: Finding) -> bool:
    """Gates, and what broke or could not apply without one."""
    return finding.gated or finding.status in (Status.ERROR, Status.VOID, Status.NOT_APPLICABLE)


def _element(finding: Finding) -> Element | None:
    if finding.status in (Status.FAIL, Status.INCONCLUSIVE):
        return "failure"
    if finding.status in (Status.ERROR, Status.VOID):
        return "error"
    if finding.status is Status.NOT_APPLICABLE:
        return "error" if finding.gated and not finding.optional else "skipped"
    return "skipped" if finding.status is Status.WAIVED else None


def _message(finding: Finding) -> str:
    waiver = finding.waiver
    if waiver:
        return f"waived by {waiver.get('owner')} until {waiver.get('expires')}: {waiver.get('reason')}"
    return f"{STATUS[finding.status].word}: {finding.message}"


def _details(finding: Finding) -> str:
    lines = [f"{STATUS[finding.status].word}: {finding.title or finding.check}", finding.message]
    if finding.dims:
        lines.append(f"part: {part_of(finding)}")
    if finding.required:
        lines.append(f"required: {finding.required}")
    if finding.estimate is not None:
        interval = f", {level_of(finding)} interval {interval_of(finding)}" if interval_of(finding) else ""
        lines.append(f"measured: {value_of(finding)}{interval}, n = {n_of(finding)}")
    lines.append(f"severity: {finding.severity}")
    lines += [f"caution: {caution}" for caution in finding.cautions]
    if finding.remedy:
        lines.append(f"what to do: {finding.remedy}")
    lines += [f"evidence: {ref.path}" for ref in finding.evidence]
    return "\n".join([*lines, f"fingerprint: {finding.fingerprint}"])


def _name(value: object) -> str:
    """An ``xs:token``: no line breaks, no runs of blanks, never empty."""
    return " ".join(clean(value).split()) or "-"


def _timestamp(value: object) -> str:
    """UTC without a zone, as Ant's schema wants it; the epoch where the manifest tells no time."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        moment = datetime.fromtimestamp(0, UTC)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")
