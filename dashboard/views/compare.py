"""Compare: two runs, number by number and sample by sample: what got better, what got worse, and what cannot be told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

import streamlit as st
from rich.cells import cell_len, chop_cells

from audit.comparing import Change, Flip, Judgement, changes, flips, tally
from audit.finding import Finding, Status
from audit.numbers import show as number
from audit.numbers import show_interval
from audit.parameters import UserError
from audit.report._told import told
from audit.report._view import RunView
from audit.report._words import STATUS
from dashboard import links
from dashboard.drawing import charts, theme
from dashboard.parts import choosing, exhibits, gates, opened
from dashboard.parts.markdown import plain
from dashboard.reading import stored
from dashboard.reading.stored import RunSummary
from dashboard.words import _, status_sign

if TYPE_CHECKING:
    import altair as alt

SIGNS = {"worse": "▼", "better": "▲", "changed": "◆", "untold": "?", "same": "=", "incomparable": "–"}
TONES = {
    "worse": Status.FAIL, "better": Status.PASS, "changed": Status.WAIVED, "untold": Status.INCONCLUSIVE,
    "same": Status.INFO, "incomparable": Status.VOID,
}  # fmt: skip
RATES = ("proportion", "rank_auc")
"""Kinds of estimates that share one axis."""
DRAWN = 20
SHOWN = 9
ROW_HEIGHT = 66  # Streamlit breaks lines in rows higher than 64
FLIPS = 1000
TURNED = 6
"""Gates whose status changed that are named above the table."""
WHY = 64
"""Width in Latin letters that a cell has room for; the finding says it in full."""


def show() -> None:
    """Draw the page."""
    st.title(_("Compare"))
    found = [summary for summary in stored.runs(stored.home()) if summary.word not in ("damaged", "running")]
    if len(found) < 2:
        st.info(_("Two finished runs are needed to compare; there are {n} here.").format(n=len(found)))
        return
    names = {summary.name: summary for summary in found}
    for parameter in ("before", "after"):
        if (asked := links.asked(parameter)) is not None and asked not in names:
            st.error(_("There is no run '{name}' here that could be compared.").format(name=plain(asked)))
    left, right = st.columns(2)
    with right:
        after = links.select(
            "after", _("After"), list(names), lambda name: stored.described(names[name]), default=_latest(found).name
        )
    with left:
        default = _earlier(names[str(after)], found).name
        before = links.select(
            "before", _("Before"), list(names), lambda name: stored.described(names[name]), default=default
        )
    if before == after:
        st.info(_("This is one run twice. Choose another."))
        return
    old, new = (stored.run(stored.home(), str(name)) for name in (before, after))
    for side, view in ((left, old), (right, new)):
        with side:
            _verdict(view)
    _caveats(names[str(before)], names[str(after)], old, new)
    compared = _compared(old, new)
    _summary(compared)
    _numbers(compared)
    _forest(compared)
    _flipped(old, new, compared)


def _alike(one: RunSummary, other: RunSummary) -> bool:
    """Whether two runs asked the same of the same models, whatever their versions."""
    names = {model.name for model in one.models}
    return one.scenario == other.scenario and bool(names & {model.name for model in other.models})


def _latest(found: Sequence[RunSummary]) -> RunSummary:
    """The newest run that there is something alike to hold against; the newest where there is none."""
    return next((one for i, one in enumerate(found) if any(_alike(one, other) for other in found[i + 1 :])), found[0])


def _earlier(summary: RunSummary, found: Sequence[RunSummary]) -> RunSummary:
    """What a run is naturally held against: the one before of the same model and scenario, else of the scenario, else any other."""
    others = [other for other in found if other is not summary]
    past = [other for other in others if not (other.started and summary.started) or other.started <= summary.started]
    for chosen in (
        [other for other in past if _alike(summary, other)],
        [other for other in others if _alike(summary, other)],
        [other for other in past if other.scenario == summary.scenario],
        past,
        others,
    ):
        if chosen:
            return chosen[0]
    raise ValueError("there is no other run")


@lru_cache(maxsize=8)
def _compared(old: RunView, new: RunView) -> tuple[Change, ...]:
    """Kept as long as both views are, which is as long as the folders' files are the same."""
    return tuple(changes(old.run, new.run))


def _verdict(view: RunView) -> None:
    verdict = view.verdict
    st.html(
        f'<div class="verdict {verdict.status} small"><div class="head"><div class="sign" aria-hidden="true">{escape(STATUS[verdict.status].icon)}</div>'
        f'<div class="said"><p class="word">{escape(_(verdict.headline))}</p><p class="sentence">{escape(verdict.said)}</p></div></div></div>'
    )
    links.link(_("Open this run"), "run", icon=":material/fact_check:", run=view.run.name)


