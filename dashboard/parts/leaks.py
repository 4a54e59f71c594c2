"""What else a model gives away: sensitive columns, reconstructions, texts that it remembers, personal data; each beside its control."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import streamlit as st

from audit.report._evidence import bounds_of
from audit.report._reconstructed import ReconstructedReader
from audit.report._told import told
from audit.report._view import RunView
from audit.report._words import clean
from audit.run_folder import Evidence
from dashboard import links
from dashboard.drawing import charts
from dashboard.parts import gallery, stated
from dashboard.parts.markdown import plain
from dashboard.parts.membership import blind
from dashboard.reading.evidence import Piece
from dashboard.reading.measured import Number
from dashboard.words import _

FAMILY = "privacy."


def _of(measured: Sequence[Number], check: str) -> list[Number]:
    return [one for one in measured if one.check == FAMILY + check]


def _pieces(view: RunView, model: str, kind: str, check: str) -> list[Piece]:
    return stated.pieces(view, model, kind, FAMILY + check)


# --- attributes --------------------------------------------------------------------------------------------------


def attributes(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """How well a sensitive column is guessed with the model beside imputing it without."""
    found, problems = _of(measured, "attribute_inference"), list[str]()
    blind(found)
    words = {"attack_accuracy": _("with the model"), "imputation_accuracy": _("without the model")}
    dots = [
        stated.dot(one, _rows_of(one), words[one.metric])
        for one in found
        if one.metric in words and not set(one.dims) - {"rows"}
    ]
    if dots:
        charts.draw(
            charts.dots(dots, title=_("Sensitive columns guessed right"), label=_("share of rows guessed right")),
            _("Good: both points of a line coincide: asking the model adds nothing to what the other columns tell anyhow."),
            key="guessed",
        )  # fmt: skip
    gained = [
        stated.dot(one, _rows_of(one), _told_metric(one))
        for one in found
        if one.metric in ("leak", "memorised") and not one.dims
    ]
    if gained:
        charts.draw(
            charts.dots(gained, title=_("Gained by asking the model"), label=_("share of rows"), share=False, around=0.0),
            _("Good: both intervals hold zero. A leak on members and on others alike is what the model learnt of the world; on members only "
              "it is memory."),
            key="gained",
        )  # fmt: skip
    good = _(
        "Good: both lines coincide at the left too, where the adversary is surest: no few records are given away wholly."
    )
    places = st.columns(2, gap="large")
    for at, piece in enumerate(_pieces(view, model, "curve", "attribute_inference")):
        name = ", ".join(f"{k} {v}" for k, v in piece.cell.items() if k != "model") or piece.step.removeprefix(FAMILY)
        title = _("Rows that the adversary is surest of: {entry}").format(entry=name)
        with places[at % 2]:
            stated.stored_curve(view, piece, title, good, problems)
    stated.told(problems)


def _rows_of(one: Number) -> str:
    rows = {"non_members": _("non-members")}.get(one.dims.get("rows", ""), _("members"))
    column = one.cell.get("column") or one.named
    return f"{column}, {rows}" if one.metric.endswith("accuracy") else column


def _told_metric(one: Number) -> str:
    return {"leak": _("on members"), "memorised": _("members minus others")}[one.metric]


# --- reconstructions ---------------------------------------------------------------------------------------------


def inversion(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """What the model is led to for each class, beside the mean of the class and the rows nearest to it."""
    found, problems = _of(measured, "model_inversion"), list[str]()
    blind(found)
    for one in found:
        if not one.dims and one.metric in ("member_auc", "nearest_is_member", "reached"):
            stated.status_line(view, one)
    gallery.style()

    def draw(piece: Piece, stored: Evidence) -> None:
        reader = ReconstructedReader(stored, bounds_of(view, stored, piece.step), 1)
        classes = list(stored.ids)
        name = links.select("class", _("Class"), classes)
        sample = reader.sample(classes.index(str(name)))
        st.markdown(f"**{plain(clean(sample.title))}**")
        for column, picture in zip(st.columns(4), sample.pictures, strict=False):
            with column:
                gallery.picture(base64.b64decode(picture.src.partition(",")[2]), picture.label)
        for drawing in sample.drawings:
            st.html(drawing)
        for listed in sample.lists:
            _bars(listed)
        st.caption(plain(clean("; ".join(sample.lines))))

    stated.each(view, _pieces(view, model, "reconstruction", "model_inversion"), draw, problems)
    stated.told(problems)
    st.caption(
        _("Good: the reconstruction looks like the mean of its class and is no nearer to members than to rows held out. One that shows a "
          "single person's picture is a leak.")
    )  # fmt: skip


def _bars(listed: Any) -> None:
    """Columns in which a reconstruction is furthest from the mean of its class."""
    import pandas as pd

    rows = [(clean(bar.feature), clean(bar.value), clean(bar.amount)) for bar in listed.bars]
    st.dataframe(pd.DataFrame(rows, columns=list(listed.header)), hide_index=True, key="columns", width="content")


# --- memorisation ------------------------------------------------------------------------------------------------


def memorisation(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """Canaries by exposure, snippets continued word for word, samples nearest to members; each beside its control."""
    found, problems = _of(measured, "memorisation"), list[str]()
    blind(found)
    _exposure(found)
    words = {"extractable": _("from training"), "extractable_held_out": _("held out (control)")}
    continued = [
        stated.dot(one, one.dims.get("prefix", _("all prefixes")), words[one.metric])
        for one in found
        if one.metric in words
    ]
    if continued:
        charts.draw(
            charts.dots(continued, title=_("Snippets continued word for word"), label=_("share of snippets")),
            _("Good: both points coincide: what the model says of its training it says of texts that it never saw."),
            key="continued",
        )
    near = [
        stated.dot(one, _(one.finding.title if one.finding else one.metric))
        for one in found
        if one.metric in ("member_excess", "copies") and not one.dims
    ]
    if near:
        charts.draw(
            charts.dots(near, title=_("Samples and their nearest members"), label=_("share beyond chance"), share=False, around=0.0),
            _("Good: intervals hold zero: samples are no nearer to members than to rows held out."),
            key="nearest",
        )  # fmt: skip
    _listing(view, model, "memorisation", "canaries", problems)
    stated.told(problems)
    stated.cautions(found)


def _exposure(found: Sequence[Number]) -> None:
    words = {"exposure": _("this model"), "reference_exposure": _("never saw it (control)")}
    exposed = [
        stated.dot(one, one.dims.get("canary", _("the most exposed")), words[one.metric])
        for one in found
        if one.metric in words
    ]
    if exposed:
        charts.draw(
            charts.dots(exposed, title=_("Exposure of canaries"), label=_("exposure (bits)"), share=False),
            _(
                "Good: near zero, and no larger than in a model that never saw the canary; each bit halves the guesses that a thief needs."
            ),
            key="exposure",
        )


def _listing(view: RunView, model: str, check: str, name: str, problems: list[str]) -> None:
    """A stored table as it is."""
    import pandas as pd

    def draw(piece: Piece, stored: Evidence) -> None:
        st.markdown(f"**{plain(told(clean(stored.meta.get('title', piece.name))))}**")
        columns = {
            name.replace("_", " "): stored.column(name) for name in stored.fields if stored.column(name).ndim == 1
        }
        st.dataframe(
            pd.DataFrame({_("name"): list(stored.ids), **columns}),
            hide_index=True,
            key=f"table-{piece.ref.path}",
            width="content",
        )

    stated.each(view, [p for p in _pieces(view, model, "table", check) if p.name == name], draw, problems)


# --- personal data -----------------------------------------------------------------------------------------------


def pii(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """Personal data found, by kind, masked; random digits that would have passed beside it."""
    found, problems = _of(measured, "pii"), list[str]()
    for one in found:
        if not one.dims and one.metric in ("found", "from_training"):
            stated.status_line(view, one)
    words = {"found": _("found"), "from_training": _("given back from training")}
    kinds = [
        stated.dot(one, one.dims["kind"].replace("_", " "), words[one.metric])
        for one in found
        if one.metric in words and set(one.dims) == {"kind"} and one.value
    ]
    if kinds:
        charts.draw(
            charts.dots(kinds, title=_("Personal data by kind"), label=_("different values"), share=False),
            _("Good: none at all."),
            key="kinds",
        )
    control = [
        stated.dot(one, one.dims["kind"].replace("_", " "))
        for one in found
        if one.metric == "chance" and "kind" in one.dims
    ]
    if control:
        charts.draw(
            charts.dots(
                control, title=_("Random digits that would pass (control)"), label=_("share of random numbers")
            ),
            _("Good: small: then a number that passes its check is one."),
            key="chance",
        )
    _listing(view, model, "pii", "found", problems)
    stated.told(problems)
    stated.cautions(found)
