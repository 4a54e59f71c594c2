"""A scenario's form, made from the checks' own schemas. What stands in the text is what the form shows, and every change edits the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from audit.report._about import about
from audit.scenario.problems import Location, Problem
from dashboard.parts.markdown import plain
from dashboard.words import _
from dashboard.working import drafting
from dashboard.working.drafting import REMOVED, Entry, FormField, GateLine

WIDTH = 320
"""Pixels of a field: as many stand side by side as the window has room for."""
GATE = [5.0, 1.5, 2.2, 0.7]
NEW_GATE = [3.4, 2.4, 1.4, 1.7, 0.7]
LONG = 34
"""Characters of a value that takes two fields' room."""
TRUTH = {"true": True, "false": False}
_ABSENT = object()


@dataclass(frozen=True)
class Form:
    """A scenario in a form.

    Args:
        key: of its fields: another scenario has other ones.
        problems: what is wrong with the scenario, each said beside its field.
        edit: takes what changes: location → value, or `drafting.REMOVED`.
    """

    key: str
    problems: Sequence[Problem]
    edit: Callable[[Mapping[Location, Any]], None]


def scenario(form: Form, raw: Mapping[str, Any]) -> None:
    """What the scenario says beside its model and checks."""
    _boxes(form, drafting.fields_of_scenario(), raw, (), {})


def check(form: Form, entry: Entry, units: str) -> None:
    """A check's parameters, gates and the rest of its entry.

    Args:
        units: what the model's inputs are measured in, in a sentence.
    """
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(f"#### {plain(entry.check)}", width="content")
        st.button(
            _("Remove this check"), key=f"{form.key}-remove-{entry.place}", icon=":material/delete:", type="tertiary",
            on_click=form.edit, args=({entry.at: REMOVED},),
        )  # fmt: skip
    if not entry.known:
        st.info(_("This entry has no form here: mend it as YAML."))
        _said(form, entry.at)
        return
    st.caption(" ".join(filter(None, (plain(_(about(entry.check).summary)), plain(units)))))
    st.markdown(f"**{_('Parameters')}**")
    fields = drafting.fields(entry.check)
    if fields:
        _boxes(form, fields, entry.written, (*entry.at, entry.check), entry.swept)
    else:
        st.caption(_("It takes none."))
    _unplaced(form, entry)
    _gates(form, entry)
    st.markdown(f"**{_('How it is run and judged')}**")
    beside = [replace(one, default=entry.check) if one.name == "id" else one for one in drafting.fields_beside()]
    _boxes(form, beside, entry.beside, entry.at, {})


# --- parameters --------------------------------------------------------------------------------------------------


def _boxes(
    form: Form,
    fields: Sequence[FormField],
    written: Mapping[str, Any],
    at: Location,
    swept: Mapping[str, Any],
) -> None:
    """Fields side by side, each with what is wrong with it.

    Args:
        swept: those of the matrix, which stands beside `at`.
    """
    with st.container(horizontal=True, gap="small"):
        for field in fields:
            now = swept.get(field.name, written.get(field.name))
            wide = field.several or len(drafting.written(now)) > LONG
            with st.container(width=2 * WIDTH + 16 if wide else WIDTH, gap="xsmall"):
                if field.name in swept:
                    at_matrix = (*at[:-1], "matrix", field.name)
                    _line(form, field, now, at_matrix, _("one step for each of these"))
                    _said(form, at_matrix)
                else:
                    _box(form, field, now, (*at, field.name))
                _said(form, (*at, field.name))


def _box(form: Form, field: FormField, now: Any, at: Location) -> None:
    """One parameter; empty is its default."""
    fits = type(now) is int and (field.low is None or now >= field.low) and (field.high is None or now <= field.high)
    if field.several and (now is None or isinstance(now, list)):
        _several(form, field, now, at)
    elif field.options and not isinstance(now, list):
        _choice(form, field, now, at)
    elif field.whole and (now is None or fits):
        key = _key(form, at, "whole")
        _hold(key, now)
        st.number_input(
            _label(field), field.low, field.high, None, step=1, key=key, placeholder=_default(field), help=_help(field),
            on_change=_changed, args=(form, key, at, lambda value: value),
        )  # fmt: skip
    else:
        _line(form, field, now, at, _default(field))


