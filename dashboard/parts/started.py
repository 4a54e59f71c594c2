"""Audits that were started from the dashboard: those that run with how far they are, one followed to its end, those before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

import streamlit as st

from audit.numbers import show_seconds
from audit.parameters import UserError
from audit.report._told import told
from dashboard import links
from dashboard.parts.markdown import plain
from dashboard.reading import stored
from dashboard.words import _, ngettext
from dashboard.working import audits
from dashboard.working.audits import Progress, Started

WATCHED = "_watched"
"""Audits that this session started or saw running: when one ends, its run page opens."""
SIGNS = {"starting": "…", "running": "▶", "finished": "✓", "interrupted": "■", "failed": "✗"}
TONES = {"starting": "info", "running": "info", "finished": "pass", "interrupted": "inconclusive", "failed": "error"}
ENDED = {"completed": "✓", "error": "✗", "not_applicable": "–"}
SHOWN = 8
"""Audits in the list."""
ROW = [3.2, 2.2, 2.6, 1.9, 1.4]
EVERY = 1.0
"""Seconds between two looks."""


def watch(one: Started) -> None:
    """See it land on its run page."""
    st.session_state.setdefault(WATCHED, set()).add(one.name)


def running() -> None:
    """Audits that run at this moment, with how far they are; nothing where none does."""
    found = [one for one in audits.every(stored.home()) if one.alive]
    if found:
        with st.container(border=True):
            st.fragment(_running, run_every=EVERY)(found)


def _running(found: Sequence[Started]) -> None:
    """Drawn again every second; when one has ended, the whole page is."""
    st.markdown(f"**{_('Running now')}**")
    for one in found:
        name, bar = st.columns([2, 3], vertical_alignment="center")
        with name:
            links.link(_title(one), "new_audit", icon=":material/play_circle:", audit=one.name)
        with bar:
            try:
                _bar(one, one.progress())
            except UserError as error:
                st.error(plain(error), icon=":material/broken_image:")
    if not all(one.alive for one in found):
        st.rerun(scope="app")


def earlier() -> None:
    """Audits that were started here and have ended, the newest first."""
    found = [one for one in audits.every(stored.home()) if not one.alive]
    if not found:
        return
    st.subheader(_("Audits started here"))
    titles = (_("Scenario"), _("State"), _("Model"), _("Started"), _("Took"))
    for column, title in zip(st.columns(ROW), titles, strict=True):
        column.caption(title)
    for one in found[:SHOWN]:
        cells = st.columns(ROW, vertical_alignment="center")
        with cells[0]:
            links.link(str(_fact(one, "scenario") or one.name), "new_audit", audit=one.name)
        cells[1].markdown(plain(f"{SIGNS[one.state]} {_word(one)}"))
        cells[2].markdown(plain(_fact(one, "model")))
        cells[3].markdown(plain(_when(one)))
        cells[4].markdown(plain(_took(one)))
    if len(found) > SHOWN:
        st.caption(_("The {n} newest of {all}; every run is in the overview.").format(n=SHOWN, all=len(found)))


def show(one: Started) -> None:
    """Follow one: how far it is, and when it has ended its run page."""
    st.title(_title(one))
    st.caption(_("Started {when} · {name}").format(when=plain(_when(one)), name=plain(one.name)))
    watched = st.session_state.setdefault(WATCHED, set())
    if one.state == "finished" and one.name in watched:
        watched.discard(one.name)
        links.go("run", run=one.name)
    if one.alive:
        watch(one)
        st.fragment(_live, run_every=EVERY)(one)
        st.caption(_("It goes on when you close this page, and when the dashboard ends."))
    else:
        _state(one)
    with st.container(horizontal=True):
        links.link(_("Change its scenario"), "new_audit", icon=":material/edit:", scenario=one.name)
        links.link(_("New audit"), "new_audit", icon=":material/add:")


def _live(one: Started) -> None:
    """Drawn again every second; when the audit has ended, the whole page is."""
    _state(one)
    if not one.alive:
        st.rerun(scope="app")


def _state(one: Started) -> None:
    state = one.state
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.html(
            f'<p class="{TONES[state]}" style="font-size:1.25rem;margin:0"><span class="tone">{SIGNS[state]} {escape(_word(one))}</span></p>',
            width="content",
        )
        if one.alive:
            _stop(one)
    try:
        progress = one.progress()
    except UserError as error:
        st.error(plain(error), icon=":material/broken_image:")
    else:
        _bar(one, progress)
        _steps(one, progress)
    if one.run_path.exists() and state != "starting":
        links.link(_("Open the run"), "run", icon=":material/fact_check:", run=one.name)
    log = one.log()
    with st.expander(_("What it printed"), expanded=state != "finished"):
        if log:
            st.code(log, language=None, wrap_lines=True, height=240 if log.count("\n") > 9 else "content")
        else:
            st.caption(_("Nothing yet.") if one.alive else _("Nothing."))


def _stop(one: Started) -> None:
    """Two ways to end it: as Ctrl-C would, and at once."""
    if not one.cancelled:
        st.button(_("Cancel"), key="cancel", on_click=one.stop, icon=":material/stop:")
        return
    with st.container(horizontal=True, width="content", vertical_alignment="center"):
        st.caption(_("It was told to stop, and ends when the check at hand notices."), width="content")
        st.button(
            _("End it at once"), key="kill", on_click=one.stop, kwargs={"at_once": True}, icon=":material/dangerous:"
        )


def _bar(one: Started, progress: Progress) -> None:
    """How many steps are done, for how long it has run, and what it does now."""
    planned, done = len(progress.steps), len(progress.ended)
    now, part, said = one.now(), 0.0, ""
    if one.state == "running" and progress.current is not None:
        here = now.step == progress.current
        part = min(1.0, now.done / now.total) if here and now.total else 0.0
        said = _doing(progress.current, now) if here else _("now {step}").format(step=progress.current)
    elif one.state == "starting":
        said = _("loading the model and its data")
    step = min(done + 1, planned) if one.state == "running" else done
    told = (
        _("step {n} of {planned}") if one.state == "running" else _("{n} of {planned} steps")
    ).format(n=step, planned=planned)  # fmt: skip
    numbers = ngettext("{n} number measured", "{n} numbers measured", progress.measured).format(
        n=f"{progress.measured:,}"
    )
    line = " · ".join(plain(one) for one in (told, _took(one), numbers, said) if one)
    st.progress(min(1.0, (done + part) / planned) if planned else 0.0, line)


def _doing(step: str, now: audits.Now) -> str:
    since = show_seconds(max(0.0, time.time() - now.since)) if now.since else ""
    if now.total and now.what:
        return _("{step}: {what}, {done} of {total}, for {time}").format(
            step=step, what=now.what, done=f"{now.done:,}", total=f"{now.total:,}", time=since
        )
    if now.total:
        return _("{step}: {done} of {total}, for {time}").format(
            step=step, done=f"{now.done:,}", total=f"{now.total:,}", time=since
        )
    return _("{step}, for {time}").format(step=step, time=since)


def _steps(one: Started, progress: Progress) -> None:
    """Every step, how it ended and how long it took."""
    import pandas as pd

    words = {"completed": _("done"), "error": _("error"), "not_applicable": _("not applicable")}
    state, took = one.state, one.now().took
    left = _("waiting") if state in ("starting", "running") else _("not reached")
    rows = []
    for step in progress.steps:
        outcome = progress.ended.get(step)
        here = state == "running" and step == progress.current
        sign = f"{ENDED[outcome.status]} {words[outcome.status]}" if outcome else f"▶ {_('running')}" if here else left
        seconds = show_seconds(took[step]) if step in took else "–"
        rows.append({"step": step, "state": sign, "time": seconds, "said": told(outcome.message) if outcome else ""})
    columns = {
        "step": st.column_config.TextColumn(_("Step"), width="medium"),
        "state": st.column_config.TextColumn(_("State"), width="small"),
        "time": st.column_config.TextColumn(_("Time"), width="small"),
        "said": st.column_config.TextColumn(_("What it said"), width="large"),
    }
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=columns, key="steps", height="content")


def _word(one: Started) -> str:
    if one.state == "interrupted" and one.cancelled:
        return _("cancelled")
    return {
        "starting": _("starting"),
        "running": _("running"),
        "finished": _("finished"),
        "interrupted": _("interrupted"),
        "failed": _("did not start: what it printed says why"),
    }[one.state]


def _title(one: Started) -> str:
    return _("Audit of {model}: {scenario}").format(model=_fact(one, "model"), scenario=_fact(one, "scenario"))


def _fact(one: Started, name: str) -> str:
    """How it was started; nothing where that cannot be read."""
    try:
        return str(one.facts.get(name, ""))
    except UserError:
        return ""


def _when(one: Started) -> str:
    return f"{one.started:%Y-%m-%d %H:%M} UTC" if one.started else ""


def _took(one: Started) -> str:
    return show_seconds(one.seconds) if one.seconds is not None else ""
