"""New audit: a scenario and a model, parameters and gates in forms made from the checks' own schema, the YAML that comes of it, and the
run: started, followed, stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from audit.model import Capability
from audit.names import available
from audit.parameters import UserError
from audit.plan import Plan
from audit.registry.card import ModelCard
from audit.report._about import about
from audit.scenario.problems import Location
from dashboard import links
from dashboard.parts.markdown import plain
from dashboard.reading import registered, scenarios, stored
from dashboard.words import _, ngettext
from dashboard.working import audits, drafting
from dashboard.working.audits import Started
from dashboard.working.drafting import REMOVED, Entry, FormField

COLUMNS = 3
UPLOAD, AS_WRITTEN = "~upload", "~written"
"""Choices that are no file and no model."""
WATCHED = "_watched"
"""Audits that this session started or saw running: when one ends, its run page opens."""
SIGNS = {"starting": "…", "running": "▶", "finished": "✓", "interrupted": "■", "failed": "✗"}
ENDED = {"completed": "✓", "error": "✗", "not_applicable": "–"}
SHOWN = 8
"""Audits in the list."""


@dataclass(frozen=True)
class Source:
    """A scenario to start from.

    Args:
        key: of its widgets: another scenario has other ones.
        base: folder that its paths start from; None of one that was uploaded.
    """

    key: str
    text: str
    base: Path | None


def show() -> None:
    """Draw the page."""
    name = links.asked("audit")
    if name is not None:
        st.title(_("Audit"))
        _followed(audits.found(stored.home(), name))
        return
    st.title(_("New audit"))
    _draft()
    _list()


# --- choosing and editing ----------------------------------------------------------------------------------------


def _draft() -> None:
    cards = registered.cards(stored.home())
    columns = st.columns([3, 3, 2], vertical_alignment="bottom")
    with columns[0]:
        source = _source()
    if source is None:
        return
    try:
        entries = drafting.entries(source.text)
    except UserError as error:
        _problems(error)
        return
    with columns[1]:
        model = _model(cards, source)
    with columns[2]:
        ways = {"form": _("form"), "yaml": _("YAML")}
        way = links.select("edit", _("Edit as"), list(ways), lambda w: ways[w], segmented=True)
    text = drafting.with_whole_paths(source.text, source.base) if source.base is not None else source.text
    if model is not None:
        text = drafting.changed(text, {("model",): model})
    if way == "yaml":
        text = st.text_area(_("Scenario"), text, height=460, key=f"yaml-{source.key}-{model}")
    else:
        text = _form(text, entries, source.key)
    _judged(text, cards)


def _source() -> Source | None:
    files = scenarios.files(stored.home())
    chosen = links.select(
        "scenario", _("Scenario"), [*files, UPLOAD], lambda key: _("upload a file …") if key == UPLOAD else key,
        forgets=("model",),
    )  # fmt: skip
    if chosen is not None and chosen != UPLOAD:
        path = files[chosen]
        return Source(f"{chosen}-{path.stat().st_mtime_ns}", path.read_text(encoding="utf-8-sig"), path.parent)
    file = st.file_uploader(_("A scenario file; paths in it must be absolute"), ["yaml", "yml"], key="scenario-file")
    if file is None:
        st.caption(_("Scenario files are looked for in scenarios/ here, in the home and in its scenarios/."))
        return None
    try:
        return Source(f"upload-{file.file_id}", file.getvalue().decode("utf-8-sig"), None)
    except UnicodeDecodeError:
        st.error(_("{file} is not UTF-8 text").format(file=plain(file.name)))
        return None


def _model(cards: Sequence[ModelCard], source: Source) -> str | None:
    """The model instead of the scenario's; None for the scenario's own."""
    from audit.scenario.marked_yaml import load_yaml

    named = load_yaml(source.text, drafting.ORIGIN)[0].get("model")
    own = ", ".join(map(str, named)) if isinstance(named, list) else str(named or _("none"))
    refs = [card.ref for card in cards]
    chosen = links.select(
        "model", _("Model"), [AS_WRITTEN, *refs],
        lambda ref: _("as the scenario says: {models}").format(models=own) if ref == AS_WRITTEN else ref,
    )  # fmt: skip
    return None if chosen in (None, AS_WRITTEN) else chosen


def _form(text: str, entries: Sequence[Entry], key: str) -> str:
    """The scenario with what the reader changed in the form."""
    edits = dict(_general(text, key))
    for entry in entries:
        edits |= dict(_entry(entry, key))
    known = [name for name in available("checks") if name not in {entry.check for entry in entries}]
    added = st.multiselect(_("Add checks"), known, key=f"added-{key}", placeholder=_("none"))
    text = drafting.changed(text, edits)
    if added:
        text = drafting.changed(text, {}, added)
        more = [entry for entry in drafting.entries(text) if entry.check in added]
        text = drafting.changed(text, {place: value for entry in more for place, value in _entry(entry, key)})
    return text


def _general(text: str, key: str) -> Iterator[tuple[Location, Any]]:
    from audit.scenario.marked_yaml import load_yaml

    raw, _marks = load_yaml(text, drafting.ORIGIN)
    for column, name in zip(st.columns([2, 4, 1]), ("name", "data", "seed"), strict=True):
        with column:
            now = drafting.written(raw.get(name))
            given = st.text_input(name, now, key=f"{key}-{name}")
        if given != now:
            yield (name,), drafting.understood(given) if given.strip() else REMOVED


def _entry(entry: Entry, key: str) -> Iterator[tuple[Location, Any]]:
    """A check's form; gives what in it differs from what is written."""
    at: Location = ("checks", entry.place)
    key = f"{key}-{entry.place}-{entry.check}"
    gates = entry.beside.get("require") or {}
    told = ngettext("{n} gate", "{n} gates", len(gates)).format(n=len(gates))
    title = (
        f"{plain(entry.id)} · {told}"
        if entry.id == entry.check
        else f"{plain(entry.id)} ({plain(entry.check)}) · {told}"
    )
    with st.expander(title):
        if not st.checkbox(_("run this check"), value=True, key=f"{key}-run"):
            yield at, REMOVED
            return
        st.caption(plain(about(entry.check).summary))
        here: Location = (*at, entry.check)
        yield from _boxes(drafting.fields(entry.check), entry.written, here, key, set(entry.beside.get("matrix") or ()))
        st.markdown(f"**{_('Gates')}**")
        yield from _gates(entry, gates, (*at, "require"), key)
        st.markdown(f"**{_('Beside the parameters')}**")
        yield from _boxes(drafting.fields_beside(), entry.beside, at, key, set())


