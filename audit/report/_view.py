"""A stored run as every report shows it: one reading of the folder, damage included."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from audit.finding import EvidenceRef, Finding, Severity, Status
from audit.judge.verdicts import Verdict, verdict
from audit.language import gettext as _
from audit.language import per_language
from audit.parameters import UserError
from audit.report._coverage import Gap, gaps
from audit.report._words import SEVERITIES, STATUS, VERDICTS, by_weight, clean, count, mapping
from audit.run_folder import Recorded, Run
from audit.scenario import Scenario, ScenarioFile, parse

T = TypeVar("T")


@dataclass(frozen=True)
class RunVerdict:
    """What a run comes to, unfinished and damaged runs included.

    Args:
        word: as `audit.judge.Verdict`, or ``interrupted``, ``running``, ``damaged``.
        exit_code: of ``audit run``; None while it is running.
    """

    word: str
    headline: str
    sentence: str
    exit_code: int | None
    counts: Mapping[str, int]
    status: Status
    """The status whose looks the verdict takes."""

    @classmethod
    def of(cls, word: str, sentence: str, exit_code: int | None, counts: Mapping[str, int]) -> RunVerdict:
        """A verdict with the headline and looks of its word."""
        status, headline = VERDICTS.get(word, (Status.ERROR, word))
        return cls(word, headline, sentence, exit_code, dict(counts), status)

    @property
    def said(self) -> str:
        """The sentence as it follows the headline, without saying it twice."""
        return self.sentence.removeprefix(_("no verdict: {reasons}").format(reasons=""))

    @classmethod
    def judged(cls, given: Verdict) -> RunVerdict:
        """As judging gave it."""
        return cls.of(given.word, given.sentence, given.exit_code, given.counts)


@dataclass(frozen=True)
class WaiverView:
    """A waiver and what it does in this run."""

    finding: str
    owner: str
    reason: str
    expires: str
    effect: str


class RunView:
    """A run for a reader. Everything is read once; what cannot be read becomes a line in `problems`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.problems: list[str] = []
        self.manifest: dict[str, Any] = tidy(run.manifest)
        self.state = run.state
        self.scenario_text = clean(self._read(self._scenario, ""))
        nothing: tuple[Recorded, ...] = ()
        self.recorded = self._read(lambda: run.recorded, nothing)
        timings: Any = self._read(lambda: run.timings, None)
        self.timings: dict[str, Any] = tidy(mapping(timings))
        self.findings, self.intact = self._findings()

    # --- reading ---

    def _read(self, part: Callable[[], T], otherwise: T) -> T:
        try:
            return part()
        except (UserError, ValueError, OSError) as error:
            self.problem(str(error))
            return otherwise

    def _scenario(self) -> str:
        text = self.run.scenario_text
        recorded = self.manifest.get("scenario_sha256")
        if recorded and hashlib.sha256(text.encode()).hexdigest() != recorded:
            self.problem("scenario.yaml is not the text that was run: its SHA-256 is another than the manifest's")
        return text

    def problem(self, text: str) -> str:
        """Note damage once; gives the line as noted."""
        if (line := self.local(text)) not in self.problems:
            self.problems.append(line)
        return line

    def local(self, text: str) -> str:
        """A line without the folders of this machine."""
        for folder in (str(self.run.path.resolve()), str(self.run.path)):
            text = text.replace(f"{folder}/", "").replace(folder, self.run.name)
        return clean(text)

    def _findings(self) -> tuple[tuple[Finding, ...], bool]:
        """The findings, and whether they are what the finished run stored."""
        before = len(self.problems)
        nothing: tuple[Finding, ...] = ()
        found = self._read(lambda: self.run.findings, nothing)
        intact = len(self.problems) == before
        if self.state != "finished" or not intact:
            return found, intact
        if not (self.run.path / "findings.jsonl").exists():
            self.problem("findings.jsonl is missing")
            return found, False
        stored = self.manifest.get("verdict")
        if isinstance(stored, dict) and stored.get("counts") is not None:
            now = self._judge(found)
            if dict(now.counts) != stored["counts"] or now.word != stored.get("word"):
                self.problem(
                    f"findings.jsonl does not hold what manifest.json says was concluded: {_tally(now.counts)} "
                    f"instead of {_tally(stored['counts'])}; judge the run again with 'audit judge {self.run.name} --write'"
                )
                return found, False
        return found, True

    def _judge(self, found: Sequence[Finding]) -> Verdict:
        named = self.manifest.get("fail_on")
        return verdict(found, Severity(named) if named in list(Severity) else Severity.LOW)

    @per_language
    def verdict(self) -> RunVerdict:
        """What the run comes to."""
        judged = self._judge(self.findings)
        if not self.intact:
            return RunVerdict.of("damaged", _("the findings cannot be trusted as they are stored"), 3, judged.counts)
        if self.state == "finished":
            return RunVerdict.judged(judged)
        done = len({record.step for record in self.recorded if record.outcome is not None})
        planned = len(self.planned)
        if self.state == "running":
            ended = _("{n} of {all} checks have ended") if planned else _("no check has ended")
            return RunVerdict.of("running", ended.format(n=done, all=planned), None, judged.counts)
        stopped = (
            _("the run stopped when {n} of {all} checks had ended")
            if planned
            else _("the run stopped when no check had ended")
        ).format(n=done, all=planned)
        gates = (
            sum(len(texts) for entry in self.scenario.checks for texts in entry.require.values())
            if self.scenario
            else 0
        )
        unjudged = _(", and none of its gates ({n}) was judged").format(n=gates) if gates and not self.findings else ""
        return RunVerdict.of("interrupted", stopped + unjudged, 130, judged.counts)

    # --- what is in it ---

    @property
    def title(self) -> str:
        """The scenario's name."""
        return str(self.manifest.get("scenario") or self.run.name)

    @property
    def planned(self) -> list[str]:
        """The steps that were planned, in order."""
        steps = self.manifest.get("steps")
        return [str(step) for step in steps] if isinstance(steps, list) else []

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """What is known of each model, by reference."""
        return {k: v for k, v in mapping(self.manifest.get("models")).items() if isinstance(v, dict)}

    @property
    def data(self) -> dict[str, Any]:
        """What is known of the data."""
        return mapping(self.manifest.get("data"))

    @property
    def rows(self) -> str:
        """``540 test, 1,257 train rows``; empty where that is not on record."""
        parts = [_("{n} {part}").format(n=count(n), part=_(part)) for part, n in mapping(self.data.get("rows")).items()]
        return _("{parts} rows").format(parts=_(", ").join(parts)) if parts else ""

    @cached_property
    def scenario_file(self) -> ScenarioFile | None:
        """The stored scenario with the line of everything in it; None where this version cannot read it."""
        try:
            return parse(self.scenario_text, str(self.manifest.get("origin", "scenario.yaml")))
        except UserError:
            return None

    @cached_property
    def scenario(self) -> Scenario | None:
        """The stored scenario; None where this version cannot read it."""
        try:
            return self.scenario_file.scenario if self.scenario_file else None
        except UserError:
            return None

    @cached_property
    def checks(self) -> list[str]:
        """Names of the checks that the scenario runs."""
        named = [entry.check for entry in self.scenario.checks] if self.scenario else []
        named += [record.check for record in self.recorded] + [finding.check for finding in self.findings]
        return list(dict.fromkeys(named))

    @cached_property
    def gates(self) -> list[Finding]:
        """What the verdict rests on: every gate, and every step or number that broke without one; what matters most first."""
        broken = (Status.ERROR, Status.VOID)
        return sorted((f for f in self.findings if f.gated or f.status in broken), key=by_weight)

    @cached_property
    def ungated(self) -> list[Finding]:
        """Everything else, in the scenario's order."""
        gates = {id(finding) for finding in self.gates}
        return [f for f in self.findings if id(f) not in gates]

    @property
    def by_severity(self) -> list[tuple[Severity, list[Finding]]]:
        """The gates grouped by severity, the highest first."""
        groups = [(severity, [f for f in self.gates if f.severity is severity]) for severity in SEVERITIES]
        return [(severity, found) for severity, found in groups if found]

    @cached_property
    def unjudged(self) -> list[Recorded]:
        """Measurements of a run that was never judged."""
        return [] if self.findings else [record for record in self.recorded if record.measurement is not None]

    @per_language
    def waivers(self) -> list[WaiverView]:
        """Every waiver of the scenario and what it does here, the lapsed ones included."""
        written = self.scenario.waivers if self.scenario else ()
        shown = [
            WaiverView(w.finding, w.owner, w.reason, w.expires.isoformat(), self._effect(w.finding)) for w in written
        ]
        known = {waiver.finding for waiver in shown}
        for f in self.findings:
            if f.waiver and not known & {f.id, f.id.split(" ")[0]}:
                owner, reason, expires = (f.waiver.get(key, "") for key in ("owner", "reason", "expires"))
                shown.append(WaiverView(f.id, owner, reason, expires, _("in force")))
        return shown

    def _effect(self, finding_id: str) -> str:
        found = [f for f in self.findings if finding_id in (f.id, f.id.split(" ")[0])]
        if any(f.status is Status.WAIVED for f in found):
            return _("in force")
        if any(f.status is Status.FAIL for f in found):
            return _("lapsed: the gate fails again")
        if found:
            words = sorted({_(STATUS[f.status].word) for f in found})
            return _("not used: the finding is {status}").format(status=", ".join(words))
        return _("not used: no finding has this id") if self.findings else _("nothing was judged")

    @per_language
    def not_tested(self) -> tuple[Gap, ...]:
        """What the audit says nothing about."""
        open_steps = [] if self.state == "finished" else [s for s in self.planned if self.outcome(s) == "unfinished"]
        return gaps(self.manifest, self.findings, self.checks, open_steps)

    @cached_property
    def evidence(self) -> list[tuple[EvidenceRef, str]]:
        """Every piece of evidence once, with the step it belongs to, in the order in which the steps ran."""
        found: dict[str, tuple[EvidenceRef, str]] = {}
        for step, ref in self._references():
            found.setdefault(ref.path, (ref, step))
        order = {step: i for i, step in enumerate(self.planned)}
        return sorted(found.values(), key=lambda item: order.get(item[1], len(order)))

    def _references(self) -> Iterable[tuple[str, EvidenceRef]]:
        for finding in self.findings:
            for ref in finding.evidence:
                yield finding.step, ref
        for record in self.recorded:
            for ref in record.measurement.evidence if record.measurement else ():
                yield record.step, ref

    def seconds(self, step: str) -> float | None:
        """How long a step took, where that is stored."""
        value = mapping(self.timings.get("steps")).get(step)
        return float(value) if isinstance(value, (int, float)) else None

    def outcome(self, step: str) -> str:
        """How a step ended: ``completed``, ``error``, ``not_applicable``, or ``unfinished``."""
        ended = [record.outcome.status for record in self.recorded if record.step == step and record.outcome]
        return ended[-1] if ended else "unfinished"


def _tally(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} {str(status).replace('_', ' ')}" for status, n in sorted(mapping(counts).items())) or "none"


def tidy(value: Any) -> Any:
    """Stored facts fit for any format: no control characters, no number that is none."""
    if isinstance(value, dict):
        return {clean(key): tidy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [tidy(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return clean(value) if isinstance(value, str) else value
