"""Overview: every run and what it came to, what was tested beside what was not, and the course of a model over its versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import streamlit as st

from audit.finding import Finding, Status
from audit.names import available
from audit.numbers import show_seconds
from audit.report._told import told
from audit.report._words import STATUS, VERDICTS, value_of
from dashboard import links
from dashboard.drawing import theme
from dashboard.parts import choosing, course, gates
from dashboard.parts.markdown import plain
from dashboard.reading import reasons, stored
from dashboard.reading.stored import RunSummary
from dashboard.words import _, ngettext, status_sign, status_word, verdict_word

SHOWN = 8
"""Rows that are seen without scrolling."""
ROW_HEIGHT = 66  # Streamlit breaks lines in rows higher than 64
NAMED, SEVERAL = 3, 2
"""So many families that were not tested, and models of a run, are named one by one."""
SIGN, FEW = 30, 4
"""Pixels of a column of counts, and how many of them leave the others their widths."""
WHY = (186, 112)
"""Pixels of the column of reasons: beside few columns of counts, and at least."""
DAMAGED = 5
"""Damaged runs that are named above the table."""
COUNTED = (
    Status.FAIL,
    Status.ERROR,
    Status.VOID,
    Status.INCONCLUSIVE,
    Status.WAIVED,
    Status.NOT_APPLICABLE,
    Status.PASS,
)


def show() -> None:
    """Draw the page."""
    home = stored.home()
    found = stored.runs(home)
    st.title(_("Overview"))
    if not found:
        _how_to_start(str(home))
        return
    _tally(found)
    _damage([summary for summary in found if summary.problem])
    chosen = _filtered(found)
    if chosen:
        _table(chosen)
    else:
        st.info(_("No run is like that."))
    course.show(found)


def _how_to_start(home: str) -> None:
    st.info(_("There are no runs in {home} yet.").format(home=plain(home)), icon=":material/inbox:")
    st.write(_("Audit four models that come with assay, from training to verdict:"))
    st.code("audit demo", language="console")
    st.write(_("Or audit your own: register a model, write what it must show, and run it:"))
    st.code(
        "audit model add digits weights.safetensors --factory mypackage.nets:cnn \\\n"
        "    --task classification --classes 10 --input image --shape 1,8,8 --bounds 0,16\n"
        "audit init --model digits --data sklearn.digits\n"
        "audit run digits.yaml",
        language="console",
    )


def _tally(found: Sequence[RunSummary]) -> None:
    models = {model.name for summary in found for model in summary.models}
    runs = ngettext("{n} run", "{n} runs", len(found)).format(n=f"{len(found):,}")
    named = ngettext("of {n} model", "of {n} models", len(models)).format(n=f"{len(models):,}")
    st.caption(f"{runs} {named}")
    counts = Counter(summary.word for summary in found)
    words = "".join(
        f'<a class="tone {status}" href="{escape(links.address("overview", verdict=word))}" target="_self">'
        f"{escape(verdict_word(word))} <b>{counts[word]:,}</b></a>"
        for word, (status, _headline) in VERDICTS.items()
        if counts[word]
    )
    st.html(f'<p class="tally">{words}</p>')


def _damage(broken: Sequence[RunSummary]) -> None:
    if broken:
        lines = "\n".join(f"- {plain(summary.name)}: {plain(told(summary.problem))}" for summary in broken[:DAMAGED])
        if len(broken) > DAMAGED:
            lines += "\n- " + _("… and {n} more; the filter by verdict lists them").format(n=len(broken) - DAMAGED)
        st.error(f"{_('Damaged run folders; the others open as ever:')}\n\n{lines}", icon=":material/broken_image:")


def _filtered(found: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs that the filters and the search leave."""
    words = [word for word in VERDICTS if any(summary.word == word for summary in found)]
    models = sorted({model.name for summary in found for model in summary.models})
    scenarios = sorted({summary.scenario for summary in found if summary.scenario})
    columns = st.columns([3, 3, 3, 3])
    with columns[0]:
        text = links.typed("q", _("Search"), _("run, model, scenario, check"))
    with columns[1]:
        verdict = links.several("verdict", _("Verdict"), words, verdict_word, empty=_("every verdict"))
    with columns[2]:
        model = links.several("model", _("Model"), models, empty=_("every model"))
    with columns[3]:
        scenario = links.several("scenario", _("Scenario"), scenarios, empty=_("every scenario"))
    return [
        summary
        for summary in found
        if (not verdict or summary.word in verdict)
        and (not model or any(known.name in model for known in summary.models))
        and (not scenario or summary.scenario in scenario)
        and all(word in _searched(summary) for word in text.lower().split())
    ]


def _searched(summary: RunSummary) -> str:
    models = " ".join(model.shown for model in summary.models)
    return " ".join((summary.name, summary.scenario, models, *summary.checks, summary.sentence)).lower()


