"""The verdict as a reader sees it first: a sign, a word, what decided it and by how much, and what it says nothing about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

import streamlit as st

from audit.finding import Status
from audit.report._view import RunView
from audit.report._words import STATUS
from dashboard.parts import gates
from dashboard.words import _, ngettext, status_sign

REASONS = 3
ABSENT = 4
"""Gates and adversaries that are named one by one."""
QUIET = (Status.PASS, Status.NOT_APPLICABLE)
"""Statuses of gates that explain no verdict."""


def show(view: RunView) -> None:
    """Draw the verdict of a run."""
    verdict = view.verdict
    said = verdict.said[:1].upper() + verdict.said[1:]
    st.html(
        f'<section class="verdict {verdict.status}" aria-label="{escape(_("Verdict"))}">'
        f'<div class="head"><div class="sign" aria-hidden="true">{escape(STATUS[verdict.status].icon)}</div>'
        f'<div class="said"><p class="word">{escape(_(verdict.headline))}</p>'
        f'<p class="sentence">{escape(_("{sentence}.").format(sentence=said))}</p></div>{_counts(view)}</div>'
        f"{_reasons(view)}{_absent(view)}</section>"
    )


def _reasons(view: RunView) -> str:
    loud = [finding for finding in view.gates if finding.status not in QUIET]
    if not loud:
        return ""
    more = len(loud) - REASONS
    tail = f'<p class="soft">{escape(_("… and {n} more below").format(n=more))}</p>' if more > 0 else ""
    return gates.lined(view.run.name, loud[:REASONS]) + tail


def _absent(view: RunView) -> str:
    """What the verdict says nothing about, in a sentence; the page's second part says it whole."""
    gaps = view.not_tested
    named = [
        *_first([gap.subject for gap in gaps if gap.kind in ("unfinished", "not_applicable")]),
        *_families([gap.subject for gap in gaps if gap.kind == "check"]),
        *_first([gap.subject for gap in gaps if gap.kind == "adversary"]),
    ]
    if not named:
        return ""
    return f'<p class="soft">{escape(_("Not tested: {subjects}.").format(subjects=_(", ").join(named)))}</p>'


def _first(subjects: Sequence[str]) -> list[str]:
    more = len(subjects) - ABSENT
    return [*subjects[:ABSENT], *([ngettext("{n} more", "{n} more", more).format(n=more)] if more > 0 else [])]


def _families(checks: Sequence[str]) -> list[str]:
    """Checks that did not run, counted by family."""
    counts = Counter(name.split(".")[0] for name in checks)
    return [
        ngettext("{n} check of {family}", "{n} checks of {family}", n).format(n=n, family=_(family))
        for family, n in counts.items()
    ]


def _counts(view: RunView) -> str:
    counts = view.verdict.counts
    if not counts or view.verdict.word == "damaged":
        return ""
    rows = "".join(
        f'<dt class="tone {status}">{escape(status_sign(status))}</dt><dd>{counts[status]:,}</dd>'
        for status in STATUS
        if counts.get(status)
    )
    return f'<dl class="counts">{rows}</dl>'
