"""The course of a model's gated numbers over its versions: one small chart per gate, the threshold in it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from audit.finding import Finding
from audit.numbers import show as number
from audit.report._words import STATUS, by_weight, gate_of, interval_of, part_of
from dashboard import charts, links, stored, theme
from dashboard.stored import RunSummary
from dashboard.words import _, status_sign

if TYPE_CHECKING:
    import altair as alt

CHARTS = 12
"""Gates that are drawn, those that explain the newest verdict first."""
RUNS = 24
"""Newest versions that are drawn."""
ACROSS = 3
WIDTH, HEIGHT = 330, 290
PADDING = {"left": 4, "top": 8, "right": 12, "bottom": 4}

Course = list[tuple[str, RunSummary, Finding]]
"""Version, run and finding of one gate, the oldest version first."""


def show(found: Sequence[RunSummary]) -> None:
    """Draw the course of one model under one scenario."""
    finished = [summary for summary in found if summary.counts and not summary.problem and len(summary.models) == 1]
    pairs = list(dict.fromkeys(f"{summary.models[0].name} · {summary.scenario}" for summary in finished))
    if not pairs:
        return
    st.subheader(_("Course over versions"))
    chosen = links.select("course", _("Model and scenario"), pairs)
    runs = _newest_per_version([s for s in finished if f"{s.models[0].name} · {s.scenario}" == chosen])
    courses = _courses(runs)
    if not courses:
        st.info(_("Nothing is gated in these runs."))
        return
    columns = st.columns(ACROSS)
    for i, (name, points) in enumerate(list(courses.items())[:CHARTS]):
        with columns[i % ACROSS]:
            st.altair_chart(_chart(name, points), width="stretch", key=f"course-{i}")
    st.caption(_good(len(runs), len(courses)))


def _good(runs: int, gates: int) -> str:
    told = _("Good: every interval lies beyond the dashed threshold, on the side that the gate requires, version after version.")
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
    part = f" ({part_of(finding)})" if finding.dims else ""
    return f"{finding.title or finding.check}{part}\n{finding.step}"


def _chart(name: str, points: Course) -> alt.LayerChart:
    import altair as alt
    import pandas as pd

    frame = pd.DataFrame([_point(version, summary, finding) for version, summary, finding in points])
    palette = theme.colours(theme.mode())
    last = points[-1][2]
    gate = gate_of(last)
    tones = dict(zip(frame["status"], frame["tone"], strict=True))  # a sign and a word -> its status
    order = [str(status) for status in STATUS]
    shown = {
        "color": alt.Scale(domain=list(tones), range=[palette[tone] for tone in tones.values()]),
        "shape": alt.Scale(domain=list(tones), range=[charts.SHAPES[order.index(tone) % 6] for tone in tones.values()]),
    }
    legend = alt.Legend(title=None, orient="bottom")
    x = alt.X("version:N", sort=None, title=_("version"), axis=alt.Axis(labelAngle=0))
    unit = f" ({last.unit})" if last.unit else ""
    named = f"{last.title or last.metric}{unit}"
    label = textwrap.wrap(named, 22)
    y = alt.Y("value:Q", title=label, scale=alt.Scale(zero=False), axis=alt.Axis(format=".4~g"))
    tips = [
        alt.Tooltip("version:N", title=_("version")),
        alt.Tooltip("shown:N", title=_("measured")),
        alt.Tooltip("interval:N", title=_("95 % interval")),
        alt.Tooltip("required:N", title=_("required")),
        alt.Tooltip("status:N", title=_("status")),
        alt.Tooltip("run:N", title=_("run")),
    ]
    base = alt.Chart(frame)
    layers: list[Any] = [
        base.mark_rule(strokeWidth=2.5).encode(
            x=x, y=alt.Y("low:Q", title=label), y2="high:Q", color=alt.value(palette["soft"])
        ),
        base.mark_line(strokeWidth=1.2).encode(x=x, y=y, color=alt.value(palette["soft"])),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x=x,
            y=y,
            color=alt.Color("status:N", scale=shown["color"], legend=legend),
            shape=alt.Shape("status:N", scale=shown["shape"], legend=legend),
            tooltip=tips,
        ),
    ]
    if gate is not None and not gate.baseline:
        threshold = alt.Chart(pd.DataFrame({"value": [gate.threshold]}))
        layers.insert(
            0,
            threshold.mark_rule(strokeDash=[5, 3]).encode(
                y=alt.Y("value:Q", title=label), color=alt.value(palette["ink"])
            ),
        )
    title, step = name.split("\n")
    heading = alt.Title(title, subtitle=[step, _("required {gate}").format(gate=last.required)], limit=WIDTH)
    return alt.layer(*layers).properties(title=heading, height=HEIGHT, padding=PADDING)


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
        "tone": str(finding.status),
        "run": summary.name,
    }
