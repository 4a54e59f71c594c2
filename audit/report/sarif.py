"""The report for code scanning: SARIF 2.1.0, one result per gate that wants attention.

Gates that passed are counted, never listed: readers such as GitHub's show every result as an alert, whatever its ``kind``,
and close an alert when its fingerprint is gone.

Source: OASIS SARIF 2.1.0 (errata 01); sections are named where they decide something.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from audit import __version__
from audit.finding import Finding, Severity, Status, fingerprint
from audit.names import class_name
from audit.report import Renderer
from audit.report._about import about
from audit.report._view import RunView, tidy
from audit.report._words import STATUS, clean, interval_of, level_of, n_of, part_of, value_of
from audit.run_folder import Run

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
INCOMPLETE = "audit/incomplete"
Level = Literal["error", "warning", "note"]

_LEVELS: dict[Severity, Level] = {
    Severity.CRITICAL: "error",
    Severity.HIGH: "error",
    Severity.MEDIUM: "warning",
    Severity.LOW: "note",
}


class Sarif(Renderer):
    """Waived gates are suppressed results; damage and errors are notifications of the invocation as well."""

    name: ClassVar[str] = "sarif"
    suffix: ClassVar[str] = "sarif"

    def render(self, run: Run) -> str:
        """The run as a SARIF log."""
        log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_Log(RunView(run)).run()]}
        return json.dumps(tidy(log), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def level_of_result(finding: Finding) -> Level:
    """What a missed gate weighs is the scenario's to say; an error is one at any severity, an undecided gate a warning at most."""
    if finding.status in (Status.ERROR, Status.VOID, Status.NOT_APPLICABLE):
        return "error"
    level = _LEVELS[finding.severity]
    return "warning" if finding.status is Status.INCONCLUSIVE and level == "error" else level


def wants_attention(finding: Finding) -> bool:
    """Whether a finding becomes a result."""
    if finding.status is Status.NOT_APPLICABLE:
        return finding.gated and not finding.optional
    return finding.status in (Status.FAIL, Status.INCONCLUSIVE, Status.VOID, Status.ERROR, Status.WAIVED)


class _Log:
    """One run as a SARIF run object."""

    def __init__(self, view: RunView) -> None:
        self.view = view
        self.findings = [f for f in view.gates if wants_attention(f)]
        self.incomplete = view.verdict.word in ("interrupted", "running", "damaged")
        self.rules = self._rules()
        self.index = {rule["id"]: i for i, rule in enumerate(self.rules)}

    def run(self) -> dict[str, Any]:
        view = self.view
        results = [self._result(finding) for finding in self.findings]
        if self.incomplete:
            results.append(self._incomplete())
        return {
            "tool": {
                "driver": {"name": "assay", "version": __version__, "semanticVersion": __version__, "rules": self.rules}
            },
            "automationDetails": {"id": f"assay/{clean(view.title)}/"},
            "columnKind": "unicodeCodePoints",
            "invocations": [self._invocation()],
            "artifacts": [{"location": {"uri": self._uri()}, "roles": ["analysisTarget"]}],
            "results": results,
            "properties": {
                "run": clean(view.run.name),
                "verdict": view.verdict.word,
                "sentence": view.verdict.sentence,
                "counts": dict(view.verdict.counts),
                "models": {ref: str(facts.get("digest", "")) for ref, facts in view.models.items()},
                "data": str(view.data.get("digest", "")),
                "seed": view.manifest.get("seed"),
                "notTested": [f"{gap.subject}: {gap.text}" for gap in view.not_tested],
            },
        }

    # --- rules ---

    def _rules(self) -> list[dict[str, Any]]:
        """One per check and metric that the run judged, passed gates included: a rule says what is watched over."""
        first = {_rule_id(finding): finding for finding in reversed(self.view.gates)}
        rules = [_rule(name, first[name]) for name in sorted(first)]
        if self.incomplete:
            text = "The audit did not come to an end, or its folder is damaged. What it found so far is no verdict."
            rules.append(
                {
                    "id": INCOMPLETE,
                    "name": "AuditIncomplete",
                    "shortDescription": {"text": "The audit is incomplete."},
                    "fullDescription": {"text": text},
                    "help": {"text": "Run the scenario again."},
                    "defaultConfiguration": {"level": "error"},
                }
            )
        return rules

    # --- results ---

    def _result(self, finding: Finding) -> dict[str, Any]:
        result: dict[str, Any] = {
            "ruleId": _rule_id(finding),
            "ruleIndex": self.index[_rule_id(finding)],
            "kind": "fail",  # §3.27.10: any other kind forces level "none", which readers hide
            "level": level_of_result(finding),
            "message": {"text": clean(_message(finding))},
            "locations": [self._location(finding)],
            "partialFingerprints": {"assayFinding/v1": finding.fingerprint},
            "properties": _properties(finding),
        }
        if finding.waiver:
            reason, owner, expires = (finding.waiver.get(key, "") for key in ("reason", "owner", "expires"))
            result["suppressions"] = [
                {
                    "kind": "external",
                    "status": "accepted",
                    "justification": clean(f"{reason} ({owner}, until {expires})"),
                    "properties": {"owner": clean(owner), "expires": clean(expires)},
                }
            ]
        return result

    def _incomplete(self) -> dict[str, Any]:
        told = self.view.verdict
        return {
            "ruleId": INCOMPLETE,
            "ruleIndex": self.index[INCOMPLETE],
            "kind": "fail",
            "level": "error",
            "message": {"text": clean(". ".join([f"{told.headline}: {told.said}", *self.view.problems]))},
            "locations": [self._location(None)],
            "partialFingerprints": {"assayFinding/v1": fingerprint(INCOMPLETE, self.view.title)},
        }

    def _location(self, finding: Finding | None) -> dict[str, Any]:
        location: dict[str, Any] = {
            "physicalLocation": {
                "artifactLocation": {"uri": self._uri(), "index": 0},
                "region": {"startLine": self._line(finding) if finding else 1},
            }
        }
        if finding:
            location["logicalLocations"] = [
                {"name": clean(finding.id), "fullyQualifiedName": clean(f"{self.view.title}/{finding.id}")}
            ]
        return location

    def _uri(self) -> str:
        return quote(str(self.view.manifest.get("origin") or "scenario.yaml"), safe="/-._~")

    def _line(self, finding: Finding) -> int:
        """Line of the gate, or of its check, in the stored scenario."""
        file, scenario = self.view.scenario_file, self.view.scenario
        for i, entry in enumerate(scenario.checks if scenario else ()):
            if file and (finding.step == entry.id or finding.step.startswith(f"{entry.id}[")):
                place = ("checks", i, "require", finding.gate) if finding.gate else ("checks", i)
                return file.mark(place)[0] or 1
        return 1

    # --- invocation ---

    def _invocation(self) -> dict[str, Any]:
        view = self.view
        broken = [f for f in view.findings if f.status is Status.ERROR]
        notifications: list[dict[str, Any]] = [
            {"level": "error", "message": {"text": clean(f"{f.id}: {f.message}")}, "associatedRule": self._reference(f)}
            for f in broken
        ]
        notifications += [{"level": "error", "message": {"text": problem}} for problem in view.problems]
        invocation: dict[str, Any] = {
            "executionSuccessful": not broken and not self.incomplete and not view.problems,
            "toolExecutionNotifications": notifications,
            "exitCodeDescription": clean(f"{view.verdict.headline}: {view.verdict.said}"),
        }
        if view.verdict.exit_code is not None:
            invocation["exitCode"] = view.verdict.exit_code
        for key, name in (("startTimeUtc", "started"), ("endTimeUtc", "ended")):
            if moment := _moment(view.manifest.get(name)):
                invocation[key] = moment
        return invocation

    def _reference(self, finding: Finding) -> dict[str, Any]:
        return {"id": _rule_id(finding), "index": self.index[_rule_id(finding)]}