def _caveats(before: RunSummary, after: RunSummary, old: RunView, new: RunView) -> None:
    """What makes two runs answers to two questions."""
    if _named_models(before) != _named_models(after):
        st.warning(
            _(
                "The runs are of different models, {before} and {after}: what changed is the model, not its version."
            ).format(before=plain(_(", ").join(_named_models(before))), after=plain(_(", ").join(_named_models(after))))
        )
    if before.scenario != after.scenario:
        st.warning(
            _(
                "The runs are of different scenarios, {before} and {after}: only checks that both name are compared."
            ).format(before=plain(before.scenario), after=plain(after.scenario))
        )
    if old.data.get("digest") != new.data.get("digest"):
        st.warning(_("The two runs are of different data: only rows that both hold are compared in pairs."))
    for view in (old, new):
        if view.problems or view.state != "finished":
            st.warning(
                _("Run {name} is incomplete or damaged; only what it holds is compared.").format(
                    name=plain(view.run.name)
                )
            )


def _named_models(summary: RunSummary) -> list[str]:
    return sorted({model.name for model in summary.models})


def _word(judgement: Judgement) -> str:
    return {
        Judgement.WORSE: _("worse"),
        Judgement.BETTER: _("better"),
        Judgement.CHANGED: _("changed"),
        Judgement.UNTOLD: _("cannot be told"),
        Judgement.SAME: _("same"),
        Judgement.INCOMPARABLE: _("not comparable"),
    }[judgement]


def _sign(judgement: Judgement) -> str:
    return f"{SIGNS[judgement]} {_word(judgement)}"


def _summary(compared: Sequence[Change]) -> None:
    counts = tally(compared)
    columns = st.columns(len(Judgement))
    for column, judgement in zip(columns, Judgement, strict=True):
        column.metric(_sign(judgement), f"{counts[judgement]:,}", border=True)
    held = sum(change.difference is not None for change in compared)
    st.caption(
        _(
            "A number is better or worse only where the whole 95 % interval of the difference says so. Of {n} numbers that did not "
            "change at all, about {by_chance} would look as if they had."
        ).format(n=held, by_chance=number(round(0.05 * held)))
    )
    _turned(compared)


def _turned(compared: Sequence[Change]) -> None:
    """The gates that came out otherwise, each on a line: what a release hangs on."""
    gated = [change for change in compared if change.finding.gated]
    turned = [change for change in gated if change.status_changed]
    if not gated:
        return
    if not turned:
        st.html(f"<p><b>{escape(_('No gate changed its status.'))}</b></p>")
        return
    lines = [(gates.named(change.finding), f"{_statuses(change)}; {_values(change)}") for change in turned[:TURNED]]
    if len(turned) > TURNED:
        lines.append((_("… and {n} more below").format(n=len(turned) - TURNED), ""))
    st.html(f"<h4>{escape(_('Gates whose status changed'))}</h4>{opened.listed(lines)}")


def _values(change: Change) -> str:
    return _("{before} before, {after} after").format(before=_said(change.before), after=_said(change.after))


def _numbers(compared: Sequence[Change]) -> None:
    st.subheader(_("Gates and numbers"))
    present = [judgement for judgement in Judgement if any(change.judgement is judgement for change in compared)]
    left, right = st.columns(2)
    with left:
        wanted = links.several(
            "change", _("Change"), [str(j) for j in present], lambda j: _sign(Judgement(j)), empty=_("every change")
        )
    with right:
        kind = links.select("kind", _("Numbers"), ("all", "gates", "status"), _kind, default="all")
    rows = [
        change
        for change in sorted(compared, key=_weight)
        if (not wanted or change.judgement in wanted)
        and (kind == "all" or (change.status_changed if kind == "status" else change.finding.gated))
    ]
    if not rows:
        st.info(_("No number is like that."))
        return
    import pandas as pd

    columns = _columns()
    st.dataframe(
        theme.toned(pd.DataFrame([_row(change) for change in rows]), "change", [TONES[c.judgement] for c in rows]),
        key="changes",
        column_order=list(columns),
        column_config=columns,
        hide_index=True,
        row_height=ROW_HEIGHT,
        height=min(len(rows), SHOWN) * ROW_HEIGHT + 40,
        alt=_("Numbers of both runs with their difference"),
    )


def _kind(kind: str) -> str:
    return {"all": _("every number"), "gates": _("gates only"), "status": _("gates whose status changed")}[kind]


