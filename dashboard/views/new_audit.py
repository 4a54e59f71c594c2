"""New audit: a scenario and a model, parameters and gates in forms made from the checks' own schema, the YAML that comes of it, and the
run: started, followed, stopped.

The scenario's text is the only truth: forms show it and edit it, and what was edited is kept as a draft until it is discarded.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import re
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
from audit.scenario.problems import Location, Problem, ScenarioError
from dashboard import links
from dashboard.parts import scenario_form, started
from dashboard.parts.markdown import plain
from dashboard.parts.scenario_form import Form
from dashboard.reading import registered, scenarios, stored
from dashboard.words import _, ngettext, severity_word
from dashboard.working import audits, drafting, drafts
from dashboard.working.drafting import Entry

UPLOAD, ITSELF = "~upload", "~scenario"
"""A choice that is no file, and one that is no check."""
DRAFTS, LOOKED, RESTORED, LAST, UNKEPT, UPLOADED, SAVED = (
    f"_new_audit_{name}" for name in ("drafts", "looked", "restored", "last", "unkept", "uploaded", "saved")
)
"""What a session remembers: edited texts by scenario, whose drafts it looked for, which of them it found, the scenario chosen last …"""
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.ya?ml")
SIDES = [1.0, 2.6]
MOST = 6
"""Problems in the line above the form; the rest stand beside their fields."""


@dataclass(frozen=True)
class Source:
    """A scenario to start from.

    Args:
        name: in the address, and of its draft.
        shown: as a reader knows it.
        text: as it is written, files named wherever it is stored; empty of one that was uploaded, which is a draft from the start.
    """

    name: str
    shown: str
    text: str


def show() -> None:
    """Draw the page."""
    name = links.asked("audit")
    if name is not None:
        started.show(audits.found(stored.home(), name))
        return
    st.title(_("New audit"))
    started.running()
    _draft()
    started.earlier()


def _draft() -> None:
    cards = registered.cards(stored.home())
    columns = st.columns([3, 3, 2], vertical_alignment="bottom")
    with columns[0]:
        source = _source()
    if source is None:
        return
    text = _text(source)
    raw: Mapping[str, Any] | None = None  # of a text that is no YAML
    entries: list[Entry] = []
    with contextlib.suppress(UserError):
        raw, entries = drafting.general(text), drafting.entries(text)
    if raw is not None:
        text = _as_the_address_says(source, text, raw, cards)
        with columns[1]:
            _model(source, text, cards)
    with columns[2]:
        ways = {"form": _("Form"), "yaml": "YAML"}
        way = links.select("edit", _("Edit as"), list(ways), lambda w: ways[w], segmented=True)
    _kept(source)
    plan, problems = _judged(text)
    _bar(source, text, plan, problems, cards)
    if way == "yaml":
        _yaml(source, text)
        return
    if raw is None:
        st.info(_("A form needs valid YAML: mend the text first, as YAML."))
    else:
        _form(source, text, raw, entries, problems, cards)
    st.subheader(_("The scenario as it will run"))
    st.code(text, language="yaml", line_numbers=True, wrap_lines=True)


# --- choosing ----------------------------------------------------------------------------------------------------


def _source() -> Source | None:
    files = _files()
    home = stored.home()
    if links.asked("scenario") is None:
        links.note(scenario=st.session_state.get(LAST) or drafts.newest(home, [*files, UPLOAD]))
    names = {name: name for name in files} | {UPLOAD: _("upload a file …")}
    edited = drafts.names(home) | set(st.session_state.get(DRAFTS, {}))
    chosen = links.select(
        "scenario", _("Scenario"), list(names),
        lambda name: _("{scenario} · edited").format(scenario=names[name]) if name in edited else names[name],
        forgets=("model", "check"),
    )  # fmt: skip
    st.session_state[LAST] = chosen
    if chosen is None or chosen == UPLOAD:
        return _uploaded()
    path = files[chosen]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        st.error(_("{file} is not UTF-8 text: choose another scenario.").format(file=plain(path)))
        return None
    except OSError as error:
        st.error(_("{file} cannot be read ({reason}): choose another scenario.").format(file=plain(path), reason=error.strerror))  # fmt: skip
        return None
    with contextlib.suppress(UserError):  # it is no YAML: what is wrong with it is said where it is judged
        text = drafting.with_whole_paths(text, path.parent)
    return Source(chosen, chosen, text)


def _files() -> dict[str, Path]:
    """Scenario files within reach, and the one of an audit that the address names."""
    found = scenarios.files(stored.home())
    asked = links.asked("scenario") or st.session_state.get(LAST)
    if asked is not None and asked not in found and asked != UPLOAD:
        path = stored.home() / "audits" / Path(asked).name / audits.SCENARIO
        if path.is_file():
            found = {asked: path, **found}
    return found


def _uploaded() -> Source | None:
    """A file of the reader's; it is a draft from the start, so that a reload loses nothing."""
    source = Source(UPLOAD, _("your file"), "")
    file = st.file_uploader(_("A scenario file; paths in it must be absolute"), ["yaml", "yml"], key="scenario-file")
    if file is not None and st.session_state.get(UPLOADED) != file.file_id:
        st.session_state[UPLOADED] = file.file_id
        try:
            _keep(source, file.getvalue().decode("utf-8-sig"))
        except UnicodeDecodeError:
            st.error(_("{file} is not UTF-8 text").format(file=plain(file.name)))
    if not _text(source):
        st.caption(_("Scenario files are looked for in scenarios/ here, in the home and in its scenarios/."))
        return None
    return source