def _boxes(
    fields: Sequence[FormField], written: Mapping[str, Any], at: Location, key: str, swept: set[str]
) -> Iterator[tuple[Location, Any]]:
    """Parameters in columns; blank is the default."""
    columns = st.columns(COLUMNS)
    for number, field in enumerate(fields):
        with columns[number % COLUMNS]:
            now = written.get(field.name)
            given = _box(field, now, f"{key}-{field.name}", field.name in swept)
        if given != now:
            yield (*at, field.name), REMOVED if given is None else given


def _box(field: FormField, now: Any, key: str, swept: bool) -> Any:
    """One parameter: what it is set to, None for its default."""
    default = drafting.written(field.default) or _("none")
    told = (
        _("set in the matrix")
        if swept
        else _("must be given")
        if field.required
        else _("default: {value}").format(value=default)
    )
    label, help_ = f"{field.name} \\*" if field.required else field.name, plain(field.about) or None
    said = drafting.written(now)
    if field.options and (now is None or said in field.options):
        _start(key, said or None)
        chosen = st.selectbox(label, field.options, None, key=key, placeholder=told, help=help_)
        return (
            now if chosen == (said or None) else {"true": True, "false": False}.get(chosen, chosen) if chosen else None
        )
    if field.whole and (now is None or type(now) is int):
        _start(key, now)
        return st.number_input(label, field.low, field.high, None, step=1, key=key, placeholder=told, help=help_)
    given = st.text_input(label, said, key=key, placeholder=told, help=help_)
    return now if given == said else drafting.understood(given) if given.strip() else None


def _start(key: str, value: Any) -> None:
    """Begin with a value that the reader can clear; one that a box is made with cannot be."""
    if key not in st.session_state:
        st.session_state[key] = value