def _several(form: Form, field: FormField, now: Any, at: Location) -> None:
    key, said = _key(form, at, "several"), drafting.items(now)
    _hold(key, said)
    st.multiselect(
        _label(field), [*field.options, *(one for one in dict.fromkeys(said) if one not in field.options)], key=key,
        placeholder=_default(field), help=_help(field), accept_new_options=field.open,
        on_change=_changed, args=(form, key, at, lambda lines: [drafting.item(line) for line in lines]),
    )  # fmt: skip


def _choice(form: Form, field: FormField, now: Any, at: Location) -> None:
    key, said = _key(form, at, "choice"), next(iter(drafting.items(now)), None)
    _hold(key, said)
    options = [*field.options, *([said] if said is not None and said not in field.options else [])]
    st.selectbox(
        _label(field), options, None, key=key, placeholder=_default(field), help=_help(field), accept_new_options=field.open,
        on_change=_changed, args=(form, key, at, lambda line: TRUTH.get(line, line) if line in TRUTH else drafting.item(line or "")),
    )  # fmt: skip


def _line(form: Form, field: FormField, now: Any, at: Location, placeholder: str) -> None:
    """Whatever can be written on a line."""
    key = _key(form, at, "line")
    _hold(key, drafting.written(now))
    st.text_input(
        _label(field), key=key, placeholder=placeholder, help=_help(field),
        on_change=_changed, args=(form, key, at, lambda line: drafting.understood(line) if line.strip() else None),
    )  # fmt: skip


def _changed(form: Form, key: str, at: Location, meant: Callable[[Any], Any]) -> None:
    """The reader has changed a field: so does the text."""
    value = st.session_state[key]
    found = None if value is None or value == [] else meant(value)
    form.edit({at: REMOVED if found is None or found == "" else found})


def _hold(key: str, value: Any) -> None:
    """Show a value; one that is shown already is not sent again, for it would undo what is being typed."""
    if st.session_state.get(key, _ABSENT) != value:
        st.session_state[key] = value


def _key(form: Form, at: Location, kind: str) -> str:
    return f"{form.key}-{kind}-{'-'.join(map(str, at))}"


def _label(field: FormField) -> str:
    return f"{field.name} \\*" if field.required else field.name


def _help(field: FormField) -> str | None:
    """What the code says of the field."""
    return plain(_(field.about)) if field.about else None


def _default(field: FormField) -> str:
    if field.required:
        return _("must be given")
    if field.default is None or field.default in ("", [], {}):
        return _("default: none")
    return _("default: {value}").format(value=drafting.written(field.default))


def _said(form: Form, at: Location) -> None:
    """What is wrong with a field, below it."""
    for problem in drafting.problems_at(form.problems, at):
        st.markdown(f":red[✗ {plain(problem.message)}]")


def _unplaced(form: Form, entry: Entry) -> None:
    """What is wrong with the entry and with none of its fields."""
    own = drafting.problems_at(form.problems, entry.at)
    places: list[Location] = [(*entry.at, entry.check, field.name) for field in drafting.fields(entry.check)]
    places += [(*entry.at, name) for name in drafting.BESIDE]
    places += [(*entry.at, "matrix", name) for name in entry.swept]
    places += [(*entry.at, "require", line.key) for line in entry.gates]
    placed = [problem for place in places for problem in drafting.problems_at(form.problems, place)]
    for problem in own:
        if problem not in placed:
            st.markdown(f":red[✗ {plain(problem.message)}]")


# --- gates and matrix --------------------------------------------------------------------------------------------


def _gates(form: Form, entry: Entry) -> None:
    known = {metric.name: metric for metric in drafting.metrics(entry.check)}
    st.markdown(f"**{_('Gates')}**")
    if not entry.gates:
        st.caption(_("Nothing is gated: what the check measures is reported, and nothing of it can fail."))
    for line in entry.gates:
        with st.container(gap="xsmall"):
            _gate(form, entry, line, _told(known.get(line.key.split("[")[0])))
            _said(form, (*entry.at, "require", line.key))
    _new_gate(form, entry, known)
    names = [*(field.name for field in drafting.fields(entry.check)), "model"]
    names += [name for name in entry.swept if name not in names]
    key = _key(form, entry.at, "swept")
    _hold(key, list(entry.swept))
    st.multiselect(
        _("Matrix: parameters of which several values are tried, one step for each combination"), names, key=key,
        placeholder=_("none"), on_change=lambda: form.edit(drafting.sweeps_edited(entry, st.session_state[key])),
    )  # fmt: skip