def _as_the_address_says(source: Source, text: str, raw: Mapping[str, Any], cards: Sequence[ModelCard]) -> str:
    """The text with the model that the address names."""
    asked = links.asked("model")
    if asked is None or asked == _models(raw) or asked not in {card.ref for card in cards}:
        return text
    text = drafting.changed(text, {("model",): asked})
    _keep(source, text)
    return text


def _model(source: Source, text: str, cards: Sequence[ModelCard]) -> None:
    """The choice of the model; the scenario's own stands first."""
    now = drafting.general(text).get("model")
    try:
        own = drafting.general(source.text).get("model") if source.text else now
    except UserError:
        own = now
    values = {_models({"model": own}): own, **{card.ref: card.ref for card in cards}}
    values.setdefault(_models({"model": now}), now)
    first = next(iter(values))
    key = f"model-{source.name}"
    if st.session_state.get(key) != _models({"model": now}):
        st.session_state[key] = _models({"model": now})

    def changed() -> None:
        value = values[st.session_state[key]]
        _edit(source, {("model",): drafting.REMOVED if value is None else value})

    st.selectbox(
        _("Model"), list(values), key=key, on_change=changed,
        format_func=lambda ref: _("as the scenario says: {models}").format(models=ref or _("none")) if ref == first else ref,
    )  # fmt: skip


def _models(raw: Mapping[str, Any]) -> str:
    named = raw.get("model")
    return ", ".join(map(str, named)) if isinstance(named, list) else str(named or "")


# --- drafts ------------------------------------------------------------------------------------------------------


def _text(source: Source) -> str:
    """The scenario as it was edited last, in this session or before."""
    held, looked = st.session_state.setdefault(DRAFTS, {}), st.session_state.setdefault(LOOKED, set())
    if source.name not in held and source.name not in looked:
        looked.add(source.name)
        try:
            kept = drafts.kept(stored.home(), source.name)
        except UserError as error:
            st.session_state[UNKEPT] = str(error)
            kept = None
        if kept is not None and kept.text != source.text:
            held[source.name] = kept.text
            st.session_state.setdefault(RESTORED, {})[source.name] = kept.saved
    return str(held.get(source.name, source.text))


