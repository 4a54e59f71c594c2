"""What nobody means harm by, and what needs more than one input: corruptions by severity, a back door, a stolen copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from audit.numbers import show
from audit.report._evidence import DAMAGE
from audit.report._view import RunView
from audit.report._words import clean
from audit.run_folder import Evidence
from audit.stats.proportions import clopper_pearson
from dashboard.drawing import charts, evidence_charts, pictures
from dashboard.parts import stated
from dashboard.reading import evidence
from dashboard.reading.evidence import Piece
from dashboard.reading.measured import Number
from dashboard.words import _

MOST_CLASSES = 20
"""Triggers that are shown."""


def corruptions(view: RunView, model: str) -> None:
    """Accuracy by family and severity, and each corruption by itself."""
    problems: list[str] = []
    for piece in stated.pieces(view, model, "curve", "robustness.corruptions"):
        evidence.safely(view, piece, partial(_families, view, model, piece, problems=problems), problems)
    for piece in stated.pieces(view, model, "table", "robustness.corruptions"):
        evidence.safely(view, piece, partial(_each, piece), problems)
    stated.told(problems)


def _families(view: RunView, model: str, piece: Piece, stored: Evidence, problems: list[str]) -> None:
    """Families over severity, from what the model does with the same rows as they are: severity 0."""
    columns: dict[str, np.ndarray] = {
        name: np.asarray(stored.column(name)) for name in ("x", "y", "low", "high", "series") if name in stored.fields
    }
    n = 0
    own = [
        p
        for p in stated.pieces(view, model, "outcomes", "robustness.corruptions")
        if p.step == piece.step and p.name == "clean"
    ]
    for unharmed in own:
        if (rows := evidence.opened(view, unharmed, problems)) is not None and "series" in columns:
            n = len(rows)
            columns = _from_clean(columns, rows.column("value"))
    said = _("Good: flat lines close to the accuracy without corruption, at severity 0; 1 is what every camera or hand does, 5 is hardly "
             "readable. Bands are 95 % intervals.")  # fmt: skip
    charts.draw(
        evidence_charts.curve(columns, title=_("Accuracy by severity"), x_label=_("severity"), y_label=_("accuracy")),
        said + (f" n = {n:,}" if n else ""),
        key=f"stored-{piece.ref.path}",
    )


def _from_clean(columns: Mapping[str, np.ndarray], value: np.ndarray) -> dict[str, np.ndarray]:
    """The same lines, each from the accuracy of rows ``(N,)`` that nothing was done to."""
    right, n = int((value > 0.5).sum()), len(value)
    low, high = clopper_pearson(right, n)
    first = {"x": 0.0, "y": right / n, "low": low, "high": high}
    names = list(dict.fromkeys(columns["series"].tolist()))
    return {
        name: np.concatenate([np.asarray(names) if name == "series" else np.full(len(names), first[name]), values])
        for name, values in columns.items()
    }


def _each(piece: Piece, stored: Evidence) -> None:
    cells = list(_by_severity(stored))
    if not cells:
        return
    charts.draw(
        charts.heat(
            cells, title=_("Error rate by corruption and severity, the worst first"), row_title=_("corruption"), column_title=_("severity"),
            label=_("share answered wrongly"),
        ),
        _("Good: faint cells. A strong line is a corruption to train against, or to refuse inputs for."),
        key=f"corruptions-{piece.step}",
    )  # fmt: skip


def _by_severity(stored: Evidence) -> Iterator[tuple[str, str, float, str]]:
    levels = sorted(
        (name for name in stored.fields if name.startswith("severity_")), key=lambda name: int(name.split("_")[1])
    )
    if not levels:
        return
    table = np.stack([np.asarray(stored.column(name), dtype=float) for name in levels], axis=1)
    for at in np.argsort(table.mean(axis=1), kind="stable"):
        for name, accuracy in zip(levels, table[at].tolist(), strict=True):
            told = _("accuracy {value}").format(value=show(accuracy))
            yield clean(stored.ids[at]).replace("_", " "), name.removeprefix("severity_"), 1 - accuracy, told


# --- back door, theft --------------------------------------------------------------------------------------------


def others(view: RunView, model: str, found: Sequence[Number]) -> None:
    """Triggers of a back door, and the copy that a thief trains."""
    problems: list[str] = []
    for piece in stated.pieces(view, model, "attributions", "robustness.backdoor"):
        _triggers(view, piece, problems)
    good = _("Good: the line stays low for as many queries as anybody may ask.")
    for piece in stated.pieces(view, model, "curve", "robustness.extraction"):
        stated.stored_curve(view, piece, _("Fidelity of a stolen copy"), good, problems)
    stated.told(problems)
    for one in found:
        if one.check in ("robustness.backdoor", "robustness.extraction") and not one.dims and one.finding is not None:
            stated.status_line(view, one)


def _triggers(view: RunView, piece: Piece, problems: list[str]) -> None:
    """The smallest trigger found for each class."""
    if (stored := evidence.opened(view, piece, problems)) is None or stored.meta.get("input_kind") != "image":
        return
    st.markdown(f"**{_('Smallest trigger found for each class')}**")
    bounds: Mapping[str, Any] = stored.meta
    low, high = bounds.get("bounds") or (0.0, 1.0)
    try:
        tiles = [
            (clean(name), pictures.picture(stored.row(at)["x"], (low, high), 120))
            for at, name in enumerate(stored.ids[:MOST_CLASSES])
        ]
    except DAMAGE as error:
        problems.append(evidence.said(view, piece, error))
        return
    with st.container(horizontal=True):
        for name, png in tiles:
            st.image(png, caption=name, width=120)
    st.caption(
        _("Good: all of them are large. One that is much smaller than the others is how a planted back door looks.")
    )
