"""The report for programs: everything that judging concluded, and what the run says nothing about. Its schema is published."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from audit import __version__
from audit.finding import EvidenceRef, Finding, Record, canonical_json
from audit.parameters import UserError
from audit.report import Renderer
from audit.report._coverage import Gap
from audit.report._view import RunView
from audit.run_folder import Recorded, Run

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class VerdictRecord(Record):
    """What the run comes to."""

    word: Literal["pass", "fail", "error", "inconclusive", "explored", "interrupted", "running", "damaged"]
    sentence: str
    exit_code: int | None
    """Of ``audit run``: 0 pass or explored, 1 fail, 3 error or damaged, 4 inconclusive, 130 interrupted; null while running."""
    counts: dict[str, int]
    """Findings by status."""


class StepRecord(Record):
    """One check on one model in one cell of its matrix."""

    name: str
    outcome: Literal["completed", "error", "not_applicable", "unfinished"]
    seconds: float | None


class EvidenceRecord(Record):
    """One piece of stored evidence."""

    path: str
    """Relative to the run folder."""
    kind: str
    step: str
    rows: int | None
    """null where it cannot be read; see `problem`."""
    problem: str = ""


class ReportRecord(Record):
    """A stored run."""

    format: Literal["assay-report"] = "assay-report"
    version: Literal[1] = 1
    """Of this format; it grows when a field changes its meaning or goes."""
    written_by: str
    """Version of the program that wrote the report; the run's own is ``run.audit``."""
    name: str
    """The run folder's name."""
    state: Literal["running", "interrupted", "finished"]
    scenario: str
    verdict: VerdictRecord
    problems: tuple[str, ...]
    """Damage found in the run folder, one line each."""
    findings: tuple[Finding, ...]
    """One per gate, ungated number and step that could not be judged."""
    unjudged: tuple[Recorded, ...]
    """What an unfinished run measured before it ended; empty once it is judged."""
    not_tested: tuple[Gap, ...]
    steps: tuple[StepRecord, ...]
    evidence: tuple[EvidenceRecord, ...]
    models: dict[str, dict[str, Any]]
    """By reference: digest, task, classes, input spec, capabilities and, of registered models, version and files."""
    data: dict[str, Any]
    """Source, parameters, digest, rows, protected attributes, notes."""
    run: dict[str, Any]
    """The rest of the manifest: when, seed, threads, platform, package versions."""
    seconds: float | None
    scenario_text: str = Field(description="The scenario as it was run, overrides included.")


def schema() -> dict[str, Any]:
    """The JSON Schema of this report (draft 2020-12)."""
    found = ReportRecord.model_json_schema(mode="serialization")
    return {"$schema": DIALECT, **found, "title": "assay report"}


class Json(Renderer):
    """Canonical JSON: keys sorted, no spaces, a newline at the end."""

    name: ClassVar[str] = "json"
    suffix: ClassVar[str] = "json"

    def render(self, run: Run) -> str:
        """The run as one JSON object; see `schema`."""
        return canonical_json(document(RunView(run)).model_dump(mode="json")) + "\n"


def document(view: RunView) -> ReportRecord:
    """The report as a record."""
    apart = ("models", "data", "state", "steps", "verdict", "scenario")
    evidence = tuple(_evidence(view, ref, step) for ref, step in view.evidence)
    total = view.timings.get("total")
    return ReportRecord(
        written_by=__version__,
        name=view.run.name,
        state=view.state,
        scenario=view.title,
        verdict=VerdictRecord(
            word=view.verdict.word,  # type: ignore[arg-type]
            sentence=view.verdict.sentence,
            exit_code=view.verdict.exit_code,
            counts=dict(view.verdict.counts),
        ),
        problems=tuple(view.problems),
        findings=view.findings,
        unjudged=tuple(view.unjudged),
        not_tested=view.not_tested,
        steps=tuple(
            StepRecord(name=step, outcome=view.outcome(step), seconds=view.seconds(step))  # type: ignore[arg-type]
            for step in view.planned
        ),
        evidence=evidence,
        models=view.models,
        data=view.data,
        run={key: value for key, value in view.manifest.items() if key not in apart},
        seconds=float(total) if isinstance(total, (int, float)) else None,
        scenario_text=view.scenario_text,
    )


def _evidence(view: RunView, ref: EvidenceRef, step: str) -> EvidenceRecord:
    try:
        rows, problem = len(view.run.evidence(ref)), ""
    except UserError as error:
        rows, problem = None, view.problem(str(error))
    return EvidenceRecord(path=ref.path, kind=ref.kind, step=step, rows=rows, problem=problem)