def _keep(source: Source, text: str) -> None:
    """Keep an edited text, in this session and beyond it; one that is as it was is forgotten."""
    held = st.session_state.setdefault(DRAFTS, {})
    try:
        if text == source.text:
            held.pop(source.name, None)
            drafts.discard(stored.home(), source.name)
        else:
            held[source.name] = text
            drafts.keep(stored.home(), source.name, text)
        st.session_state.pop(UNKEPT, None)
    except UserError as error:
        st.session_state[UNKEPT] = str(error)
    try:
        model, own = (_models(drafting.general(one)) if one else "" for one in (text, source.text))
        links.note(model=model if model != own and source.text else None)
    except UserError:
        pass  # it is no YAML now


def _edit(source: Source, edits: Mapping[Location, Any]) -> None:
    _keep(source, drafting.changed(_text(source), edits))


def _discard(source: Source) -> None:
    _keep(source, source.text)
    st.session_state.get(RESTORED, {}).pop(source.name, None)


def _kept(source: Source) -> None:
    """That there is a draft, and how to be rid of it."""
    if problem := st.session_state.get(UNKEPT):
        st.warning(
            _("Edits are kept in this window alone, for their file cannot be used: {reason}").format(reason=plain(problem)),
            icon=":material/warning:",
        )  # fmt: skip
    held = st.session_state.get(DRAFTS, {}).get(source.name)
    if held is None:
        return
    n, when = _changed_lines(source.text, held), st.session_state.get(RESTORED, {}).get(source.name)
    if not source.text:
        told = _("Your file is kept as a draft until you discard it.")
    elif when is not None:
        told = ngettext(
            "Your draft of {when} is restored: {n} line differs from {file}.",
            "Your draft of {when} is restored: {n} lines differ from {file}.", n,
        ).format(n=n, when=f"{when:%Y-%m-%d %H:%M} UTC", file=plain(source.shown))  # fmt: skip
    else:
        told = ngettext(
            "Edited: {n} line differs from {file}. The draft is kept until you discard it.",
            "Edited: {n} lines differ from {file}. The draft is kept until you discard it.", n,
        ).format(n=n, file=plain(source.shown))  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f":material/edit_note: {told}", width="content")
        st.button(
            _("Discard the draft"), key="discard", icon=":material/undo:", type="tertiary", on_click=_discard, args=(source,)
        )  # fmt: skip


def _changed_lines(before: str, after: str) -> int:
    codes = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in codes if tag != "equal")


# --- editing -----------------------------------------------------------------------------------------------------


def _yaml(source: Source, text: str) -> None:
    key = f"yaml-{source.name}"
    if st.session_state.get(key) != text:
        st.session_state[key] = text
    st.text_area(
        _("Scenario"), height=560, key=key, label_visibility="collapsed", on_change=lambda: _keep(source, st.session_state[key])
    )  # fmt: skip


def _form(
    source: Source,
    text: str,
    raw: Mapping[str, Any],
    entries: Sequence[Entry],
    problems: Sequence[Problem],
    cards: Sequence[ModelCard],
) -> None:
    """What is edited is chosen at the left: the scenario itself or one of its checks."""
    form = Form(f"form-{source.name}", problems, lambda edits: _edit(source, edits))
    side, main = st.columns(SIDES, gap="medium")
    with side:
        part = _part(source, entries, problems)
        _add(source, text)
    with main, st.container(border=True):
        if part == ITSELF:
            st.markdown(f"#### {_('The scenario itself')}")
            st.caption(_("What is audited and with what. Each check stands at the left."))
            scenario_form.scenario(form, raw)
        else:
            scenario_form.check(form, entries[int(part) - 1], _units(raw, cards))