def _told(metric: Any) -> str:
    """What a metric is, its unit, and which way is better."""
    if metric is None:
        return ""
    better = {"higher": _("higher is better"), "lower": _("lower is better")}.get(metric.better, "")
    return " · ".join(filter(None, (_(metric.title), _(metric.unit) if metric.unit else "", better)))


def _gate(form: Form, entry: Entry, line: GateLine, told: str) -> None:
    key = _key(form, (*entry.at, line.key, line.number), "gate")
    sign, number = f"{key}-sign", f"{key}-number"

    def changed() -> None:
        said = f"{st.session_state[sign] or ''} {st.session_state[number]}".strip()
        form.edit(drafting.gates_edited(entry, line, said))

    name, compared, threshold, gone = st.columns(GATE, vertical_alignment="center", gap="small")
    name.markdown(f"**{plain(line.key)}**  \n:gray[{plain(told)}]" if told else f"**{plain(line.key)}**")
    _hold(sign, line.comparison or None)
    with compared:
        st.selectbox(
            _("Comparison of {gate}").format(gate=line.key), drafting.COMPARISONS, 0 if line.comparison else None, key=sign,
            label_visibility="collapsed", on_change=changed, placeholder="?",
        )  # fmt: skip
    _hold(number, line.threshold)
    with threshold:
        st.text_input(
            _("Threshold of {gate}").format(gate=line.key), key=number, label_visibility="collapsed", on_change=changed,
            placeholder=_("a number"),
        )  # fmt: skip
    with gone:
        st.button(
            "", key=f"{key}-gone", icon=":material/close:", type="tertiary", help=_("Take this gate out"),
            on_click=lambda: form.edit(drafting.gates_edited(entry, line, None)),
        )  # fmt: skip


def _new_gate(form: Form, entry: Entry, known: Mapping[str, Any]) -> None:
    key = _key(form, entry.at, "new-gate")
    metric, part, sign, number, lacking = (f"{key}-{name}" for name in ("metric", "part", "sign", "number", "lacking"))

    def better() -> None:
        way = (
            {"higher": ">=", "lower": "<="}.get(known[st.session_state[metric]].better)
            if st.session_state[metric]
            else None
        )
        st.session_state[sign] = way or st.session_state.get(sign) or ">="

    def add() -> None:
        of, threshold = st.session_state[metric], st.session_state[number].strip()
        st.session_state[lacking] = not (of and threshold)
        if of and threshold:
            name = f"{of}[{inner}]" if (inner := st.session_state[part].strip().strip("[]")) else of
            line = GateLine(
                name, sum(one.key == name for one in entry.gates), st.session_state[sign] or ">=", threshold
            )
            form.edit(drafting.gates_edited(entry, line, line.said))
            st.session_state.update({metric: None, part: "", number: ""})

    columns = st.columns(NEW_GATE, vertical_alignment="bottom", gap="small")
    columns[0].selectbox(
        _("Add a gate on"), list(known), None, key=metric, placeholder=_("a metric"), on_change=better,
        help="  \n".join(f"**{plain(name)}**: {plain(_told(one))}" for name, one in known.items()),
    )  # fmt: skip
    columns[1].text_input(
        _("Part of it"), key=part, placeholder=_("the whole"),
        help=plain(_("Empty gates the metric as a whole, attack=pgd or class=3 one part of it, * every part.")),
    )  # fmt: skip
    if sign not in st.session_state:
        st.session_state[sign] = ">="
    columns[2].selectbox(_("Must be"), drafting.COMPARISONS, key=sign)
    columns[3].text_input(
        _("Threshold"), key=number, placeholder="0.9",
        help=plain(_("A number such as 0.9 or 8/255, or one beside the scenario's baseline: baseline - 0.01.")),
    )  # fmt: skip
    columns[4].button(
        "", key=f"{key}-add", on_click=add, icon=":material/add:", help=_("Add the gate"), width="stretch"
    )
    if st.session_state.get(lacking):
        st.markdown(f":red[✗ {_('Choose a metric and write a number.')}]")
