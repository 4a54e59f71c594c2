"""The report for a CI summary or a merge request: GitHub-flavoured Markdown, the verdict in its first line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import ClassVar

from audit.finding import Finding, Status
from audit.numbers import show_seconds
from audit.report import Renderer
from audit.report._coverage import HEADINGS
from audit.report._view import RunView
from audit.report._words import STATUS, clean, interval_of, level_of, n_of, value_of
from audit.run_folder import Run

MAX_ROWS = 200
"""A CI summary holds a megabyte; what is left out is counted, and stands in the run folder."""
_ICONS = {
    Status.PASS: "✅",
    Status.FAIL: "❌",
    Status.INCONCLUSIVE: "❔",
    Status.VOID: "🚫",
    Status.ERROR: "⚠️",
    Status.NOT_APPLICABLE: "➖",
    Status.INFO: "ℹ️",
    Status.WAIVED: "📝",
}
_SPECIAL = re.compile(r"[\\`*{}\[\]<>|~&$#]|(?<!\w)_|_(?!\w)")
_MENTION = re.compile(r"(?<!\w)@(?=\w)")


def escape(text: object) -> str:
    """Text that Markdown shows as it is, on one line: no HTML, emphasis, table cell or mention comes of it."""
    flat = " ".join(clean(text).split())
    return _MENTION.sub("@\u200b", _SPECIAL.sub(lambda match: f"\\{match[0]}", flat))


class Markdown(Renderer):
    """Verdict, gates, what was missed and what to do, what was not tested."""

    name: ClassVar[str] = "markdown"
    suffix: ClassVar[str] = "md"

    def render(self, run: Run) -> str:
        """The run as Markdown."""
        view = RunView(run)
        lines = [
            f"## {_ICONS[view.verdict.status]} {escape(view.verdict.headline)}: {escape(view.title)}",
            "",
            f"{escape(_sentence(view.verdict.said))}",
            "",
            *_facts(view),
            *(f"- ⚠️ **damaged**: {escape(problem)}" for problem in view.problems),
            *_gates(view.gates),
            *_unjudged(view),
            *_attention(view.gates),
            *_waivers(view),
            *_not_tested(view),
            "",
        ]
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
        return text.rstrip("\n") + "\n"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _facts(view: RunView) -> list[str]:
    models = ", ".join(
        f"{escape(ref)}" + (f" ({str(facts.get('digest'))[:12]})" if facts.get("digest") else "")
        for ref, facts in view.models.items()
    )
    data = escape(view.data.get("source", "")) + (f" ({escape(view.rows)})" if view.rows else "")
    total = view.timings.get("total")
    facts = [
        ("model", models),
        ("data", data),
        ("seed", escape(view.manifest.get("seed", ""))),
        ("took", show_seconds(float(total)) if isinstance(total, (int, float)) else ""),
        ("run", escape(view.run.name)),
    ]
    return [" · ".join(f"**{name}** {text}" for name, text in facts if text), ""]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join('---' for _ in header)}|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _gates(gates: Sequence[Finding]) -> list[str]:
    if not gates:
        return []
    rows = [
        (
            f"{_ICONS[f.status]} {STATUS[f.status].word}",
            escape(f.id),
            escape(f.required or "–"),
            escape(value_of(f)),
            escape(f"{interval_of(f)} ({level_of(f)})" if interval_of(f) else "–"),
            n_of(f),
            escape(f.severity),
        )
        for f in gates[:MAX_ROWS]
    ]
    left = len(gates) - len(rows)
    more = ["", f"… and {left} more gates: `audit show`, or the JSON report."] if left > 0 else []
    header = ("status", "gate", "required", "measured", "interval", "n", "severity")
    return ["", "### Gates", "", *_table(header, rows), *more]


def _unjudged(view: RunView) -> list[str]:
    if not view.unjudged:
        return []
    named = [f"{len(view.unjudged)} numbers were measured before the run ended; none was judged."]
    return ["", "### Measured, not judged", "", *named]


def _attention(gates: Sequence[Finding]) -> list[str]:
    calm = (Status.PASS, Status.WAIVED)
    found = [f for f in gates if f.status not in calm][:MAX_ROWS]
    cautious = [f for f in gates if f.status in calm and f.cautions][:MAX_ROWS]
    if not found and not cautious:
        return []
    lines = ["", "### What needs attention", ""]
    for f in found:
        lines.append(f"- **{STATUS[f.status].word}**: {escape(f.title or f.id)} ({escape(f.id)}): {escape(f.message)}")
        lines += [f"  - caution: {escape(caution)}" for caution in f.cautions]
        if f.remedy:
            lines.append(f"  - what to do: {escape(f.remedy)}")
    for f in cautious:
        lines += [f"- **caution** on {escape(f.id)}: {escape(caution)}" for caution in f.cautions]
    return lines


def _waivers(view: RunView) -> list[str]:
    rows = [tuple(map(escape, (w.finding, w.owner, w.reason, w.expires, w.effect))) for w in view.waivers]
    header = ("finding", "owner", "reason", "until", "effect")
    return ["", "### Waivers", "", *_table(header, rows)] if rows else []


def _not_tested(view: RunView) -> list[str]:
    gaps = view.not_tested
    if not gaps:
        return []
    lines = ["", "<details>", f"<summary><b>What was not tested</b> ({len(gaps)})</summary>", ""]
    for kind, group in groupby(gaps, key=lambda gap: gap.kind):
        lines += [f"**{HEADINGS[kind]}**", ""]
        lines += [f"- {escape(gap.subject)}" + (f": {escape(gap.text)}" if gap.text else "") for gap in group]
        lines.append("")
    return [*lines, "</details>"]
