"""What an attack costs: how far it is to the nearest mistake, and how many answers an adversary has to ask for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import streamlit as st

from audit.numbers import show
from audit.report._evidence import DAMAGE
from audit.report._view import RunView
from audit.report._words import clean
from audit.run_folder import Evidence, safe_name
from dashboard.drawing import charts, robustness
from dashboard.drawing.robustness import Spent, Spread
from dashboard.parts import stated
from dashboard.parts.success import attack_name, step_of
from dashboard.reading import evidence
from dashboard.reading.evidence import Examples, Piece
from dashboard.reading.measured import Number
from dashboard.words import _

SMALLEST = 30
"""Rows of the table of the smallest distances."""
MOST_CLASSES = 20
"""Classes of a chart: those whose rows are nearest to a mistake."""


def cost(view: RunView, model: str, found: Sequence[Number], series: Sequence[Examples]) -> None:
    """Minimal distances, then queries."""
    problems: list[str] = []
    for piece in stated.pieces(view, model, "table", "robustness.security_curve"):
        if piece.name == "distances":
            evidence.safely(view, piece, partial(_distances, piece, found), problems)
    _queries(view, found, series, problems)
    stated.told(problems)


# --- distances ---------------------------------------------------------------------------------------------------


def _distances(piece: Piece, found: Sequence[Number], stored: Evidence) -> None:
    distance, by = np.asarray(stored.column("distance"), dtype=float), stored.column("found_by").astype(str)
    seen = np.isfinite(distance) & (distance > 0)
    units = _(clean(stored.meta.get("units") or ""))
    norm = next((one.threat.norm for one in found if one.step == piece.step and one.threat is not None), None)
    if seen.any():
        label = _("minimal distance, {norm}").format(norm=norm or "")
        left, right = st.columns([3, 2], gap="large")
        with left:
            _all_rows(
                {name: distance[seen & (by == name)] for name in dict.fromkeys(by[seen].tolist())},
                piece,
                found,
                norm,
                label,
                units,
            )
        with right:
            _each_class(distance, stored.column("label"), piece, f"{label} ({units})" if units else label)
    wrong, unbroken = int((distance == 0).sum()), int(np.isinf(distance).sum())
    st.caption(
        _("{n} rows: {wrong} are wrong without any attack, {unbroken} were never broken.").format(
            n=f"{len(distance):,}", wrong=wrong, unbroken=unbroken
        )
    )
    _nearest(stored, piece, distance, by, seen)


def _all_rows(
    drawn: dict[str, np.ndarray], piece: Piece, found: Sequence[Number], norm: str | None, label: str, units: str
) -> None:
    median = next((one for one in found if one.step == piece.step and one.metric == "median_distance"), None)
    largest = max(float(values.max()) for values in drawn.values())
    audited = {
        one.threat.eps
        for one in found
        if one.check == "robustness.evasion" and one.threat is not None and one.threat.norm == norm and one.threat.eps is not None
    }  # fmt: skip
    said = [_("Good: the whole hill lies right of what an adversary may change, the dotted lines.")]
    if median is not None:
        said.append(
            _("The dashed line is the median, {value} ({told}).").format(value=show(median.value), told=median.told)
        )
    said.append(_("Each distance is a bound: a stronger attack may find a smaller one."))
    charts.draw(
        robustness.distances(
            drawn, sorted(eps for eps in audited if eps <= 1.1 * largest), median.value if median is not None else None,
            title=_("Smallest perturbation that breaks each row: {entry}").format(entry=piece.step.removeprefix("robustness.")),
            label=label, unit=units,
        ),
        " ".join(said),
        key=f"distances-{piece.step}",
    )  # fmt: skip


def _each_class(distance: np.ndarray, labels: np.ndarray, piece: Piece, label: str) -> None:
    """The classes side by side; a row that nothing broke lies as far as the furthest that was."""
    furthest = float(distance[np.isfinite(distance)].max())
    reached = np.minimum(distance, furthest)
    spreads = []
    for name in dict.fromkeys(labels.tolist()):
        own = reached[labels == name]
        low, middle, high = (float(v) for v in np.quantile(own, [0.25, 0.5, 0.75]))
        spreads.append(Spread(clean(str(name)), len(own), (float(own.min()), float(own.max())), (low, high), middle))
    spreads = sorted(spreads, key=lambda one: one.median)[:MOST_CLASSES]
    if len(spreads) < 2:
        return
    charts.draw(
        robustness.by_class(spreads, title=_("Distance by class, the nearest first"), label=label),
        _("Good: no class far left of the others. The thin line holds all rows of a class, the bar the middle half, the stroke is the median; "
          "0 is a row that is wrong without any attack."),
        key=f"by-class-{piece.step}",
    )  # fmt: skip


def _nearest(stored: Evidence, piece: Piece, distance: np.ndarray, by: np.ndarray, seen: np.ndarray) -> None:
    import pandas as pd

    order = np.flatnonzero(seen)[np.argsort(distance[seen], kind="stable")][:SMALLEST]
    with st.expander(_("The {n} rows with the smallest distances").format(n=len(order))):
        frame = pd.DataFrame(
            {
                _("row"): [stored.ids[i] for i in order],
                _("true class"): [str(stored.column("label")[i]) for i in order],
                _("distance"): distance[order],
                _("found by"): by[order],
            }
        )
        st.dataframe(
            frame, hide_index=True, key=f"smallest-{piece.step}", width="content",
            column_config={_("distance"): st.column_config.NumberColumn(format="%.4g")},
        )  # fmt: skip


# --- queries -----------------------------------------------------------------------------------------------------


def _queries(view: RunView, found: Sequence[Number], series: Sequence[Examples], problems: list[str]) -> None:
    spent = [one for one in found if one.metric == "queries"]
    if not spent:
        return
    charts.draw(
        charts.dots(
            [stated.dot(one, attack_name(one), one.named) for one in spent],
            title=_("Queries spent"), label=_("mean queries per attacked row"), share=False, log=True,
        ),
        _("Good: many, where an adversary has few. White-box attacks need few by nature; those that see answers only are the price "
          "that an outsider pays."),
        key="queries",
    )  # fmt: skip
    steps = list(dict.fromkeys(one.step for one in spent if any(_of(one.step, kept) for kept in series)))
    if steps:
        step = step_of(steps, _("Rows broken over queries, of"))
        _over_queries(view, found, step, [kept for kept in series if _of(step, kept)], problems)


def _of(step: str, one: Examples) -> bool:
    return one.piece.step == step and not one.by and "queries" in one.evidence.fields


def _over_queries(
    view: RunView, found: Sequence[Number], step: str, series: Sequence[Examples], problems: list[str]
) -> None:
    """How many rows an adversary has broken after so many queries; the stored rows stand for all that were broken."""
    rates = {
        safe_name(f"adversarial-{one.dims['attack']}"): one
        for one in found
        if one.step == step and one.metric == "attack_success" and set(one.dims) == {"attack"}
    }
    lines, cut = [], False
    for kept in series:
        rate = rates.get(kept.piece.name)
        if rate is None or rate.n is None:
            continue
        try:
            queries = np.asarray(kept.evidence.column("queries"), dtype=float).ravel()
        except DAMAGE as error:
            problems.append(evidence.said(view, kept.piece, error))
            continue
        cut |= len(queries) < round(rate.value * rate.n)
        lines.append(Spent(rate.dims["attack"], queries, rate.value / len(queries)))
    if not lines:
        return
    said = _("Good: lines that stay low as far as an adversary can ask; each ends at the attack's success.")
    if cut:
        said += " " + _("Not every broken row is stored: those that are stand for all.")
    charts.draw(
        robustness.over_queries(lines, title=_("Rows broken over queries: {step}").format(step=step.removeprefix("robustness."))),
        said,
        key="over-queries",
    )  # fmt: skip