def _part(source: Source, entries: Sequence[Entry], problems: Sequence[Problem]) -> str:
    """The part that the address names."""
    options = [ITSELF, *(str(number) for number in range(1, len(entries) + 1))]
    given = links.asked("check")
    current = given if given in options else ITSELF
    wrong = {str(number): bool(drafting.problems_at(problems, entry.at)) for number, entry in enumerate(entries, 1)}
    wrong[ITSELF] = any(not one.path.startswith("checks[") for one in problems)
    labels = {
        part: plain(_("The scenario itself") if part == ITSELF else entries[int(part) - 1].id) for part in options
    }
    labels = {part: f":red[✗ {label}]" if wrong[part] else label for part, label in labels.items()}
    key = f"part-{source.name}-{'-'.join(labels.values())}"  # a radio button knows what is chosen by its label
    if st.session_state.get(key) != current:
        st.session_state[key] = current
    captions = [_("name, data, seed"), *map(_caption, entries)]
    st.radio(
        _("What to edit"), options, key=key, format_func=lambda part: labels[part], captions=captions, label_visibility="collapsed",
        on_change=lambda: links.note(check=None if st.session_state[key] == ITSELF else st.session_state[key]),
    )  # fmt: skip
    return current


def _caption(entry: Entry) -> str:
    gates = len(entry.gates)
    said = ngettext("{n} gate", "{n} gates", gates).format(n=gates) if gates else _("no gate")
    severity = str(entry.beside.get("severity", "high"))
    return " · ".join(
        plain(one) for one in (entry.check if entry.id != entry.check else "", said, severity_word(severity) if gates else "") if one
    )  # fmt: skip


def _add(source: Source, text: str) -> None:
    key = f"added-{source.name}"

    def add() -> None:
        check = st.session_state[key]
        if check is not None:
            _keep(source, drafting.with_check(text, check))
            links.note(check=str(len(drafting.entries(text)) + 1))
            st.session_state[key] = None

    st.selectbox(_("Add a check"), available("checks"), None, key=key, placeholder=_("choose one"), on_change=add)


def _units(raw: Mapping[str, Any], cards: Sequence[ModelCard]) -> str:
    """In which units the model takes its inputs: those of every eps."""
    card = _card(cards, str(raw.get("model")))
    fields = card.spec.fields if card is not None else ()
    if card is None or len(fields) != 1 or fields[0].bounds is None:
        return ""
    low, high = fields[0].bounds
    return (
        _("Inputs of {model} run from {low} to {high} {units}.")
        .format(model=card.ref, low=f"{low:g}", high=f"{high:g}", units=_(fields[0].units))
        .replace(" .", ".")
    )


# --- judging and starting ----------------------------------------------------------------------------------------


def _judged(text: str) -> tuple[Plan | None, Sequence[Problem]]:
    """The plan that the text makes, or what is wrong with it."""
    try:
        return drafting.plan_of(text), ()
    except ScenarioError as error:
        return None, error.problems
    except UserError as error:
        return None, (Problem(str(error)),)


def _bar(source: Source, text: str, plan: Plan | None, problems: Sequence[Problem], cards: Sequence[ModelCard]) -> None:
    """Whether it may start, and the buttons."""
    with st.container(border=True):
        said, buttons = st.columns([3, 2], vertical_alignment="center")
        missing = _missing(plan, cards) if plan is not None else []
        explore = False
        with said:
            if plan is None:
                told = ngettext(
                    "{n} problem: mend what is marked.", "{n} problems: mend what is marked.", len(problems)
                )
                st.markdown(f":red[✗ {told.format(n=len(problems))}]")
            else:
                _counts(plan)
                if not plan.gated:
                    explore = st.checkbox(_("Nothing is gated, so nothing can fail: measure only"), key="explore")
        possible = plan is not None and not missing and (plan.gated or explore)
        with buttons, st.container(horizontal=True, horizontal_alignment="right"):
            _save(source, text)
            pressed = st.button(
                _("Start the audit"), type="primary", disabled=not possible, icon=":material/play_arrow:", key="start"
            )  # fmt: skip
        if pressed:
            _start(text, explore)
        for line in _unfit(plan, cards) if plan is not None else ():
            st.markdown(f":material/info: {plain(line)}")
    for line in missing:
        st.error(plain(line), icon=":material/error:")
    if plan is None:
        _problems(problems)