def _rule_id(finding: Finding) -> str:
    return f"{finding.check}/{finding.metric}" if finding.metric else finding.check


def _rule(name: str, finding: Finding) -> dict[str, Any]:
    told = about(finding.check)
    title = finding.title or finding.check
    remedy = finding.remedy or told.remedy
    help_lines = [
        f"{title} ({name}).",
        told.summary,
        f"Better is {finding.better}." if finding.better in ("higher", "lower") else "",
        f"What to do when the gate is missed: {remedy}" if remedy else "",
        f"Source: {told.source}" if told.source else "",
        f"Blind spots: {told.blind_spots}" if told.blind_spots else "",
        f"Asked for by: {', '.join(told.controls)}" if told.controls else "",
    ]
    text = clean("\n\n".join(line for line in help_lines if line))
    rule: dict[str, Any] = {
        "id": name,
        "name": "".join(class_name(part) for part in name.replace("/", ".").split(".")),
        "shortDescription": {"text": clean(f"{title[:1].upper()}{title[1:]}.")},
        "fullDescription": {"text": clean(told.summary or f"{title}, measured by {finding.check}.")},
        "help": {"text": text},
        "defaultConfiguration": {"level": _LEVELS[finding.severity]},
        "properties": {"tags": [finding.check.split(".")[0], "machine-learning"]},
    }
    return rule


def _message(finding: Finding) -> str:
    part = f" ({part_of(finding)})" if finding.dims else ""
    lines = [f"{STATUS[finding.status].word}: {finding.title or finding.check}{part}: {finding.message}."]
    lines += [f"Caution: {caution}." for caution in finding.cautions]
    if finding.remedy:
        lines.append(f"What to do: {finding.remedy}")
    return " ".join(lines)


def _properties(finding: Finding) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "status": str(finding.status),
        "severity": str(finding.severity),
        "model": finding.model,
        "seed": finding.seed,
        "evidence": [ref.path for ref in finding.evidence],
    }
    if finding.required:
        facts["required"] = finding.required
    if finding.dims:
        facts["part"] = dict(finding.dims)
    if finding.estimate is not None:
        facts |= {"measured": value_of(finding), "n": n_of(finding), "level": level_of(finding)}
        if interval := interval_of(finding):
            facts["interval"] = interval
    if finding.threat_model is not None:
        facts["threatModel"] = finding.threat_model.model_dump(mode="json", exclude_none=True)
    return facts


def _moment(value: Any) -> str | None:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    utc = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return utc.strftime("%Y-%m-%dT%H:%M:%SZ")
