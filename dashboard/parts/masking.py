"""Whether the attacks would have seen it if there were something to see: controls that must not do better than they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from audit.finding import Status
from audit.numbers import show
from audit.report._view import RunView
from dashboard.drawing import charts
from dashboard.parts import stated
from dashboard.parts.markdown import plain
from dashboard.reading.measured import Number
from dashboard.words import _, status_sign

LONGER = "ten times the iterations"
MOVED = 0.01
"""Share of rows by which more iterations may move the number (the policy of robustness.gradient_masking)."""


def masking(view: RunView, found: Sequence[Number]) -> None:
    """The check of its own first, then the controls that run inside each attack."""
    own = [one for one in found if one.metric == "broken_controls"]
    for one in own:
        stated.status_line(view, one)
        rows = [s for s in found if s.step == one.step and s.metric == "success"]
        if len(rows) > 1:
            _compared(one, rows)
    inside = [n for n in found if n.metric == "robust_accuracy" and not n.dims and n.check == "robustness.evasion"]
    if inside:
        _inside(view, inside)
    if not own:
        st.caption(_("No check compared the attacks with stronger and weaker ones: robustness.gradient_masking does."))


# --- the check of its own ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Control:
    """What a control is, and what it would show."""

    name: str
    expected: str


def _known(attack: str) -> dict[str, _Control]:
    less = _("fools no more rows than {attack}").format(attack=attack)
    return {
        "noise": _Control(_("random noise"), less),
        "single step": _Control(_("a single gradient step"), less),
        "black box": _Control(_("a black-box attack"), less),
        "transfer": _Control(_("an attack on a copy"), less),
        "half the eps": _Control(_("half the eps"), less),
        "a quarter of the eps": _Control(_("a quarter of the eps"), less),
        LONGER: _Control(_("ten times the iterations"), _("fools hardly more: {attack} has converged").format(attack=attack)),
    }  # fmt: skip


def _compared(one: Number, rows: Sequence[Number]) -> None:
    """Each control beside the attack, drawn and in words."""
    first, *others = rows
    attack = first.dims.get("method", "")
    known = _known(attack)
    names = {row.dims.get("method", ""): known.get(row.dims.get("method", "")) for row in rows}
    dots = [
        stated.dot(row, control.name if control else method)
        for row, (method, control) in zip(rows, names.items(), strict=True)
    ]
    charts.draw(
        charts.dots(
            dots, title=_("The attack and what must not do better: {entry}").format(entry=one.named), label=_("share of rows fooled"),
            marked=first.value,
        ),
        _("Good: nothing lies right of the dashed line, the attack itself. What knows less and finds more shows that gradients are hidden."),
        key=f"controls-{one.step}",
    )  # fmt: skip
    _listed(one, first, others, known)


def _listed(one: Number, first: Number, others: Sequence[Number], known: dict[str, _Control]) -> None:
    import pandas as pd

    table = []
    for row in others:
        method = row.dims.get("method", "")
        control = known.get(method, _Control(method, ""))
        allowed = first.value + (MOVED if method == LONGER else 0.0)
        more = row.value > allowed
        table.append(
            {
                _("result"): f"? {_('more than the attack')}" if more else f"✓ {_('as it should be')}",
                _("control"): control.name,
                _("what it should do"): control.expected,
                _("fooled"): show(row.value),
                _("95 % interval"): row.interval,
                "n": row.n,
            }
        )
    st.dataframe(pd.DataFrame(table), hide_index=True, key=f"control-table-{one.step}", width="content")
    st.caption(
        _("A control counts as broken only where an exact paired test rejects at 1 %: the line above says how many were. With probabilities, "
          "zero gradients and the whole input range it also tries what gives no share of rows.")
    )  # fmt: skip


# --- inside the attacks ------------------------------------------------------------------------------------------


def _inside(view: RunView, found: Sequence[Number]) -> None:
    """Attacks that a control voids or doubts, each with what was seen; the others in one line."""
    st.markdown(f"#### {_('Controls inside each attack')}")
    st.caption(
        _("Attacks within a norm are compared, on the same rows, with noise and, where they follow gradients, with a single step and the whole "
          "input range.")
    )  # fmt: skip
    for one in found:
        if _doubted(one):
            stated.status_line(view, one)
    bound = [one for one in found if one.threat is not None and one.threat.norm]
    silent = [one.named for one in bound if not _doubted(one)]
    if silent:
        st.caption(
            f"{status_sign(Status.PASS)}: "
            + _("no control raised a doubt about {entries}.").format(entries=plain(", ".join(silent)))
        )
    free = [one.named for one in found if one not in bound and not _doubted(one)]
    if free:
        st.caption(
            _("No norm bounds the attacks of {entries}: there is no noise and no step to compare them with.").format(
                entries=plain(", ".join(free))
            )
        )


def _doubted(one: Number) -> bool:
    """Whether a control found something."""
    return bool(one.cautions) or one.status == Status.VOID
