"""The verdict as a reader sees it first: a sign, a word, why, and what the verdict says nothing about."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import streamlit as st

from audit.finding import Finding, Status
from audit.report._view import RunView
from audit.report._words import STATUS, part_of
from dashboard.words import _, status_sign

REASONS = 3
ABSENT = 5
QUIET = (Status.PASS, Status.NOT_APPLICABLE)
"""Statuses of gates that explain no verdict."""
UNTESTED = ("unfinished", "not_applicable", "check", "adversary")


def show(view: RunView) -> None:
    """Draw the verdict of a run."""
    verdict = view.verdict
    said = verdict.said[:1].upper() + verdict.said[1:]
    st.html(
        f'<section class="verdict {verdict.status}" aria-label="{escape(_("Verdict"))}">'
        f'<div class="sign" aria-hidden="true">{escape(STATUS[verdict.status].icon)}</div>'
        f'<div class="said"><p class="word">{escape(_(verdict.headline))}</p><p class="sentence">{escape(_("{sentence}.").format(sentence=said))}</p>'
        f"{_absent(view)}{_reasons(view.gates)}</div>{_counts(view)}</section>"
    )


def _absent(view: RunView) -> str:
    subjects = [gap.subject for gap in view.not_tested if gap.kind in UNTESTED]
    if not subjects:
        return ""
    named = ", ".join(subjects[:ABSENT])
    more = _("{named} and {n} more").format(named=named, n=len(subjects) - ABSENT) if len(subjects) > ABSENT else named
    return f'<p class="soft">{escape(_("Not tested: {subjects}.").format(subjects=more))}</p>'


def _reasons(gates: Sequence[Finding]) -> str:
    loud = [f for f in gates if f.status not in QUIET]
    if not loud:
        return ""
    lines = "".join(
        f'<li><span class="tone {f.status}">{escape(status_sign(f.status))}</span> <b>{escape(_(f.title or f.id))}</b>'
        f"{escape(f' ({part_of(f)})' if f.dims else '')}: {escape(f.message)}</li>"
        for f in loud[:REASONS]
    )
    more = len(loud) - REASONS
    tail = f'<li class="soft">{escape(_("… and {n} more below").format(n=more))}</li>' if more > 0 else ""
    return f"<ul>{lines}{tail}</ul>"


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