def _table(found: Sequence[RunSummary]) -> None:
    import pandas as pd

    known = _known_checks()
    frame = pd.DataFrame([_row(summary, known) for summary in found])
    frame = frame.astype({str(status): "Int64" for status in COUNTED})
    counted = [status for status in COUNTED if any(summary.counts.get(status) for summary in found)]
    columns = _columns(counted)
    chosen = choosing.row(
        theme.toned(frame, "verdict", [VERDICTS.get(summary.word, VERDICTS["damaged"])[0] for summary in found]),
        key="runs",
        column_order=list(columns),
        column_config=columns,
        row_height=ROW_HEIGHT,
        height=min(len(found), SHOWN) * ROW_HEIGHT + 40,
        placeholder="",
        alt=_("Runs with their verdicts"),
    )
    signs = " · ".join(status_sign(status) for status in counted)
    st.caption(
        _(
            "Choose a row to open its run; a click on a heading sorts. Numbers below a sign count findings: {signs}."
        ).format(signs=signs)
        if signs
        else _("Choose a row to open its run; a click on a heading sorts.")
    )
    if chosen is not None:
        links.go("run", run=found[chosen].name)


def _known_checks() -> dict[str, list[str]]:
    """The checks of this installation by family."""
    found: dict[str, list[str]] = {}
    for name in available("checks"):
        found.setdefault(name.split(".")[0], []).append(name)
    return found


def _tested(summary: RunSummary, known: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """What was tested and what was not: families with how many of their checks; nothing where the run does not say."""
    if not summary.checks:
        return "", ""
    ran = {family: len(set(checks) & set(summary.checks)) for family, checks in known.items()}
    tested = [f"{_(family)} {n}/{len(known[family])}" for family, n in ran.items() if n]
    absent = _absent([_(family) for family, n in ran.items() if n], [_(family) for family, n in ran.items() if not n])
    left = sum(len(known[family]) - n for family, n in ran.items() if n)
    more = [ngettext("{n} more check", "{n} more checks", left).format(n=left)] * bool(left)
    return _(", ").join(tested), _(", ").join(absent + more)


def _absent(tested: Sequence[str], absent: Sequence[str]) -> list[str]:
    """Families without a check that ran, in few words where they are most."""
    if len(absent) <= NAMED:
        return list(absent)
    return [_("all but {tested}").format(tested=_(", ").join(tested)) if tested else _("all families")]


def _row(summary: RunSummary, known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    tested, absent = _tested(summary, known)
    return {
        "verdict": verdict_word(summary.word),
        "why": _why(summary),
        "model": ", ".join(model.shown for model in summary.models),
        "scenario": summary.scenario,
        "subject": _lines(_models(summary), summary.scenario),
        **{str(status): summary.counts.get(status) for status in COUNTED},
        "tested": tested,
        "not_tested": absent,
        "when": _lines(
            f"{summary.started:%Y-%m-%d %H:%M}" if summary.started else "",
            _("took {time}").format(time=show_seconds(summary.seconds)) if summary.seconds is not None else "",
        ),
        "run": summary.name,
    }


def _models(summary: RunSummary) -> str:
    """The models of a run; of many the first and how many more there are."""
    names = [model.shown for model in summary.models]
    if len(names) <= SEVERAL:
        return _(", ").join(names)
    return _("{named} and {n} more").format(named=names[0], n=len(names) - 1)


def _lines(*parts: str) -> str:
    """Parts with a blank between them in every language: a table breaks lines there."""
    return ", ".join(part for part in parts if part)


def _why(summary: RunSummary) -> str:
    """What decided the verdict, in a line."""
    found = reasons.against(summary)
    if not found:
        return told(summary.problem or summary.sentence)
    first, more = _reason(found[0]), len(found) - 1
    return _("{reason}, and {n} more").format(reason=first, n=more) if more else first


def _reason(finding: Finding) -> str:
    """A gate that was not met, in few words; the run's page says the rest."""
    named = gates.named(finding)
    if finding.estimate is None or finding.status in (Status.ERROR, Status.VOID):
        return _("{gate}: {status}").format(gate=named, status=status_word(finding.status))
    said = {"gate": named, "value": value_of(finding), "required": finding.required}
    if finding.status is Status.INCONCLUSIVE:
        return _("{gate} {value}: unclear whether {required}").format(**said)
    return _("{gate} {value}, not {required}").format(**said)


def _columns(counted: Sequence[Status]) -> dict[str, Any]:
    text, number = st.column_config.TextColumn, st.column_config.NumberColumn
    usual, least = WHY
    return {
        "verdict": text(_("Verdict"), width=98),
        "why": text(_("Why"), width=max(least, usual - SIGN * max(0, len(counted) - FEW))),
        "subject": text(_("Model and scenario"), width=158),
        **{
            str(status): number(
                STATUS[status].icon, width=SIGN, help=_("findings: {status}").format(status=status_word(status))
            )
            for status in counted
        },
        "tested": text(_("Tested"), width=198),
        "not_tested": text(_("Not tested"), width=114),
        "when": text(_("When (UTC)"), width=116),
    }
