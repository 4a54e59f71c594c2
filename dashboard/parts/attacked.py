"""What attacks and corruptions made of single rows: a gallery, and of the chosen row the original, the change and the result."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from audit.numbers import show
from audit.parameters import UserError
from audit.report._evidence import DAMAGE, fields_of
from audit.report._images import planes
from audit.report._sample import named
from audit.report._table_changes import TableChanges
from audit.report._text_changes import Passage, passages, strangers
from audit.report._told import told
from audit.report._view import RunView
from audit.report._words import clean
from audit.text import decode
from dashboard import links
from dashboard.drawing import charts, evidence_charts, pictures
from dashboard.parts import choosing, explained
from dashboard.parts import gallery as tiles
from dashboard.parts.markdown import plain
from dashboard.reading import evidence
from dashboard.reading.evidence import Examples
from dashboard.reading.recalled import reference
from dashboard.words import _, ngettext


def gallery(view: RunView, series: Sequence[Examples]) -> None:
    """Choose a series, then a row of it; damage is a line that names the file."""
    tiles.style()
    known = {one.piece.ref.path: one for one in series}
    chosen = known[
        str(links.select("evidence", _("Attack or corruption"), list(known), lambda path: known[path].label))
    ]
    try:
        _series(view, chosen)
    except DAMAGE as error:
        st.error(
            _("Cannot be shown: {problem}").format(problem=evidence.said(view, chosen.piece, error)),
            icon=":material/broken_image:",
        )


def _series(view: RunView, one: Examples) -> None:
    classes = _classes(one)
    order = _filtered(one, classes)
    said, turning = st.columns([3, 1], vertical_alignment="bottom")
    stored = len(one.evidence)
    said.caption(
        ngettext("{n} of {all} stored row", "{n} of {all} stored rows", stored).format(
            n=f"{len(order):,}", all=f"{stored:,}"
        )
        + (_("; of attacks only rows that they break are stored") if not one.by else "")
    )
    if not order:
        st.info(_("No row is left: loosen the filters."))
        return
    with turning:
        number = choosing.leaf("tiles", -(-len(order) // tiles.TILES))
    asked = links.asked("sample")
    ids = one.evidence.ids
    chosen = ids.index(asked) if asked in ids else order[0]
    with st.container(horizontal=True, key="gallery", gap="small"):
        for at in order[(number - 1) * tiles.TILES : number * tiles.TILES]:
            row = one.evidence.row(at)
            png = None
            if _kind(one) == "image":
                png = pictures.picture(row["adversarial"], _bounds(one, row), pictures.SMALL)
            text = explained.preview({"x": row["adversarial"]}, _kind(one))
            tiles.tile(ids[at], _change(row, classes), png, text=text, chosen=at == chosen)
    _chosen(view, one, chosen, classes)


def _classes(one: Examples) -> list[str]:
    found = one.meta.get("classes")
    return [clean(name) for name in found] if isinstance(found, list) else []


def _kind(one: Examples) -> str:
    """How rows are drawn: as what they are, or as positions where they lie flat."""
    kind = str(one.meta.get("input_kind", ""))
    return kind if kind != "image" or one.evidence.cell(0, "x").ndim > 1 else "number"


def _bounds(one: Examples, row: dict[str, Any]) -> tuple[float, float]:
    return one.bounds or (float(np.nanmin(row["x"])), float(np.nanmax(row["x"])))


def _change(row: dict[str, Any], classes: Sequence[str]) -> str:
    before, after = (named(row.get(name), classes) for name in ("prediction", "adversarial_prediction"))
    return f"{before} → {after}"


def _filtered(one: Examples, classes: Sequence[str]) -> list[int]:
    """Rows by their true class and by what they were taken for; the smallest change first."""
    kept = np.ones(len(one.evidence), dtype=bool)
    columns = st.columns(2)
    for column, name, parameter, label, empty in (
        (columns[0], "label", "class", _("True class"), _("all classes")),
        (columns[1], "adversarial_prediction", "taken", _("Taken for"), _("any class")),
    ):
        if name not in one.evidence.fields or not classes:
            continue
        values = one.evidence.column(name).reshape(len(kept))
        present = {named(value, classes): value for value in np.unique(values)}
        with column:
            if (wanted := links.select(parameter, label, list(present), empty=empty)) is not None:
                kept &= values == present[wanted]
    found = np.flatnonzero(kept)
    if "size" in one.evidence.fields:
        found = found[np.argsort(np.asarray(one.evidence.column("size"), dtype=float)[found], kind="stable")]
    return [int(i) for i in found]


# --- one row -----------------------------------------------------------------------------------------------------


def _chosen(view: RunView, one: Examples, at: int, classes: Sequence[str]) -> None:
    row = one.evidence.row(at)
    label = named(row.get("label"), classes)
    after = row.get("adversarial_prediction")
    wrong = bool(classes) and "label" in row and int(row["label"]) != int(after if after is not None else -1)
    change = _change(row, classes)
    text = _("true {label}: {change}").format(label=label, change=change) if label else change
    st.html(f'<p class="chosen tone {"fail" if wrong else "info"}">{"✗ " if wrong else ""}{html.escape(text)}</p>')
    st.caption(_("row {row}").format(row=plain(one.evidence.ids[at])))
    example(one, at, fields_of(view, one.piece.step))
    run, sample = view.run.name, one.evidence.ids[at]
    if links.offered("saliency"):
        links.link(
            _("See what the explainers say of this sample"), "saliency", icon=":material/image_search:", run=run,
            model=links.asked("model"), sample=sample,
        )  # fmt: skip
    if links.offered("live"):
        links.link(
            _("Explain and attack it live"), "live", icon=":material/experiment:", run=run, sample=sample,
            model=reference(view.models.get(one.piece.model, {}), one.piece.model), evidence=one.piece.ref.path,
            side="adversarial",
        )  # fmt: skip


def example(one: Examples, at: int, fields: Sequence[Mapping[str, Any]]) -> None:
    """The original, the change and the result of a row, and what the change cost.

    Args:
        fields: of the model's input, as its spec has them.
    """
    row, classes = one.evidence.row(at), _classes(one)
    done = {"corruption": _("corrupted"), "counterfactual": _("changed")}.get(one.by, _("attacked"))
    before_said = _said(_("original"), row, "prediction", "confidence", classes)
    after_said = _said(done, row, "adversarial_prediction", "adversarial_confidence", classes)
    match _kind(one):
        case "image":
            _image(one, row, before_said, after_said)
        case "text":
            _text(row, before_said, after_said)
        case "series":
            _lines(one, row, before_said, after_said)
        case "table":
            _table(one, at, fields)
        case _:
            _positions(one, row)
    if _kind(one) != "image":
        tiles.facts(_facts(one, row))


def _said(what: str, row: dict[str, Any], answer: str, sure: str, classes: Sequence[str]) -> str:
    confidence = f" ({charts.percent(float(row[sure]))})" if sure in row else ""
    return f"{what}: {named(row.get(answer), classes)}{confidence}"


def _facts(one: Examples, row: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    units = told(str(one.meta.get("units") or ""))
    if "size" in row:
        size = charts.short(float(row["size"]), 4)
        norm = f" ({one.meta['norm']}{f', {units}' if units else ''})" if one.meta.get("norm") else f" {units}"
        found.append((_("size of the change"), f"{size}{norm}".rstrip()))
    if isinstance(one.meta.get("eps"), (int, float)):
        found.append(("eps", f"{show(float(one.meta['eps']))} {units}".rstrip()))
    if "queries" in row:
        found.append((_("queries spent"), f"{int(row['queries']):,}"))
    return found


def _image(one: Examples, row: dict[str, Any], before: str, after: str) -> None:
    x, adversarial, bounds = row["x"], row["adversarial"], _bounds(one, row)
    change, largest = pictures.magnified(x, adversarial)
    factor = (bounds[1] - bounds[0]) / 2 / largest if largest else 1.0
    drawn = (
        (before, pictures.picture(x, bounds)),
        (_("change, × {factor}").format(factor=charts.short(factor)), change),
        (after, pictures.picture(adversarial, bounds)),
    )
    *columns, beside = st.columns(4)
    for column, (caption, png) in zip(columns, drawn, strict=True):
        with column:
            tiles.picture(png, caption)
    with beside:
        st.html('<figure class="pixels"><figcaption></figcaption></figure>')
        tiles.facts(_facts(one, row))
    if planes(x).ndim == 2:
        st.caption(_("Of the change, blue is darker, orange is brighter, and white is nothing; its ends are the largest change, {largest}.").format(
            largest=charts.short(largest)
        ))  # fmt: skip


def _text(row: dict[str, Any], before: str, after: str) -> None:
    sides = passages(decode(row["x"]), decode(row["adversarial"]), (before, after))
    for column, side in zip(st.columns(2, gap="large"), sides, strict=True):
        with column:
            st.html(f"<h4>{html.escape(side.label)}</h4>{_passage(side)}")
    for stranger in strangers(sides[1]):
        st.caption(plain(stranger))


def _passage(side: Passage) -> str:
    pieces = "".join(
        f'<mark title="{html.escape(piece.said)}">{html.escape(piece.text)}</mark>'
        if piece.marked
        else html.escape(piece.text)
        for piece in side.pieces
    )
    return f'<p class="passage">{pieces}</p>'


def _lines(one: Examples, row: dict[str, Any], before: str, after: str) -> None:
    first, second = (np.atleast_2d(np.asarray(row[name], dtype=float)) for name in ("x", "adversarial"))
    first, second = (part.reshape(-1, part.shape[-1]) for part in (first, second))
    order = np.argsort(-np.abs(second - first).sum(axis=1), kind="stable")[: explained.MOST_CHANNELS]
    steps = np.arange(first.shape[1])
    units = told(str(one.meta.get("units") or ""))
    for channel in sorted(order.tolist()):
        which = "" if len(first) == 1 else _(", channel {n}").format(n=channel)
        columns = {
            "x": np.concatenate([steps, steps]),
            "y": np.concatenate([first[channel], second[channel]]),
            "series": [before] * len(steps) + [after] * len(steps),
        }
        charts.draw(
            evidence_charts.curve(
                columns, title=_("Before and after{which}").format(which=which), x_label=_("step"),
                y_label=_("value ({units})").format(units=units) if units else _("value"),
            ),
            _("Good: the difference is plain to see; an attack that nobody would notice is the worse one."),
            key=f"lines-{channel}",
        )  # fmt: skip


def _table(one: Examples, at: int, fields: Sequence[Mapping[str, Any]]) -> None:
    import pandas as pd

    changes = TableChanges(one.evidence, fields)
    rows = [(change.column, change.text, change.amount) for change in changes.of(at)]
    frame = pd.DataFrame(rows, columns=[_("column"), _("before → after"), _("change")])
    st.dataframe(frame, hide_index=True, key="changes", width="content")
    summary = changes.summary() if len(one.evidence) > 1 else []
    if summary:
        header = [_("column"), _("changed in"), _("smallest change"), _("median change"), _("largest change")]
        with st.expander(_("What was changed in all stored rows")):
            st.dataframe(pd.DataFrame(summary, columns=header), hide_index=True, key="all-changes")


def _positions(one: Examples, row: dict[str, Any]) -> None:
    import pandas as pd

    before, after = (np.ravel(row[name]).astype(float) for name in ("x", "adversarial"))
    if before.shape != after.shape:
        raise UserError(f"evidence {one.piece.ref.path}: rows before and after are of different lengths")
    order = [int(i) for i in np.argsort(-np.abs(after - before), kind="stable") if before[i] != after[i]]
    frame = pd.DataFrame(
        {
            _("position"): order,
            _("before"): before[order],
            _("after"): after[order],
            _("change"): (after - before)[order],
        }
    )
    st.dataframe(frame, hide_index=True, key="positions", width="content")
