"""Gates as a table: each one's interval against its threshold on one line. A row that is chosen opens its finding."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import streamlit as st

from audit.finding import Finding, Severity
from audit.report._gate_line import HEIGHT, WIDTH, gate_line
from audit.report._told import told
from audit.report._words import gate_of, interval_of, n_of, part_of, value_of
from dashboard import links
from dashboard.drawing import theme
from dashboard.parts import choosing
from dashboard.words import _, severity_word, status_sign

ROW_HEIGHT = 66  # Streamlit breaks lines in rows higher than 64
SHOWN = 8
"""Rows that are seen without scrolling."""


def table(findings: Sequence[Finding], *, key: str, with_model: bool = False) -> None:
    """Findings as rows; choosing one writes it into the address.

    Args:
        key: of the table.
        with_model: add a column that names the model.
    """
    import pandas as pd

    rows = [_row(finding) for finding in findings]
    columns = _columns()
    chosen = choosing.row(
        theme.toned(pd.DataFrame(rows), "status", [str(finding.status) for finding in findings]),
        key=key,
        column_order=[name for name in columns if name != "model" or with_model],
        column_config=columns,
        row_height=ROW_HEIGHT,
        height=min(len(rows), SHOWN) * ROW_HEIGHT + 40,
        placeholder="",
        alt=_("Gates with their intervals"),
    )
    if chosen is not None:
        links.note(finding=findings[chosen].id)


def lined(run: str, findings: Sequence[Finding]) -> str:
    """Findings as HTML, each on a line: its status, its name, which opens it, the interval against the threshold, and the numbers."""
    return f'<div class="reasons">{"".join(_line(run, finding) for finding in findings)}</div>'


def _line(run: str, finding: Finding) -> str:
    opens = escape(links.address("run", run=run, finding=finding.id))
    name, entry = named(finding), entry_of(finding)
    where = f' <span class="entry">{escape(entry)}</span>' if entry != name else ""
    first = (
        f'<span class="tone {finding.status}">{escape(status_sign(finding.status))}</span>'
        f'<span><a href="{opens}" target="_self">{escape(name)}</a>{where}</span>'
    )
    if picture := drawn(finding):
        numbers = _("{measured}, required {required}").format(measured=said(finding), required=finding.required)
        return f'<div>{first}<img src="{picture}" alt=""><span>{escape(numbers)}</span></div>'
    return f'<div>{first}<span class="wide">{escape(told(finding.message))}</span></div>'


def key_line() -> str:
    """How to read the drawing."""
    return _(
        "Bar: 95 % interval, dot: what was measured. Tinted, from the flagged mark on: what the gate accepts. "
        "A gate passes only when the whole bar lies there."
    )


def _row(finding: Finding) -> dict[str, Any]:
    drawing = gate_line(finding)
    gate = gate_of(finding)
    return {
        "status": status_sign(finding.status),
        "gate": ", ".join(dict.fromkeys((named(finding), entry_of(finding)))),  # a table breaks lines at the blank
        "model": finding.model,
        "required": str(gate) if gate else finding.required or "–",
        "measured": ", ".join(part for part in (said(finding), _counted(finding)) if part),
        "drawn": _picture(_taller(drawing), finding) if drawing else None,
        "severity": f"{list(Severity).index(finding.severity) + 1} {severity_word(finding.severity)}",
        "check": finding.step,
    }


def _counted(finding: Finding) -> str:
    n = n_of(finding)
    return "" if n == "–" else f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}"


def named(finding: Finding) -> str:
    """What a gate is of: its metric's title, and the part of it."""
    title = _(finding.title or finding.metric or finding.check)
    return _("{title} ({part})").format(title=title, part=part_of(finding)) if finding.dims else title


def entry_of(finding: Finding) -> str:
    """The scenario's entry that a finding is of, without the cell."""
    return finding.step.split("[")[0]


def said(finding: Finding) -> str:
    """What was measured, and its interval: ``0.82 (0.77 to 0.86)``."""
    interval = interval_of(finding)
    return f"{value_of(finding)} ({interval})" if interval else value_of(finding)


def drawn(finding: Finding) -> str:
    """The interval against the threshold as a picture's address; empty where there is nothing to draw."""
    drawing = gate_line(finding)
    return _picture(drawing, finding) if drawing else ""


def _picture(drawing: str, finding: Finding) -> str:
    from dashboard.drawing import pictures  # libraries of pixels, which lists of names do without

    return pictures.svg_address(drawing, theme.gate_style(finding.status))


def _taller(drawing: str) -> str:
    """With air above and below, so that a cell as high as its row leaves the drawing its width."""
    air = ROW_HEIGHT - 8 - HEIGHT
    return drawing.replace(
        f'viewBox="0 0 {WIDTH} {HEIGHT}"', f'viewBox="0 {-air / 2:g} {WIDTH} {HEIGHT + air}"'
    ).replace(f'height="{HEIGHT}"', f'height="{HEIGHT + air}"')


def _columns() -> dict[str, Any]:
    text = st.column_config.TextColumn
    return {
        "status": text(_("Status"), width=114),
        "severity": text(_("Severity"), width=84, help=_("1 low, 2 medium, 3 high, 4 critical")),
        "gate": text(_("Gate and check"), width=222),
        "drawn": st.column_config.ImageColumn(_("Interval against gate"), width=276),
        "measured": text(_("Measured, interval"), width=172),
        "required": text(_("Required"), width=86),
        "model": text(_("Model"), width=130),
    }