def _gates(entry: Entry, gates: Mapping[str, Any], at: Location, key: str) -> Iterator[tuple[Location, Any]]:
    """A line for every metric, for every part that is gated, and for further parts."""
    known = {metric.name: metric for metric in drafting.metrics(entry.check)}
    columns = st.columns(COLUMNS)
    for number, name in enumerate([*gates, *(name for name in known if name not in gates)]):
        metric = known.get(name.split("[")[0])
        told = ""
        if metric is not None:
            better = {"higher": _("higher is better"), "lower": _("lower is better")}.get(metric.better, "")
            told = " · ".join(filter(None, (metric.title, metric.unit, better)))
        said = _gate_line(gates.get(name))
        with columns[number % COLUMNS]:
            given = st.text_input(
                plain(name), said, key=f"{key}-gate-{name}", help=plain(told) or None, placeholder=_("no gate, such as >= 0.9")
            )  # fmt: skip
        if given != said:
            yield (*at, name), _gates_of(given) if given.strip() else REMOVED
    more = st.text_input(
        _("Further gates, on parts"), key=f"{key}-gates", placeholder='{"recall[*]": ">= 0.8"}',
    )  # fmt: skip
    if more.strip():
        found = drafting.understood(more)
        if not isinstance(found, dict):
            st.error(_("Write a mapping of parts to gates."))
            return
        for name, gate in found.items():
            yield (*at, name), gate


def _gate_line(gates: Any) -> str:
    """One gate as it is written, of several the one behind the other: ``>= 0.8; <= 0.9``."""
    return "; ".join(map(str, gates)) if isinstance(gates, list) else "" if gates is None else str(gates)


def _gates_of(line: str) -> str | list[str]:
    found = [gate.strip() for gate in line.split(";")]
    return found[0] if len(found) == 1 else found


# --- judging and starting ----------------------------------------------------------------------------------------


def _judged(text: str, cards: Sequence[ModelCard]) -> None:
    """The YAML, what is wrong with it, and the button that starts it."""
    st.subheader(_("The scenario as it will run"))
    st.code(text, language="yaml", line_numbers=True, wrap_lines=True)
    try:
        plan = drafting.plan_of(text)
    except UserError as error:
        _problems(error)
        st.button(_("Start the audit"), type="primary", disabled=True, icon=":material/play_arrow:")
        return
    gates = plan.gate_count
    counts = (
        ngettext("{n} check", "{n} checks", len(plan.scenario.checks)).format(n=len(plan.scenario.checks)),
        ngettext("{n} step", "{n} steps", len(plan.steps)).format(n=len(plan.steps)),
        ngettext("{n} gate", "{n} gates", gates).format(n=gates),
    )
    st.success(_("Valid: {counts}.").format(counts=", ".join(counts)), icon=":material/check:")
    missing = _missing(plan, cards)
    for line in missing:
        st.error(plain(line), icon=":material/error:")
    for line in _unfit(plan, cards):
        st.warning(plain(line), icon=":material/info:")
    explore = False
    if not plan.gated:
        explore = st.checkbox(_("Nothing is gated, so nothing can fail: measure only"), key="explore")
    possible = not missing and (plan.gated or explore)
    if st.button(_("Start the audit"), type="primary", disabled=not possible, icon=":material/play_arrow:"):
        one = audits.start(stored.home(), text, explore=explore)
        st.session_state.setdefault(WATCHED, set()).add(one.name)
        links.go("new_audit", audit=one.name)


def _problems(error: UserError) -> None:
    """One line per problem, as ``audit validate`` prints them."""
    st.error("  \n".join(plain(line) for line in str(error).splitlines()), icon=":material/error:")


def _missing(plan: Plan, cards: Sequence[ModelCard]) -> list[str]:
    """Models that the registry does not know."""
    if not plan.scenario.model:
        return [_("The scenario names no model: choose one.")]
    return [
        _("There is no registered model '{ref}'.").format(ref=ref)
        for ref in (*plan.scenario.model, *plan.scenario.models.values())
        if _card(cards, ref) is None
    ]


def _unfit(plan: Plan, cards: Sequence[ModelCard]) -> Iterator[str]:
    """Steps that the model offers too little for, before anything is run."""
    for step in plan.steps:
        card = _card(cards, step.model)
        if card is None:
            continue
        absent = sorted(step.check.requirements() - set(card.capabilities) - {Capability.TRAIN_DATA})
        if card.task not in step.check.tasks:
            yield _("{step} will be not applicable: it is not for {task}.").format(step=step.name, task=_(card.task))
        elif absent:
            yield _("{step} will be not applicable: the model does not offer {needed}.").format(
                step=step.name, needed=", ".join(absent)
            )