def _weight(change: Change) -> tuple[bool, int, bool]:
    return not change.status_changed, list(Judgement).index(change.judgement), not change.finding.gated


def _row(change: Change) -> dict[str, Any]:
    finding, difference = change.finding, change.difference
    return {
        "change": _sign(change.judgement),
        "number": ", ".join((gates.named(finding), gates.entry_of(finding))),
        "before": _said(change.before),
        "after": _said(change.after),
        "difference": f"{number(difference.value)} ({show_interval(difference.low, difference.high)})"
        if difference
        else "–",
        "how": _how(change),
        "gate": _(", ").join(part for part in (_statuses(change), finding.required) if part),
        "required": finding.required or "",
        "check": finding.step,
    }


def _said(finding: Finding | None) -> str:
    if finding is None or finding.estimate is None:
        return "–"
    return gates.said(finding)


def _how(change: Change) -> str:
    if change.difference is None:
        return _cut(told(change.why))
    kind = _("in pairs, n = {n}") if change.paired else _("not in pairs, n = {n}")
    pairs = kind.format(n=f"{change.difference.n:,}") if change.difference.n else _("without sampling error")
    return _cut(_("; ").join(part for part in (pairs, told(change.why)) if part))


def _cut(text: str) -> str:
    """At most so wide, at the end of a word: a Chinese character takes the room of two."""
    if cell_len(text) <= WHY:
        return text
    return re.sub(r"[\w'@-]+$", "", chop_cells(text, WHY - 2)[0], flags=re.ASCII).rstrip() + " …"


def _statuses(change: Change) -> str:
    if not change.finding.gated:
        return ""
    old, new = (
        status_sign(finding.status) if finding is not None else "–" for finding in (change.before, change.after)
    )
    return old if old == new else f"{old} → {new}"


def _columns() -> dict[str, Any]:
    text = st.column_config.TextColumn
    return {
        "change": text(_("Change"), width=124),
        "number": text(_("Number and check"), width=212),
        "before": text(_("Before"), width=122),
        "after": text(_("After"), width=122),
        "difference": text(_("After − before"), width=136),
        "gate": text(_("Gate"), width=116),
        "how": text(_("How"), width=158),
    }


def _forest(compared: Sequence[Change]) -> None:
    """Differences of rates on one axis, those that say most first."""
    rates = [
        change
        for change in compared
        if change.difference is not None
        and change.judgement is not Judgement.SAME
        and getattr(change.finding.estimate, "kind", "") in RATES
    ]
    if rates:
        chosen = sorted(rates, key=_weight)[:DRAWN]
        charts.draw(
            _forest_chart(chosen),
            _(
                "Good: no interval lies wholly on the worse side of zero. {n} of {all} differences of rates are drawn."
            ).format(n=len(chosen), all=len(rates)),
            key="forest",
        )


def _forest_chart(chosen: Sequence[Change]) -> alt.LayerChart | alt.FacetChart:
    import altair as alt
    import pandas as pd

    rows = []
    for change in chosen:
        difference = change.difference
        if difference is not None:
            rows.append(
                {
                    "name": f"{gates.named(change.finding)} · {change.finding.step}",
                    "value": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                    "shown": f"{number(difference.value)} ({show_interval(difference.low, difference.high)})",
                    "judgement": _sign(change.judgement),
                }
            )
    frame = pd.DataFrame(rows)
    palette = theme.colours(theme.mode())
    named = {_sign(judgement): judgement for judgement in Judgement if _sign(judgement) in set(frame["judgement"])}
    legend = alt.Legend(title=None, orient="bottom")
    scale = alt.Scale(domain=list(named), range=[palette[TONES[judgement]] for judgement in named.values()])
    shapes = alt.Scale(domain=list(named), range=[charts.SHAPES[list(Judgement).index(j)] for j in named.values()])
    y = alt.Y("name:N", sort=list(frame["name"]), title=None, axis=alt.Axis(labelLimit=420))
    label = _("after − before, with 95 % interval")
    x = alt.X("value:Q", title=label)
    color = alt.Color("judgement:N", scale=scale, legend=legend)
    base = alt.Chart(frame)
    tips = [
        alt.Tooltip("name:N", title=_("number")),
        alt.Tooltip("shown:N", title=_("after − before")),
        alt.Tooltip("judgement:N", title=_("change")),
    ]
    zero = (
        alt.Chart(pd.DataFrame({"value": [0.0]}))
        .mark_rule(strokeDash=[5, 3])
        .encode(x=x, color=alt.value(palette["ink"]))
    )
    ranges = base.mark_rule(strokeWidth=2.5).encode(y=y, x=alt.X("low:Q", title=label), x2="high:Q", color=color)
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        y=y, x=x, color=color, shape=alt.Shape("judgement:N", scale=shapes, legend=legend), tooltip=tips
    )
    return alt.layer(zero, ranges, points).properties(
        title=_("Differences of rates"),
        height=26 * len(frame) + 110,
        padding={"left": 4, "top": 8, "right": 12, "bottom": 4},
    )


