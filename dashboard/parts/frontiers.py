"""Utility against privacy: the models of a sweep over epsilon beside the one without privacy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from audit.numbers import show as number
from audit.numbers import show_interval
from audit.privacy.frontier_table import Frontier, Number, Point
from audit.report._told import told
from dashboard import links
from dashboard.drawing import charts, privacy_charts
from dashboard.parts.markdown import plain
from dashboard.reading import stored
from dashboard.reading.trainings import Found
from dashboard.words import _, status_sign

ACROSS = 2
"""Charts side by side, where they are more than three."""
MOST = 16
"""Rows of the table that are seen without scrolling."""


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
        st.warning(plain(told(frontier.price)), icon=":material/info:")


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
    drawn = 2 + len(frontier.rates) if frontier.attacks else 1
    across = drawn if drawn <= 3 else ACROSS
    slots = [slot for _row in range(-(-drawn // across)) for slot in st.columns(max(2, across), gap="large")]
    better_high, utility = frontier.utility == "accuracy", _utility(frontier.utility)
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
                    title=_("Found at {rate} false positives").format(rate=said), label=_("share of members found"),
                    chance=float(rate), log=True,
                ),
                _("Good: no interval lies wholly above the line: nobody is found more often than by chance."),
                key=f"frontier-tpr-{rate}",
            )  # fmt: skip


def _table(frontier: Frontier) -> None:
    """A row a model and attack; numbers with their intervals, those that decide nothing said to."""
    runs = {run.name for run in stored.runs(stored.home())}
    utility, last = _utility(frontier.utility), _("run")
    rows = []
    for point in frontier.points:
        numbers = [one for one in point.numbers if one.metric != "advantage" and one.fpr in (None, *frontier.rates)]
        whole = next((_said(one) for one in numbers if one.attack is None and one.metric == frontier.utility), None)
        for attack in frontier.attacks or [None]:
            row = {
                _("model"): point.model,
                _("epsilon spent"): _("without privacy") if point.spent is None else number(point.spent),
                utility: whole,
                _("attack"): attack,
                **{_named(one): _said(one) for one in numbers if one.attack == attack and attack is not None},
                last: links.address("privacy", run=point.run) if point.run in runs else None,
                _("sigma"): number(point.noise_multiplier) if point.noise_multiplier is not None else "–",
            }
            rows.append(row)
    frame = pd.DataFrame(rows)
    widths = {
        _("model"): 130,
        _("epsilon spent"): 116,
        utility: 164,
        _("attack"): 112,
        "AUC": 160,
        last: 46,
        _("sigma"): 50,
    }
    widths |= {_found(rate): 200 for rate in frontier.rates}
    st.dataframe(
        frame.loc[:, frame.notna().any()],
        hide_index=True,
        key="frontier-table",
        height=38 + 35 * min(len(rows), MOST),
        column_config={name: st.column_config.TextColumn(width=width) for name, width in widths.items()}
        | {last: st.column_config.LinkColumn(last, display_text=_("open"), width=widths[last])},
    )
    if any(
        one.status == "inconclusive" for point in frontier.points for one in point.numbers if one.fpr in frontier.rates
    ):
        st.caption(
            _(
                "A hollow mark, and “?” in the table: too few non-members for so small a rate; the number decides nothing."
            )
        )


def _utility(metric: str) -> str:
    return _("accuracy on test rows") if metric == "accuracy" else _("root mean squared error on test rows")


def _named(one: Number) -> str:
    """A membership number as a column: the area, or what is found at a rate."""
    if one.fpr is None:
        return "AUC"
    return _found(one.fpr)


def _found(rate: str) -> str:
    return _("found at {rate} false positives").format(rate=f"{100 * float(rate):g} %")


def _said(one: Number) -> str:
    doubt = {"info": "", "inconclusive": " ?"}.get(one.status, f" {status_sign(one.status)}")
    return f"{number(one.value)} ({show_interval(one.low, one.high)}){doubt}"