def _counts(plan: Plan) -> None:
    gates = plan.gate_count
    counts = (
        ngettext("{n} check", "{n} checks", len(plan.scenario.checks)).format(n=len(plan.scenario.checks)),
        ngettext("{n} step", "{n} steps", len(plan.steps)).format(n=len(plan.steps)),
        ngettext("{n} gate", "{n} gates", gates).format(n=gates),
    )
    st.markdown(f":green[✓] {_('Valid: {counts}.').format(counts=', '.join(counts))}")


def _problems(problems: Sequence[Problem]) -> None:
    """One line per problem, as ``audit validate`` prints them."""
    lines = [plain(f"{drafting.ORIGIN}{one}") for one in problems]
    more = len(lines) - MOST
    if more > 0:
        lines = [*lines[:MOST], ngettext("and {n} more", "and {n} more", more).format(n=more)]
    st.error("  \n".join(lines), icon=":material/error:")


def _start(text: str, explore: bool) -> None:
    try:
        one = audits.start(stored.home(), text, explore=explore)
    except UserError as error:
        st.error(plain(error), icon=":material/error:")
        return
    started.watch(one)
    links.go("new_audit", audit=one.name)


def _save(source: Source, text: str) -> None:
    """The text as a file: downloaded, or kept among the scenarios of the home."""
    with st.popover(_("Save …"), icon=":material/save:"):
        folder = stored.home() / "scenarios"
        st.download_button(
            _("Download"), text, source.name if source.name.endswith((".yaml", ".yml")) else drafting.ORIGIN, "application/yaml",
            on_click="ignore", icon=":material/download:", width="stretch",
        )  # fmt: skip
        key = f"file-{source.name}"
        if key not in st.session_state:
            st.session_state[key] = _free(source.name if source.name.endswith((".yaml", ".yml")) else drafting.ORIGIN)
        name = st.text_input(_("File name"), key=key).strip()
        taken = _taken(name)
        label = _("Replace {file}") if taken == folder / name else _("Save as {file}")
        st.button(
            label.format(file=plain(name)), key="save", on_click=_saved, args=(source, name, text), width="stretch",
            disabled=not FILE_NAME.fullmatch(name) or taken not in (None, folder / name),
        )  # fmt: skip
        if not FILE_NAME.fullmatch(name):
            st.markdown(f":red[✗ {_('Write letters, digits, dots, dashes and .yaml at the end.')}]")
        elif taken not in (None, folder / name):
            said = _("{file} is there already, and stays: choose another name.").format(file=plain(taken))
            st.markdown(f":red[✗ {said}]")
        else:
            st.caption(_("It goes to {folder}.").format(folder=plain(folder)))
    if said := st.session_state.pop(SAVED, None):
        st.toast(plain(said), icon=":material/save:")


def _free(name: str) -> str:
    """The name, with a number where a file that stays has it."""
    path = Path(name)
    names = itertools.chain([name], (f"{path.stem}-{n}{path.suffix}" for n in itertools.count(2)))
    return next(one for one in names if _taken(one) in (None, stored.home() / "scenarios" / one))


def _taken(name: str) -> Path | None:
    """The scenario file that has the name already."""
    found = scenarios.files(stored.home()).get(name)
    return stored.home() / "scenarios" / name if found == (stored.home() / "scenarios" / name).resolve() else found


def _saved(source: Source, name: str, text: str) -> None:
    path = stored.home() / "scenarios" / name
    try:
        drafts.write(path, text)
    except UserError as error:
        st.session_state[SAVED] = str(error)
        return
    _discard(source)
    st.session_state.get(LOOKED, set()).discard(name)
    links.note(scenario=name, model=None)
    st.session_state[SAVED] = _("Saved as {file}.").format(file=path)


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