def _flipped(old: RunView, new: RunView, compared: Sequence[Change]) -> None:
    st.subheader(_("Samples whose answer flipped"))
    paired = {
        change.finding.id: change for change in sorted(compared, key=_weight) if change.paired and _binary(change)
    }
    if not paired:
        st.info(_("No number of these runs is stored per sample in both, so no sample can be followed."))
        return
    most = max(paired.values(), key=lambda change: getattr(change.difference, "differing", 0)).finding.id
    chosen = links.select(
        "number",
        _("By"),
        list(paired),
        lambda name: f"{gates.named(paired[name].finding)} · {paired[name].finding.step}",
        default=most,
    )
    change = paired[str(chosen)]
    found = _flips(old, new, change.finding.id)
    gained = sum(flip.after > flip.before for flip in found)
    total = change.difference.n if change.difference else 0
    st.write(
        _("{lost} of {n} samples went from 1 to 0, {gained} from 0 to 1.").format(
            lost=f"{len(found) - gained:,}", gained=f"{gained:,}", n=f"{total:,}"
        )
    )
    if found:
        _table_of_flips(old, new, found)
    if (sample := links.asked("sample")) is not None:
        _sample(old, new, sample)


@lru_cache(maxsize=8)
def _flips(old: RunView, new: RunView, number: str) -> tuple[Flip, ...]:
    """Kept as `_compared` is: outcomes of many samples are read once."""
    followed = (change for change in _compared(old, new) if change.finding.id == number and change.paired)
    return tuple(flip for change in followed for flip in flips(old.run, new.run, change))


def _table_of_flips(old: RunView, new: RunView, found: Sequence[Flip]) -> None:
    """The samples, those first that have a map or an attack to be seen; the one that is clicked goes into the address."""
    import pandas as pd

    seen = {
        page: _rows_with(old, kind) | _rows_with(new, kind)
        for kind, page in exhibits.PAGES.items()
        if links.offered(page)
    }
    names = {"saliency": _("maps"), "attacks": _("attacks")}

    def ways(row: str) -> str:
        return _(", ").join(names[page] for page, rows in seen.items() if row in rows)

    shown = sorted(found, key=lambda flip: (not ways(flip.row), flip.after - flip.before))[:FLIPS]
    rows = [
        {
            _("sample"): f.row, _("before"): number(f.before), _("after"): number(f.after),
            _("to be seen"): ways(f.row) or "–",
        }
        for f in shown
    ]  # fmt: skip
    clicked = choosing.row(pd.DataFrame(rows), key="flips", width=640)
    st.caption(
        _("1: the sample counts towards this number, 0: it does not. Choose a row for the way to its maps and attacks.")
    )
    if len(found) > FLIPS:
        st.caption(_("{n} of {all} are shown.").format(n=f"{FLIPS:,}", all=f"{len(found):,}"))
    if clicked is not None:
        links.note(sample=shown[clicked].row)


@lru_cache(maxsize=8)
def _rows_with(view: RunView, kind: str) -> frozenset[str]:
    """Rows of which a run stored evidence of a kind; damage is shown by the page of that evidence."""
    found: set[str] = set()
    for ref, _step in view.evidence:
        if ref.kind == kind:
            try:
                found.update(view.run.evidence(ref).ids)
            except UserError:
                continue
    return frozenset(found)


def _sample(old: RunView, new: RunView, sample: str) -> None:
    """Where a sample's maps and attacks are to be seen."""
    st.markdown(f"**{_('Sample {row}').format(row=plain(sample))}**")
    pages = {"saliency": _("its maps in {name}"), "attacks": _("its attacks in {name}")}
    seen = False
    for view in (old, new):
        for kind, page in exhibits.PAGES.items():
            if links.offered(page) and sample in _rows_with(view, kind):
                label = pages[page].format(name=view.run.name)
                links.link(label, page, icon=":material/image_search:", run=view.run.name, sample=sample)
                seen = True
    if not seen:
        st.caption(_("Neither run stored a map or an attack of this sample."))


def _binary(change: Change) -> bool:
    return getattr(change.finding.estimate, "kind", "") == "proportion"
