"""The course of a model's gated numbers over its versions: one small chart per gate, the threshold in it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

import streamlit as st

from audit.finding import Finding, Status
from audit.language import spoken
from audit.numbers import show as number
from audit.report._words import STATUS, by_weight, gate_of, interval_of
from dashboard import links
from dashboard.drawing import theme
from dashboard.parts import gates
from dashboard.reading import stored
from dashboard.reading.stored import RunSummary
from dashboard.words import _, status_sign

CHARTS = 12
"""Gates that are drawn, those that explain the newest verdict first."""
RUNS = 24
"""Newest versions that are drawn."""
ACROSS = 3
HEIGHT = 260
TITLE, SUBTITLE = 38, 50
"""Characters on a line above a chart, on the narrowest page."""
PADDING = {"left": 4, "top": 8, "right": 12, "bottom": 4}

SHAPES = {
    Status.PASS: "circle",
    Status.FAIL: "cross",
    Status.INCONCLUSIVE: "triangle-up",
    Status.VOID: "diamond",
    Status.WAIVED: "triangle-down",
}
"""Of the statuses that a measured gate can have; a sign stands above each point too."""

Course = list[tuple[str, RunSummary, Finding]]
"""Version, run and finding of one gate, the oldest version first."""


def show(found: Sequence[RunSummary]) -> None:
    """Draw the course of one model under one scenario."""
    finished = [summary for summary in found if summary.counts and not summary.problem and len(summary.models) == 1]
    pairs: dict[str, list[RunSummary]] = {}
    for summary in finished:
        pairs.setdefault(f"{summary.models[0].name} · {summary.scenario}", []).append(summary)
    if not pairs:
        return
    st.subheader(_("Course over versions"))
    longest = max(pairs, key=lambda pair: len({_version(summary) for summary in pairs[pair]}))
    chosen = links.select("course", _("Model and scenario"), list(pairs), default=longest)
    runs = _newest_per_version(pairs[str(chosen)])
    courses = _courses(runs)
    if not courses:
        st.info(_("Nothing is gated in these runs."))
        return
    columns = st.columns(ACROSS)
    for i, (name, points) in enumerate(list(courses.items())[:CHARTS]):
        with columns[i % ACROSS]:
            st.vega_lite_chart(_spec(name, points), width="stretch", key=f"course-{i}")
    st.caption(_good(len(runs), len(courses)))
    st.caption(" · ".join(status_sign(status) for status in SHAPES))


def _good(runs: int, gates: int) -> str:
    told = _(
        "Good: every interval lies beyond the dashed threshold, on the side that the gate requires, version after version."
    )
    if runs == 1:
        told += " " + _("Only one version was audited under this scenario so far.")
    if gates > CHARTS:
        told += " " + _("{n} of {all} gates are drawn.").format(n=CHARTS, all=gates)
    return told


def _newest_per_version(found: Sequence[RunSummary]) -> list[RunSummary]:
    """The newest run of each version, the oldest version first; `found` has the newest run first."""
    newest: dict[str, RunSummary] = {}
    for summary in found:
        newest.setdefault(_version(summary), summary)
    return list(newest.values())[:RUNS][::-1]


def _version(summary: RunSummary) -> str:
    model = summary.models[0]
    return f"@{model.version}" if model.version is not None else model.digest[:8]


def _courses(runs: Sequence[RunSummary]) -> dict[str, Course]:
    found: dict[str, Course] = {}
    titles: dict[str, str] = {}
    for summary in reversed(runs):
        for finding in sorted(stored.gates(summary), key=by_weight):
            if finding.estimate is None or gate_of(finding) is None:
                continue
            titles.setdefault(finding.fingerprint, _title(finding))
            found.setdefault(finding.fingerprint, []).insert(0, (_version(summary), summary, finding))
    return {titles[key]: points for key, points in found.items()}


def _title(finding: Finding) -> str:
    return f"{gates.named(finding)}\n{finding.step}"


def _spec(name: str, points: Course) -> dict[str, Any]:
    """The drawing of one gate: all gates have the same, and only what stands in it differs."""
    last = points[-1][2]
    gate = gate_of(last)
    title, step = name.split("\n")
    label = textwrap.wrap(f"{_(last.title or last.metric or last.check)}{f' ({last.unit})' if last.unit else ''}", 22)
    drawn = deepcopy(_drawing(theme.mode(), spoken()))
    drawn["title"] = {
        "text": textwrap.wrap(title, TITLE),
        "subtitleColor": theme.colours(theme.mode())["soft"],
        "subtitle": [*textwrap.wrap(step, SUBTITLE), _("required {gate}").format(gate=last.required)],
    }
    for layer in drawn["layer"]:
        layer["encoding"]["y"]["title"] = label
    return drawn | {
        "datasets": {
            "points": [_point(version, summary, finding) for version, summary, finding in points],
            "gate": [{"value": gate.threshold}] if gate is not None and not gate.baseline else [],
        }
    }


@lru_cache(maxsize=4)
def _drawing(mode: theme.Mode, language: str) -> dict[str, Any]:
    """The drawing without data, in these looks and this language; making it takes longer than filling it."""
    import altair as alt

    palette = theme.colours(mode)
    statuses = [str(status) for status in SHAPES]
    x = alt.X(
        "version:N", sort=None, title=_("version"), axis=alt.Axis(labelAngle=0, labelOverlap=True, labelFlush=False)
    )
    y = alt.Y("value:Q", scale=alt.Scale(zero=False), axis=alt.Axis(format=".4~g"))
    color = alt.Color("tone:N", scale=alt.Scale(domain=statuses, range=[palette[s] for s in statuses]), legend=None)
    shape = alt.Shape("tone:N", scale=alt.Scale(domain=statuses, range=list(SHAPES.values())), legend=None)
    tips = [
        alt.Tooltip("version:N", title=_("version")),
        alt.Tooltip("shown:N", title=_("measured")),
        alt.Tooltip("interval:N", title=_("95 % interval")),
        alt.Tooltip("required:N", title=_("required")),
        alt.Tooltip("status:N", title=_("status")),
        alt.Tooltip("run:N", title=_("run")),
    ]
    points = alt.Chart(alt.NamedData("points"))
    soft = alt.value(palette["soft"])
    return alt.layer(
        alt.Chart(alt.NamedData("gate")).mark_rule(strokeDash=[5, 3]).encode(y=y, color=alt.value(palette["ink"])),
        points.mark_rule(strokeWidth=2.5).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=soft),
        points.mark_line(strokeWidth=1.2).encode(x=x, y=y, color=soft),
        points.mark_point(filled=True, size=90, opacity=1).encode(x=x, y=y, color=color, shape=shape, tooltip=tips),
        points.mark_text(dy=-14, fontSize=12).encode(x=x, y=alt.Y("high:Q"), text="sign:N", color=color),
    ).properties(height=HEIGHT, padding=PADDING).to_dict()  # fmt: skip


def _point(version: str, summary: RunSummary, finding: Finding) -> dict[str, Any]:
    estimate = finding.estimate
    value = estimate.value if estimate is not None else None
    gate = gate_of(finding)
    low, high = finding.interval if finding.interval and not (gate and gate.baseline) else (value, value)
    return {
        "version": version,
        "value": value,
        "low": value if low is None else low,
        "high": value if high is None else high,
        "shown": number(value),
        "interval": interval_of(finding) or "–",
        "required": finding.required,
        "status": status_sign(finding.status),
        "sign": STATUS[finding.status].icon,
        "tone": str(finding.status),
        "run": summary.name,
    }
