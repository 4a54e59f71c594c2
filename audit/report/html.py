"""The report for people: one HTML file that needs nothing else, the verdict first. Its looks are in ``templates/``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from audit import __version__
from audit.finding import Finding, Status
from audit.language import gettext as _
from audit.language import ngettext, spoken
from audit.numbers import show_seconds
from audit.report import Renderer
from audit.report import _words as words
from audit.report._about import about
from audit.report._coverage import HEADINGS
from audit.report._evidence import KINDS, Block, blocks
from audit.report._gate_line import gate_line
from audit.report._measured import MAX_ROWS, cell_of, grids, lines
from audit.report._sweeps import sweeps
from audit.report._told import told
from audit.report._view import RunView
from audit.run_folder import Run

TEMPLATES = Path(__file__).parent / "templates"
MAX_GATES = 40
"""Passed gates beyond so many rows fold away."""


class Html(Renderer):
    """Self-contained: no script, no address outside the file, pictures inside; light, dark and print."""

    name: ClassVar[str] = "html"
    suffix: ClassVar[str] = "html"
    translated: ClassVar[bool] = True

    def render(self, run: Run) -> str:
        """The run as an HTML page."""
        view = RunView(run)
        evidence = blocks(view)
        template = environment().get_template("report.html.j2")
        text: str = template.render(
            view=view,
            evidence=evidence,
            by_step=_by_step(evidence),
            places={finding.id: f"finding-{i}" for i, finding in enumerate(view.gates, 1)},
            anchors={block.path: block for block in evidence},
            gates=_folded(view.gates),
            gaps=_grouped(view),
            steps=[_step(view, step) for step in view.planned],
            lines=lines(view),
            grids=grids(view),
            sweeps=sweeps(view),
            facts=facts(view),
            version=__version__,
        )
        return text.rstrip("\n") + "\n"


@cache
def environment() -> Any:
    """What pages are rendered in: everything escaped, nothing undefined let through."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return value if isinstance(value, Markup) or not isinstance(value, str) else words.clean(value)

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        _=_,
        ngettext=ngettext,
        language=lambda: spoken().replace("_", "-"),
        told=told,
        words=words,
        STATUS=words.STATUS,
        KINDS=KINDS,
        Status=Status,
        about=about,
        cell_of=cell_of,
        css=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        gate_line=lambda finding: Markup(gate_line(finding)),
        drawing=Markup,
        seconds=show_seconds,
        max_rows=MAX_ROWS,
    )
    return environment


def _folded(gates: list[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Gates to show, and passed ones to fold away where there are many."""
    if len(gates) <= MAX_GATES:
        return gates, []
    loud = [f for f in gates if f.status is not Status.PASS]
    passed = [f for f in gates if f.status is Status.PASS]
    room = max(0, MAX_GATES - len(loud))
    return loud + passed[:room], passed[room:]


def _by_step(evidence: list[Block]) -> dict[str, list[Block]]:
    found: dict[str, list[Block]] = {}
    for block in evidence:
        found.setdefault(block.step, []).append(block)
    return found


def _grouped(view: RunView) -> list[tuple[str, list[Any]]]:
    found = [(_(heading), [g for g in view.not_tested if g.kind == kind]) for kind, heading in HEADINGS.items()]
    return [(heading, group) for heading, group in found if group]


def _step(view: RunView, step: str) -> dict[str, Any]:
    """What one planned step did: its parameters as they were, how many numbers it gave, how it ended."""
    findings = [f for f in view.findings if f.step == step]
    records = [r for r in view.recorded if r.step == step]
    params = findings[0].params if findings else {}
    seconds = view.seconds(step)
    return {
        "name": step,
        "check": findings[0].check if findings else records[0].check if records else "",
        "model": findings[0].model if findings else records[0].model if records else "",
        "params": {key: words.plain_value(value) for key, value in params.items() if value not in (None, "", [], {})},
        "numbers": sum(r.measurement is not None for r in records),
        "outcome": _(view.outcome(step).replace("_", " ")),
        "seconds": show_seconds(seconds) if seconds is not None else "–",
    }


def facts(view: RunView) -> dict[str, list[tuple[str, str]]]:
    """What was audited, with what, when: (name, value) rows below headings."""
    found: dict[str, list[tuple[str, str]]] = {}
    for ref, facts in view.models.items():
        spec = words.mapping(facts.get("spec"))
        found[_("Model {name}").format(name=ref)] = _rows(
            {
                _("digest"): facts.get("digest"),
                _("task"): _(str(facts.get("task") or "")),
                _("output"): _(str(facts.get("output") or "")),
                _("classes"): _some(facts.get("classes")),
                _("input"): _input(spec),
                _("preprocessing inside the model"): spec.get("preprocessing"),
                _("capabilities"): [_(str(name)) for name in facts.get("capabilities") or ()],
                _("loader"): facts.get("loader"),
                _("files"): facts.get("files"),
                _("source"): facts.get("source"),
                _("added"): " ".join(str(facts.get(key) or "") for key in ("added_at", "added_by")).strip(),
                _("tags"): facts.get("tags"),
                _("training rows known by"): facts.get("members"),
            }
        )
    data = view.data
    found[_("Data")] = _rows(
        {
            _("source"): data.get("source"),
            _("parameters"): data.get("parameters"),
            _("digest"): data.get("digest"),
            _("rows"): view.rows,
            _("groups"): data.get("groups"),
            _("notes"): [told(str(note)) for note in data.get("notes") or ()],
            _("classes"): _some(data.get("classes")),
        }
    )
    manifest = view.manifest
    total = view.timings.get("total")
    found[_("Run")] = _rows(
        {
            _("run"): view.run.name,
            _("started"): manifest.get("started"),
            _("ended"): manifest.get("ended"),
            _("took"): show_seconds(float(total)) if isinstance(total, (int, float)) else None,
            _("scenario file"): manifest.get("origin"),
            _("scenario SHA-256"): manifest.get("scenario_sha256"),
            _("seed"): str(manifest.get("seed", "")),
            _("threads"): manifest.get("threads"),
            _("fails from severity"): manifest.get("fail_on"),
            _("audit version"): manifest.get("audit"),
            _("platform"): manifest.get("platform"),
        }
    )
    found[_("Packages")] = _rows(words.mapping(manifest.get("packages")))
    return {heading: rows for heading, rows in found.items() if rows}


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, words.plain_value(value)) for key, value in facts.items() if value not in (None, "", [], {})]


def _some(values: Any, cap: int = 20) -> Any:
    """The first of many values, and how many more."""
    if not isinstance(values, list) or len(values) <= cap:
        return values
    return [*values[:cap], _("… and {n} more").format(n=f"{len(values) - cap:,}")]


def _input(spec: dict[str, Any]) -> str:
    fields = [f for f in spec.get("fields") or () if isinstance(f, dict)]
    if len(fields) != 1:
        named = _some([f"{f.get('name')} ({_(str(f.get('kind')))})" for f in fields])
        return _("table of {n} columns: {names}").format(n=len(fields), names=_(", ").join(named)) if fields else ""
    only = fields[0]
    shape = " × ".join(map(str, only.get("shape") or ()))
    bounds = only.get("bounds")
    ends = [words.plain_value(end) for end in bounds or ()]
    within = _(", ") + _("{low} to {high}").format(low=ends[0], high=ends[1]) if ends else ""
    return f"{_(str(only.get('kind')))} {shape}{within} {_(str(only.get('units') or ''))}".strip()