def _card(cards: Sequence[ModelCard], ref: str) -> ModelCard | None:
    name, _at, which = ref.partition("@")
    own = [card for card in cards if card.name == name]
    if not which or which == "latest":
        return max(own, key=lambda card: card.version, default=None)
    return next((card for card in own if which in (str(card.version), *card.aliases)), None)


# --- following ---------------------------------------------------------------------------------------------------


def _followed(one: Started) -> None:
    """An audit that was started: how far it is, and when it has ended its run page."""
    facts = one.facts
    st.caption(
        " · ".join(
            plain(part) for part in (facts.get("scenario"), facts.get("model"), facts.get("started"), one.name) if part
        )
    )
    watched = st.session_state.setdefault(WATCHED, set())
    if one.state == "finished" and one.name in watched:
        watched.discard(one.name)
        links.go("run", run=one.name)
    if one.alive:
        watched.add(one.name)
        st.fragment(_live, run_every=1.0)(one)
        st.caption(_("It goes on when you close this page, and when the dashboard ends."))
    else:
        _state(one)
    links.link(_("New audit"), "new_audit", icon=":material/add:")


def _live(one: Started) -> None:
    """Drawn again every second; when the audit has ended, the whole page is."""
    _state(one)
    if not one.alive:
        st.rerun(scope="app")
    cancelled = one.cancelled
    with st.container(horizontal=True):
        if not cancelled:
            st.button(_("Cancel"), key="cancel", on_click=one.stop, icon=":material/stop:")
        else:
            st.caption(_("It was told to stop, and ends when the check at hand notices."))
            st.button(
                _("End it at once"),
                key="kill",
                on_click=one.stop,
                kwargs={"at_once": True},
                icon=":material/dangerous:",
            )


def _state(one: Started) -> None:
    state = one.state
    st.subheader(f"{SIGNS[state]} {_word(state)}")
    try:
        progress = one.progress()
    except UserError as error:
        st.error(plain(error), icon=":material/broken_image:")
    else:
        done, planned = len(progress.ended), len(progress.steps)
        now = progress.current if state == "running" else None
        told = ", ".join(
            (
                _("{done} of {planned} steps").format(done=done, planned=planned),
                ngettext("{n} number", "{n} numbers", progress.measured).format(n=f"{progress.measured:,}"),
            )
        )
        st.progress(
            min(1.0, done / planned) if planned else 0.0,
            told + (_("; now {step}").format(step=plain(now)) if now else ""),
        )
        _steps(progress, now, _("waiting") if state in ("starting", "running") else _("not reached"))
    if one.run_path.exists() and state != "starting":
        links.link(_("Open the run"), "run", icon=":material/fact_check:", run=one.name)
    if log := one.log():
        with st.expander(_("What it printed"), expanded=state == "failed"):
            st.code(log, language=None)


def _steps(progress: audits.Progress, now: str | None, left: str) -> None:
    """Every step and how it ended; `left` is said of those to come."""
    import pandas as pd

    words = {"completed": _("done"), "error": _("error"), "not_applicable": _("not applicable")}
    rows = []
    for step in progress.steps:
        outcome = progress.ended.get(step)
        sign = (
            f"{ENDED[outcome.status]} {words[outcome.status]}"
            if outcome
            else f"▶ {_('running')}"
            if step == now
            else left
        )
        rows.append({"step": step, "state": sign, "said": outcome.message if outcome else ""})
    columns = {
        "step": st.column_config.TextColumn(_("Step"), width="large"),
        "state": st.column_config.TextColumn(_("State"), width="small"),
        "said": st.column_config.TextColumn(_("What it said"), width="large"),
    }
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=columns, key="steps")


def _word(state: str) -> str:
    return {
        "starting": _("starting"),
        "running": _("running"),
        "finished": _("finished"),
        "interrupted": _("interrupted"),
        "failed": _("did not start: what it printed says why"),
    }[state]


def _list() -> None:
    """Audits that were started here, those that run first."""
    every = audits.every(stored.home())
    if not every:
        return
    st.subheader(_("Audits started here"))
    for one in sorted(every, key=lambda one: not one.alive)[:SHOWN]:
        state = one.state
        label = f"{SIGNS[state]} {_word(state)} · {one.facts.get('scenario', '')} · {one.facts.get('model', '')} · {one.name}"
        links.link(label, "new_audit", audit=one.name)
