"""Who was trained on: the control that sees no model, each attack over all false positive rates, the records that are exposed most."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from audit.numbers import show
from audit.report import _told
from audit.report._view import RunView
from audit.report._words import clean
from audit.run_folder import Evidence
from dashboard import links
from dashboard.drawing import charts, privacy_charts
from dashboard.drawing.privacy_charts import Line, Mark
from dashboard.parts import stated
from dashboard.parts.markdown import plain
from dashboard.reading.evidence import Piece
from dashboard.reading.measured import Number
from dashboard.words import _

FAMILY = "privacy."
CHECK = "privacy.membership_inference"
BLIND = "blind_auc"
MOST = 20
"""Records that are seen without scrolling."""


def blind(found: Sequence[Number]) -> None:
    """The control that comes first: where inputs alone tell members, no number of the model means anything."""
    controls = {
        (one.entry, one.told): one for one in found if one.metric == BLIND
    }  # cells of a matrix share one control
    for one in controls.values():
        voided = any(
            other.finding is not None and other.finding.status == "void" for other in found if other.entry == one.entry
        )
        told = _("{value} ({told})").format(value=show(one.value), told=one.told)
        step = plain(one.entry.removeprefix(FAMILY))
        if voided:
            st.error(
                _("Blind control of {step}: inputs alone tell members from others, AUC {told}. Every other number here is void.").format(
                    step=step, told=told
                ),
                icon=":material/block:",
            )  # fmt: skip
        elif one.low is not None and one.low > 0.5:
            st.warning(
                _("Blind control of {step}: inputs alone, without the model, reach an AUC of {told}, more than chance: members and non-members "
                  "differ a little, and some of what is seen below is not the model's doing.").format(step=step, told=told),
                icon=":material/help:",
            )  # fmt: skip
        else:
            st.caption(
                _("Blind control of {step}: inputs alone, without the model, reach an AUC of {told}; 0.5 is chance, so members and "
                  "non-members were drawn alike as far as it can see.").format(step=step, told=told)
            )  # fmt: skip


def membership(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """The blind control, then each attack over all false positive rates, then the numbers that are compared."""
    found, problems = [one for one in measured if one.check == CHECK], list[str]()
    blind(found)
    steps = list(dict.fromkeys(one.step for one in found))
    step = (
        str(links.select("step", _("Check"), steps, lambda name: name.removeprefix(FAMILY)))
        if len(steps) > 1
        else steps[0]
    )
    own = [one for one in found if one.step == step]
    lines: list[Line] = []

    def keep(piece: Piece, stored: Evidence) -> None:
        lines.append(Line(_attack(piece), stored.column("fpr"), stored.column("tpr")))

    stated.each(view, [p for p in stated.pieces(view, model, "roc", CHECK) if p.step == step], keep, problems)
    stated.told(problems)
    marks = [_mark(one) for one in own if one.metric == "tpr_at_fpr" and "attack" in one.dims]
    areas = [one for one in own if one.metric == "auc" and "attack" in one.dims]
    control = [one for one in own if one.metric == BLIND]
    left, right = st.columns([3, 2], gap="large")
    with left:
        if lines:
            charts.draw(
                privacy_charts.roc(lines, marks, title=_("Members told from non-members")),
                _("Good: every line lies on the diagonal of chance, on the left too, where nobody is accused wrongly. Bars are 95 % "
                  "intervals at false positive rates of 1 % and 0.1 %; a hollow mark has too few non-members to decide anything.") + _single(lines),
                key=f"roc-{step}",
            )  # fmt: skip
    with right:
        dots = [stated.dot(one, _("inputs alone (control)")) for one in control]
        dots += [stated.dot(one, one.dims["attack"]) for one in areas]
        if dots:
            charts.draw(
                charts.dots(dots, title=_("Area under each curve"), label=_("membership AUC"), around=0.5),
                _("Good: all intervals hold the dashed line at 0.5. The control sees no model: where it is off the line, nothing else counts."),
                key=f"areas-{step}",
            )  # fmt: skip
    _rates(own)
    stated.cautions([one for one in own if one.metric != BLIND])


def _single(lines: Sequence[Line]) -> str:
    """What the diamonds are, where there are any."""
    if not any(line.one_threshold for line in lines):
        return ""
    return " " + _("A diamond is an attack with one threshold: there is no rate to choose.")


def _attack(piece: Piece) -> str:
    return piece.name.removeprefix("roc-")


def _mark(one: Number) -> Mark:
    return Mark(one.dims["attack"], float(one.dims["fpr"]), one.value, one.low, one.high, one.told, not one.unresolved)


def _rates(own: Sequence[Number]) -> None:
    """Members found at each rate, and the advantage, by attack."""
    import pandas as pd

    attacks = list(dict.fromkeys(one.dims["attack"] for one in own if "attack" in one.dims))
    rows = []
    for attack in attacks:
        row: dict[str, str] = {_("attack"): attack}
        for one in own:
            if one.dims.get("attack") != attack or one.metric not in ("tpr_at_fpr", "advantage"):
                continue
            name = _("advantage")
            if one.metric == "tpr_at_fpr":
                name = _("found at {rate} false positives").format(rate=f"{100 * float(one.dims['fpr']):g} %")
            doubt = f" ? {_('decides nothing')}" if one.unresolved else ""
            row[name] = f"{show(one.value)} ({one.interval}){doubt}" if one.interval else f"{show(one.value)}{doubt}"
        rows.append(row)
    if rows:
        st.dataframe(pd.DataFrame(rows).fillna("–"), hide_index=True, key="rates")


# --- records -----------------------------------------------------------------------------------------------------

_RECORDS = ((CHECK, "exposed"), ("privacy.memorisation", "members"))
"""Checks and their tables of records."""


def _tables(view: RunView, model: str) -> list[Piece]:
    return [p for check, name in _RECORDS for p in stated.pieces(view, model, "table", check) if p.name == name]


def has_records(view: RunView, model: str) -> bool:
    """Whether a check listed records of the training set."""
    return bool(_tables(view, model))


def records(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """Which rows of the training set are exposed most, by number, never by content."""
    import pandas as pd

    problems: list[str] = []
    named = {
        "rank": _("rank"), "row": _("row of the training set"), "score": _("score"), "distance": _("distance to the sample"),
        "non_members_above": _("non-members that score higher"), "samples": _("samples nearest to it"),
    }  # fmt: skip

    def draw(piece: Piece, stored: Evidence) -> None:
        st.markdown(f"**{plain(_told.told(clean(stored.meta.get('title', piece.name))))}**")
        columns = {named[name]: stored.column(name) for name in named if name in stored.fields}
        frame = pd.DataFrame({**columns, _("row id"): list(stored.ids)})
        formats = {
            named[name]: st.column_config.NumberColumn(format="%.4g") for name in ("score", "distance") if name in stored.fields
        }  # fmt: skip
        st.dataframe(
            frame,
            hide_index=True,
            key=f"records-{piece.ref.path}",
            width="content",
            height=38 + 35 * min(len(frame), MOST),
            column_config=formats,
        )

    for one in (one for one in measured if one.check == CHECK and one.metric == "exposed_records"):
        stated.status_line(view, one)
    stated.each(view, _tables(view, model), draw, problems)
    stated.told(problems)
    st.caption(
        _("Row numbers and ids only: what stands in them is shown to whoever holds the data. Good: no record scores above all "
          "non-members, or as few as chance brings.")
    )  # fmt: skip
