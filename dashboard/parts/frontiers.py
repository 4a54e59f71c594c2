"""Utility against privacy: the models of a sweep over epsilon beside the one without privacy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from audit.numbers import show as number
from audit.numbers import show_interval
from audit.privacy.frontier_table import Frontier, Number, Point
from dashboard import links
from dashboard.drawing import charts, privacy_charts
from dashboard.parts.markdown import plain
from dashboard.reading import stored
from dashboard.reading.trainings import Found
from dashboard.words import _, status_sign

ACROSS = 2
ROW_HEIGHT = 88  # Streamlit breaks lines in rows higher than 64
WIDTH = 116
"""Pixels of a number with its interval on two lines."""


def show(found: Sequence[Found], digest: str) -> None:
    """Draw the frontier that the reader chooses: first the one that a model is of.

    Args:
        digest: of the model that the page is about; empty where it is about none.
    """
    for one in found:
        if one.problem:
            st.error(_("Cannot be shown: {problem}").format(problem=plain(one.problem)), icon=":material/broken_image:")
    known = {one.name: one.frontier for one in found if one.frontier is not None}
    if not known:
        return
    own = next((one.name for one in found if digest and one.holds(digest)), None)
    name = links.select("frontier", _("Sweep"), list(known), default=own)
    frontier = known[str(name)]
    if digest and own != name:
        st.caption(_("The model of this run is none of this sweep's."))
    _told(frontier)
    _charts(frontier)
    _table(frontier)
    if frontier.price:
        st.warning(plain(frontier.price), icon=":material/info:")


def _told(frontier: Frontier) -> None:
    said = _("{data}: {members} rows trained on, {others} rows tested on, delta {delta}").format(
        data=plain(frontier.data), members=f"{frontier.members:,}", others=f"{frontier.non_members:,}", delta=f"{frontier.delta:g}"
    )  # fmt: skip
    if not frontier.finished:
        said += ". " + _("The sweep has not ended: {n} of {all} models are here.").format(
            n=sum(bool(point.audited) for point in frontier.points), all=len(frontier.epsilons) + 1
        )
    st.caption(said)


def _picking(metric: str, attack: str | None = None, rate: str | None = None) -> Callable[[Point], Number | None]:
    return lambda point: point.number(metric, attack, rate)


def _charts(frontier: Frontier) -> None:
    places = [st.columns(ACROSS, gap="large") for _row in range(2)]
    slots = [slot for row in places for slot in row]
    better_high = frontier.utility == "accuracy"
    utility = _("accuracy on test rows") if better_high else _("root mean squared error on test rows")
    with slots[0]:
        charts.draw(
            privacy_charts.frontier(
                frontier, {utility: _picking(frontier.utility)}, title=_("What privacy costs"), label=utility
            ),
            _("Good: private models come close to the one without privacy, on the right.")
            + " "
            + (_("Higher is better.") if better_high else _("Lower is better.")),
            key="frontier-utility",
        )
    if not frontier.attacks:
        return
    with slots[1]:
        charts.draw(
            privacy_charts.frontier(
                frontier, {a: _picking("auc", a) for a in frontier.attacks}, title=_("What privacy keeps: members told"),
                label=_("membership AUC"), chance=0.5,
            ),
            _("Good: intervals on the line of chance, where members cannot be told from others."),
            key="frontier-auc",
        )  # fmt: skip
    for slot, rate in zip(slots[2:], frontier.rates, strict=False):
        said = f"{100 * float(rate):g} %"
        with slot:
            charts.draw(
                privacy_charts.frontier(
                    frontier, {a: _picking("tpr_at_fpr", a, rate) for a in frontier.attacks},
                    title=_("Members found at {rate} false positives").format(rate=said), label=_("share of members found"),
                    chance=float(rate), log=True,
                ),
                _("Good: no interval lies wholly above the line: nobody is found more often than by chance."),
                key=f"frontier-tpr-{rate}",
            )  # fmt: skip


def _table(frontier: Frontier) -> None:
    """A row a model; numbers with their intervals, those that decide nothing said to."""
    runs = {run.name for run in stored.runs(stored.home())}
    rows = []
    for point in frontier.points:
        row = {
            _("model"): point.model,
            _("epsilon asked"): _("none") if point.epsilon is None else number(point.epsilon),
            _("epsilon spent"): _("without privacy") if point.spent is None else number(point.spent),
            _("sigma"): number(point.noise_multiplier) if point.noise_multiplier is not None else "–",
            _("steps"): f"{point.steps:,}" if point.steps is not None else "–",
        }
        for one in point.numbers:
            if one.metric == "advantage" or one.fpr not in (None, *frontier.rates):
                continue
            row[_named(one)] = _said(one)
        row[_("run")] = links.address("privacy", run=point.run) if point.run in runs else None  # type: ignore[assignment]
        rows.append(row)
    frame = pd.DataFrame(rows)
    last = _("run")
    ordered = [name for name in frame.columns if name != last] + ([last] if frame[last].notna().any() else [])
    st.dataframe(
        frame[ordered],
        hide_index=True,
        key="frontier-table",
        row_height=ROW_HEIGHT,
        height=40 + ROW_HEIGHT * len(rows),
        column_config={_named(n): st.column_config.TextColumn(width=WIDTH) for p in frontier.points for n in p.numbers}
        | {last: st.column_config.LinkColumn(last, display_text=_("open"))},
    )


def _named(one: Number) -> str:
    if one.attack is None:
        return one.metric
    rate = f" {100 * float(one.fpr):g} %" if one.fpr is not None else ""
    return f"{one.metric.replace('_at_fpr', ' @')}{rate}, {one.attack}"


def _said(one: Number) -> str:
    interval = show_interval(one.low, one.high)
    doubt = "" if one.status == "info" else f" {status_sign(one.status)}"
    return f"{number(one.value)} ({interval}){doubt}"
