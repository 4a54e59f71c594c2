"""One finding, opened: what it means, what to do, the adversary, the parameters, the seed, and the evidence."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import streamlit as st

from audit.finding import Bound, Finding
from audit.report._about import about
from audit.report._told import told
from audit.report._view import RunView
from audit.report._words import interval_of, level_of, meaning_of, n_of, plain_value, threat_rows, value_of
from dashboard import links
from dashboard.parts import exhibits, gates
from dashboard.words import _, severity_word, status_sign

Fact = tuple[str, str]
PAGES = {"explanation": "saliency", "robustness": "attacks", "privacy": "privacy"}
"""Families of checks that have a page of their own."""
SEEN = "_finding_seen"
"""Where a session keeps which finding was brought into sight last."""
SCROLL = "<script>document.querySelector('h3.opened')?.scrollIntoView({behavior: 'smooth'})</script>"


def show(view: RunView, finding: Finding) -> None:
    """Draw a finding with everything that stands behind it, and bring it into sight where it is another than before."""
    st.html(
        f'<h3 class="opened"><span class="tone {finding.status}">{escape(status_sign(finding.status))}</span> '
        f"{escape(gates.named(finding))}</h3><p>{escape(told(finding.message))}</p>{_drawn(finding)}"
    )
    _ways_on(view, finding)
    left, right = st.columns([3, 2], gap="large")
    with left:
        parameters = [(name, plain_value(value)) for name, value in finding.params.items()]
        st.html(_explained(finding) + facts(_("Parameters"), parameters))
    with right:
        st.html(facts(_("Judged"), _judged(finding)) + facts(_("Threat model"), _threat(finding)))
    st.html(f"<h4>{escape(_('Evidence'))}</h4>")
    if not finding.evidence:
        st.caption(_("None is stored for this finding."))
    for ref in finding.evidence:
        if ref.kind not in exhibits.PAGES:
            exhibits.exhibit(view, ref, key=f"exhibit-{finding.id}-{ref.path}")
    _bring_into_sight(view, finding)


def _drawn(finding: Finding) -> str:
    picture = gates.drawn(finding)
    return f'<img class="gate" src="{picture}" alt="">' if picture else ""


def _ways_on(view: RunView, finding: Finding) -> None:
    """Links to the samples, maps and attacks behind a finding: what is stored of them, else the page of its family."""
    with st.container(horizontal=True):
        stored = [ref for ref in finding.evidence if ref.kind in exhibits.PAGES]
        for ref in stored:
            exhibits.exhibit(view, ref, key=f"exhibit-{finding.id}-{ref.path}")
        page = PAGES.get(finding.check.split(".")[0])
        if page and not stored and links.offered(page):
            links.link(_page_name(page), page, icon=":material/arrow_forward:", run=view.run.name)


def _page_name(page: str) -> str:
    return {
        "saliency": _("Samples and maps of this run"),
        "attacks": _("Attacks of this run"),
        "privacy": _("Privacy of this run"),
    }[page]


def _bring_into_sight(view: RunView, finding: Finding) -> None:
    """Scroll to what has just been opened: it stands below the table that the reader clicked in."""
    shown = f"{view.run.name}/{finding.id}"
    if st.session_state.get(SEEN) != shown:
        st.session_state[SEEN] = shown
        st.html(SCROLL, unsafe_allow_javascript=True)


def _threat(finding: Finding) -> list[Fact]:
    if finding.threat_model is None:
        return [(_("adversary"), _("none: nothing here is attacked"))]
    return [(_(what), value) for what, value in threat_rows(finding.threat_model)]


def _explained(finding: Finding) -> str:
    known = about(finding.check)
    blind = _(known.blind_spots)
    lines = [
        (_("What it means"), " ".join(part for part in (meaning_of(finding), _(known.summary)) if part)),
        *((_("Caution"), told(caution)) for caution in finding.cautions),
        (_("What to do"), told(finding.remedy) or _(known.remedy) if finding.status not in ("pass", "info") else ""),
        (_("Waiver"), _waiver(finding)),
        (_("What it cannot see"), blind[:1].upper() + blind[1:]),
        (_("Source"), known.source),
        (_("Asked for by"), _(", ").join(known.controls)),
    ]
    return "".join(
        f"<p><b>{escape(_('{name}.').format(name=name))}</b> {escape(text)}</p>" for name, text in lines if text
    )


def _waiver(finding: Finding) -> str:
    known = finding.waiver
    return f"{known.get('reason', '')} ({known.get('owner', '')}, {known.get('expires', '')})" if known else ""


def _judged(finding: Finding) -> list[Fact]:
    measured = finding.estimate is not None
    interval = _("{level} bound") if isinstance(finding.estimate, Bound) else _("{level} interval")
    rows = [
        (_("finding"), finding.id),
        (_("check"), finding.check),
        (_("model"), finding.model),
        (_("severity"), severity_word(finding.severity)),
        (_("required"), finding.required or ""),
        (_("measured"), value_of(finding) if measured else ""),
        (interval.format(level=level_of(finding)), interval_of(finding)),
        ("n", n_of(finding) if measured else ""),
        (_("seed"), str(finding.seed)),
        (_("fingerprint"), finding.fingerprint),
    ]
    return [(name, value) for name, value in rows if value]


def facts(title: str, rows: Iterable[Fact]) -> str:
    """Names and values below a heading, as HTML."""
    body = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    return f"<h4>{escape(title)}</h4>" + (f'<dl class="facts">{body}</dl>' if body else f"<p>{escape(_('none'))}</p>")


def listed(rows: Iterable[Fact]) -> str:
    """Subjects with what is said of each, as an HTML list."""
    items = "".join(f"<li><b>{escape(name)}</b>{escape(f': {text}' if text else '')}</li>" for name, text in rows)
    return f'<ul class="listed">{items}</ul>'
