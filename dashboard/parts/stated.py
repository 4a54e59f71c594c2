"""What several pages of measured numbers say alike: a number with what judging made of it, a stored curve, damage."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from audit.numbers import show
from audit.report import _told
from audit.report._about import title_of
from audit.report._evidence import DAMAGE
from audit.report._view import RunView
from audit.run_folder import Evidence
from dashboard import links
from dashboard.drawing import charts, evidence_charts
from dashboard.parts.markdown import plain
from dashboard.reading import evidence
from dashboard.reading.evidence import Piece
from dashboard.reading.measured import Number
from dashboard.words import _, status_sign


def dot(number: Number, name: str, group: str = "") -> charts.Dot:
    """A measured number as a line of a chart."""
    return charts.Dot(name, group, number.value, number.low, number.high, number.told)


def pieces(view: RunView, model: str, kind: str, check: str) -> list[Piece]:
    """What the checks whose names begin so stored of a model."""
    return [piece for piece in evidence.pieces(view, kind, check) if piece.model == model]


def each(view: RunView, found: Sequence[Piece], draw: Callable[[Piece, Evidence], None], problems: list[str]) -> None:
    """Draw pieces of evidence; damage becomes a line among the problems, and the others still show."""
    for piece in found:
        evidence.safely(view, piece, partial(draw, piece), problems)


def cautions(found: Sequence[Number]) -> None:
    """What limits some numbers, each said once."""
    said = list(dict.fromkeys(_told.told(caution) for one in found for caution in one.cautions))
    if said:
        with st.expander(_("What limits these numbers ({n})").format(n=len(said))):
            st.html("".join(f"<p>{html.escape(caution)}</p>" for caution in said))


def adversary(one: Number) -> str:
    """What the adversary of a number knows, in two words; empty where nobody attacks."""
    if one.threat is None:
        return ""
    return {
        "white_box": _("white box"),
        "black_box_scores": _("sees scores"),
        "black_box_labels": _("sees labels only"),
        "training_data": _("holds training data"),
        "artefact": _("holds the model file"),
    }.get(one.threat.access, one.threat.access)


def told(problems: Sequence[str]) -> None:
    """Damage, a line each."""
    for problem in dict.fromkeys(problems):
        st.error(_("Cannot be shown: {problem}").format(problem=plain(problem)), icon=":material/broken_image:")


def status_line(view: RunView, one: Number) -> None:
    """A number in words with its status, what limits it, and the way to its finding."""
    status, finding = one.status, one.finding
    title = f", {_(finding.title)}" if finding and finding.title else ""
    text = _told.told(finding.message) if finding else f"{title_of(one.check, one.metric)} {show(one.value)}"
    items = "".join(f"<li>{html.escape(_told.told(caution))}</li>" for caution in one.cautions)
    said = (
        f'<p><span class="tone {status}">{html.escape(status_sign(status))}</span> <b>{html.escape(one.named)}</b>{html.escape(title)}: '
        f"{html.escape(text)}</p>" + (f'<ul class="listed">{items}</ul>' if items else "")
    )
    if finding is None or not links.offered("run"):
        st.html(said)
        return
    words, way = st.columns([5, 1], vertical_alignment="top")
    with words:
        st.html(said)
    with way:
        links.link(_("Open the finding"), "run", icon=":material/fact_check:", run=view.run.name, finding=finding.id)


def stored_curve(view: RunView, piece: Piece, title: str, good: str, problems: list[str]) -> None:
    """A stored curve as it is."""
    if (stored := evidence.opened(view, piece, problems)) is None:
        return
    try:
        columns = {name: stored.column(name) for name in stored.fields if name in ("x", "y", "low", "high", "series")}
        meta = stored.meta
        drawn = evidence_charts.curve(
            columns, title=title, x_label=_told.told(str(meta.get("x_label") or "x")), y_label=_told.told(str(meta.get("y_label") or "y")),
            x_scale=str(meta.get("x_scale", "linear")), y_scale=str(meta.get("y_scale", "linear")),
        )  # fmt: skip
    except DAMAGE as error:
        problems.append(evidence.said(view, piece, error))
        return
    charts.draw(drawn, good, key=f"stored-{piece.ref.path}")
