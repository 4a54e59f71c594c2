"""One finding, opened: what it means, what to do, the adversary, the parameters, the seed, and the evidence."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import streamlit as st

from audit.finding import Bound, Finding
from audit.report._about import about
from audit.report._view import RunView
from audit.report._words import interval_of, level_of, meaning_of, n_of, part_of, plain_value, threat_rows, value_of
from dashboard.parts import exhibits
from dashboard.words import _, severity_word, status_sign

Fact = tuple[str, str]


def show(view: RunView, finding: Finding) -> None:
    """Draw a finding with everything that stands behind it."""
    part = f" ({part_of(finding)})" if finding.dims else ""
    st.html(
        f'<h3 class="opened"><span class="tone {finding.status}">{escape(status_sign(finding.status))}</span> '
        f"{escape(_(finding.title or finding.check) + part)}</h3>"
    )
    st.html(f"<p>{escape(finding.message)}</p>")
    left, right = st.columns(2, gap="large")
    with left:
        st.html(_explained(finding))
    with right:
        st.html(facts(_("Judged"), _judged(finding)))
    left, right = st.columns(2, gap="large")
    with left:
        if finding.threat_model:
            st.html(facts(_("Threat model"), [(_(what), value) for what, value in threat_rows(finding.threat_model)]))
        else:
            st.html(facts(_("Threat model"), [(_("adversary"), _("none: nothing here is attacked"))]))
    with right:
        st.html(facts(_("Parameters"), [(name, plain_value(value)) for name, value in finding.params.items()]))
    st.html(f"<h4>{escape(_('Evidence'))}</h4>")
    if not finding.evidence:
        st.caption(_("None is stored for this finding."))
    for ref in finding.evidence:
        exhibits.exhibit(view, ref, key=f"exhibit-{finding.id}-{ref.path}")


def _explained(finding: Finding) -> str:
    told = about(finding.check)
    lines = [
        (_("What it means"), " ".join(part for part in (_(meaning_of(finding)), told.summary) if part)),
        *((_("Caution"), caution) for caution in finding.cautions),
        (_("What to do"), finding.remedy or told.remedy if finding.status not in ("pass", "info") else ""),
        (_("Waiver"), _waiver(finding)),
        (_("What it cannot see"), told.blind_spots[:1].upper() + told.blind_spots[1:]),
        (_("Source"), told.source),
        (_("Asked for by"), ", ".join(told.controls)),
    ]
    return "".join(f"<p><b>{escape(name)}.</b> {escape(text)}</p>" for name, text in lines if text)


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
